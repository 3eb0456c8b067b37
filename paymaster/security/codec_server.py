"""The codec server: the Temporal UI and the Temporal CLI ask it to decrypt, and it does so for anyone with the token.

It speaks Temporal's codec protocol: POST /decode and /encode with `{"payloads": [...]}` as protobuf's JSON, answered
alike. Programs send the token as `Authorization: Bearer …`. A browser signs in once at `/`, where the token becomes a
cookie that scripts cannot read, and the UI sends that ("include cross-origin credentials"); only pages of the
configured origins get anything. The UI's own access token is the user's at an identity provider: it means nothing here.
"""

import hmac
import json
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from hashlib import sha256
from typing import cast
from urllib.parse import urlsplit

from aiohttp import web
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.converter import PayloadCodec

from paymaster.keys.api_key import ApiKey
from paymaster.security.composition import ComposedCodec
from paymaster.security.encryption import PayloadEncryption
from paymaster.security.payloads import REASON, without_compression

BODY_BYTES_MAX = 16 * 1024 * 1024
"""A history event has at most 2 MiB of payloads, a third more in base64; a page of the UI may ask for several."""
SIGN_IN_BYTES_MAX = 4_096
"""Of the form with the token, which anybody may send."""
TOKEN_CHARACTERS_MIN = 16
"""A shorter token could be guessed: nothing slows down who tries."""
SIGNED_IN_FOR_S = 12 * 3600
_COOKIE = "paymaster_codec"
_ALLOWED_HEADERS = "authorization, authorization-extras, content-type, x-namespace"
_SIGN_IN = """<!doctype html><meta charset="utf-8"><title>Paymaster codec server</title>
<style>body{{font:16px system-ui;margin:4em auto;max-width:32em}}input{{width:100%;margin:.5em 0;padding:.4em}}</style>
<h1>Codec server</h1><p>{said}</p>
<form method="post" action="sign-in">
<label>Token <input type="password" name="token" autocomplete="off" autofocus></label>
<button>Sign in</button>
</form>
"""
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def codec_application(
    encryption: PayloadEncryption, token: ApiKey, origins: Iterable[str], team: PayloadCodec | None = None
) -> web.Application:
    """The server's application. `origins`: the pages that may ask, such as "https://temporal.example.com". `team`: the
    team's own codec. Default: there is none."""
    server = _CodecServer(ComposedCodec(encryption, team), token, frozenset(origins))
    application = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[server.guard])
    application.add_routes(
        [
            web.get("/", server.show_sign_in),
            web.post("/sign-in", server.sign_in),
            web.post("/decode", server.decode),
            web.post("/encode", server.encode),
            web.options("/decode", server.preflight),
            web.options("/encode", server.preflight),
        ]
    )
    return application


class _CodecServer:
    def __init__(self, codec: ComposedCodec, token: ApiKey, origins: frozenset[str]) -> None:
        self._codec = codec
        self._token = token
        self._origins = origins

    @web.middleware
    async def guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Lets pages of other origins nowhere, and tells browsers what the allowed ones may do."""
        origin = request.headers.get("Origin")
        signs_in_here = request.path == "/sign-in" and urlsplit(origin or "").netloc == request.host
        if origin is not None and origin not in self._origins and not signs_in_here:
            return web.Response(
                status=403, text=f"{origin} may not ask this codec server; [codec] origins says who may\n"
            )
        try:
            response = await handler(request)
        except web.HTTPException as error:  # an answer too, which a page may read only with the headers
            self._permit(error.headers, origin)
            raise
        self._permit(response.headers, origin)
        return response

    def _permit(self, headers: MutableMapping[str, str], origin: str | None) -> None:
        headers.update({"Cache-Control": "no-store", "Vary": "Origin", "X-Content-Type-Options": "nosniff"})
        if origin is not None and origin in self._origins:
            headers.update({"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true"})

    async def preflight(self, request: web.Request) -> web.Response:
        """What a browser asks before the request itself; it carries no token yet."""
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": "POST",
                "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
                "Access-Control-Max-Age": "600",
            },
        )

    async def decode(self, request: web.Request) -> web.Response:
        """The payloads decrypted; in the place of one that cannot be, the reason, as a text that the UI shows."""
        payloads = await self._payloads(request)
        return _answer([_shown(payload) for payload in await self._codec.decode(payloads)])

    async def encode(self, request: web.Request) -> web.Response:
        """The payloads encrypted, for what somebody sends from the UI."""
        return _answer(await self._codec.encode(await self._payloads(request)))

    async def show_sign_in(self, request: web.Request) -> web.Response:
        said = "You are signed in." if self._signed_in(request) else "The token lets this browser decrypt payloads."
        return _page(said)

    async def sign_in(self, request: web.Request) -> web.Response:
        if request.content_type != "application/x-www-form-urlencoded" or (
            request.content_length is None or request.content_length > SIGN_IN_BYTES_MAX
        ):
            raise web.HTTPBadRequest(text="send the form of this page\n")
        form = await request.post()
        if not self._is_token(str(form.get("token", ""))):
            return _page("That is not the token.", status=401)
        response = _page("You are signed in. The Temporal UI can decrypt now, once it includes credentials.")
        ends = str(int(time.time()) + SIGNED_IN_FOR_S)
        # A page of another site gets a cookie only with SameSite=None, which browsers want to be secure.
        secure = request.headers.get("X-Forwarded-Proto", request.scheme) == "https"
        response.set_cookie(
            _COOKIE,
            f"{ends}.{self._signature(ends)}",
            max_age=SIGNED_IN_FOR_S,
            httponly=True,
            secure=secure,
            samesite="None" if secure else "Lax",
        )
        return response

    async def _payloads(self, request: web.Request) -> list[Payload]:
        """Raises HTTPUnauthorized before anything of the body is read, HTTPBadRequest when it is none of Temporal's."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not (scheme.lower() == "bearer" and self._is_token(token.strip())) and not self._signed_in(request):
            raise web.HTTPUnauthorized(
                headers={"WWW-Authenticate": "Bearer"},
                text=f"send the token as a bearer token, or sign in at {request.scheme}://{request.host}/\n",
            )
        try:
            body: object = await request.json()
            if not isinstance(body, dict):
                raise TypeError
            read = ParseDict(cast(dict[str, object], body), Payloads(), ignore_unknown_fields=True)
            return list(read.payloads)
        # protobuf's parser lets Python's own errors through; LookupError: a charset that does not exist.
        except (ParseError, TypeError, AttributeError, ValueError, LookupError, RecursionError):
            raise web.HTTPBadRequest(text='not {"payloads": [...]} in JSON\n') from None

    def _is_token(self, given: str) -> bool:
        # Hashes have one length, so that the time of comparing them tells nothing, not even the token's length.
        return hmac.compare_digest(_hash(given), _hash(self._token.reveal()))

    def _signed_in(self, request: web.Request) -> bool:
        ends, _, signature = request.cookies.get(_COOKIE, "").partition(".")
        known = hmac.compare_digest(signature.encode(errors="replace"), self._signature(ends).encode())
        return known and time.time() < int(ends)

    def _signature(self, ends: str) -> str:
        return hmac.digest(
            self._token.reveal().encode(), f"signed in until {ends}".encode(errors="replace"), sha256
        ).hex()


def _shown(payload: Payload) -> Payload:
    """The payload as the UI can show it; in place of one that could not be decoded the reason, as a text."""
    if REASON not in payload.metadata:
        try:
            return without_compression(payload)
        except ValueError:
            return payload
    reason = payload.data.decode(errors="replace")
    return Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(f"cannot be decrypted: {reason}").encode())


def _hash(text: str) -> bytes:
    return sha256(text.encode(errors="replace")).digest()


def _answer(payloads: Iterable[Payload]) -> web.Response:
    return web.json_response(MessageToDict(Payloads(payloads=payloads)))


def _page(said: str, status: int = 200) -> web.Response:
    # No page may show this one in a frame and have its visitor click there.
    policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    return web.Response(
        status=status,
        text=_SIGN_IN.format(said=said),
        content_type="text/html",
        headers={"Content-Security-Policy": policy},
    )
