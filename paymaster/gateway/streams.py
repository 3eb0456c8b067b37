"""Answers that workers hand on to this gateway while they come: its internal listener, and who waits for what.

A worker posts one stream for one caller. It is read no faster than the caller takes it, so that a slow one holds up its
own stream only: behind it stands TCP, and at its other end the worker, which loses patience after a while.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Self

import uvicorn
from starlette.types import Receive, Scope, Send

from paymaster.gateway.connections import bounded, bounds_of_workers
from paymaster.gateway.listening import Server, bound_socket, check_certificate, url_of
from paymaster.gateway.measured import open_stream
from paymaster.keys.api_key import KeyUnavailable, ServiceKeys
from paymaster.live.frames import BadFrame, Complete, Failed, Frame, FrameReader, Head, Piece
from paymaster.live.pushes import STREAMS_PATH
from paymaster.live.signing import PROOF_HEADER, is_worker, signed
from paymaster.messages.streams import StreamTo
from paymaster.settings.gateway_streams import GatewayStreamsSettings

LIVES_MS = 60 * 60 * 1000
"""How long after a caller has asked a worker may begin to stream to him."""
HELD_BYTES_MAX = 64 * 1024
"""Of one stream, that its caller has not taken; with more its worker's connection is read no further."""
SILENT_FOR_S = 5.0
"""After its call has ended, a stream that says nothing for so long is broken: its worker went without a word."""
_NO_CONTENT, _NOT_FOUND, _CONFLICT, _BAD_REQUEST = 204, 404, 409, 400
logger = logging.getLogger(__name__)


class Opened:
    """One caller's place, to which a worker may send one answer."""

    def __init__(self, stream_to: StreamTo | None) -> None:
        """`stream_to` None: this gateway takes none."""
        self.stream_to = stream_to
        self.ended: Complete | Failed | None = None
        """How the stream ended. None: it goes on, or broke."""
        self.another_began = asyncio.Event()
        """A further attempt of the call has an answer, of which this caller gets nothing."""
        self._head = asyncio.get_running_loop().create_future()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._is_over = False
        self._is_left = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._last_news_at = 0.0

    async def head(self) -> Head:
        """How the answer begins, when it does."""
        return await asyncio.shield(self._head)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The answer as it comes, with all that is there in one piece. `ended` says how."""
        while True:
            if self._held:
                data = self._held[0] if len(self._held) == 1 else b"".join(self._held)
                self._held, self._held_bytes = [], 0
                self._room.set()
                yield data
            elif self._is_over:
                return
            else:
                self._news.clear()
                await self._news.wait()

    def call_has_ended(self) -> None:
        """From now on the stream does not stay silent for long: its last piece is on its way, or will never come."""
        waits_s = self._last_news_at + SILENT_FOR_S - time.monotonic()
        if self._is_over or self._is_left:
            return
        if waits_s <= 0 and not self._held:
            self.close()
        else:
            asyncio.get_running_loop().call_later(max(waits_s, 0.1), self.call_has_ended)

    # ---------------------------------------------------- for the listener

    @property
    def has_begun(self) -> bool:
        return self._head.done()

    @property
    def is_left(self) -> bool:
        """Whether nobody waits any more."""
        return self._is_left

    async def take(self, frame: Frame) -> None:
        """Waits while the caller is behind."""
        self._last_news_at = time.monotonic()
        match frame:
            case Head():
                if not self._head.done():
                    self._head.set_result(frame)
            case Piece():
                self._held.append(frame.data)
                self._held_bytes += len(frame.data)
                self._news.set()
                while self._held_bytes > HELD_BYTES_MAX and not self._is_left:
                    self._room.clear()
                    await self._room.wait()
            case Complete() | Failed():
                self.ended = frame

    def close(self) -> None:
        """Nothing more comes."""
        self._is_over = True
        self._news.set()

    def leave(self) -> None:
        """The caller has all that he wants."""
        self._is_left = True
        self._room.set()
        self._head.cancel()


class Streams:
    """The streams that callers of this gateway wait for."""

    def __init__(self, settings: GatewayStreamsSettings, keys: ServiceKeys) -> None:
        self._settings = settings
        self._keys = keys
        self._waiting: dict[str, Opened] = {}
        """By token."""
        self._listener: _Listener | None = None
        self._address = ""

    async def __aenter__(self) -> Self:
        """Listens, where there is a secret, and logs why streams do not come token by token. Raises ConfigurationError
        and OSError."""
        if self._settings.secret_key is None:
            logger.warning(
                "streams are given to callers when they are complete; with gateway.streams.secret_key they come token "
                "by token"
            )
            return self
        self._listener = _Listener(self._settings, self.serve)
        await self._listener.start()
        self._address = self._settings.address or self._listener.url
        await self._secret()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._listener is not None:
            await self._listener.stop()

    @contextlib.asynccontextmanager
    async def opened(self, call_id: str, *, keeps: bool = False) -> AsyncGenerator[Opened]:
        """A place for the answer of this call, for as long as the block lasts. `keeps`: the caller may come back."""
        secret = await self._secret() if self._listener is not None else None
        if secret is None or len(self._waiting) >= self._settings.at_once:
            yield Opened(None)
            return
        token = secrets.token_urlsafe(32)
        expires_at_ms = int(time.time() * 1000) + LIVES_MS
        opened = Opened(
            signed(
                secret,
                address=self._address,
                token=token,
                call_id=call_id,
                expires_at_ms=expires_at_ms,
                keeps=keeps,
            )
        )
        self._waiting[token] = opened
        try:
            with open_stream():
                yield opened
        finally:
            del self._waiting[token]
            opened.leave()

    async def _secret(self) -> str | None:
        assert self._settings.secret_key is not None  # there is a listener
        try:
            return (await self._keys.get(self._settings.secret_key)).reveal()
        except KeyUnavailable as error:
            logger.error("streams are given to callers when they are complete: %s", error)
            return None

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One stream of a worker, as an ASGI application."""
        if scope["type"] != "http":
            return
        opened = await self._waiting_for(scope)
        if opened is None:
            status = _NOT_FOUND
        elif opened.has_begun:
            opened.another_began.set()
            status = _CONFLICT
        else:
            status = await _taken(opened, receive)
        headers = [(b"content-length", b"0"), *([(b"connection", b"close")] if status != _NO_CONTENT else [])]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def _waiting_for(self, scope: Scope) -> Opened | None:
        """Who waits for this stream, if it is a worker's."""
        path, token = scope["path"], scope["path"].removeprefix(STREAMS_PATH)
        proof = next((value for name, value in scope["headers"] if name == PROOF_HEADER.encode()), b"")
        opened = self._waiting.get(token)
        if scope["method"] != "POST" or path == token or opened is None:
            return None
        secret = await self._secret()
        return opened if secret is not None and is_worker(proof.decode("latin-1"), secret, token) else None


async def _taken(opened: Opened, receive: Receive) -> int:
    """The status for a worker whose stream has been read to its end, or as far as somebody wanted it."""
    reader, is_first = FrameReader(), True
    try:
        while not opened.is_left:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            for frame in reader.read(message.get("body", b"")):
                if is_first and (opened.has_begun or not isinstance(frame, Head)):
                    return _CONFLICT
                is_first = False
                await opened.take(frame)
            if not message.get("more_body", False):
                return _NO_CONTENT
    except BadFrame as error:
        logger.warning("a worker's stream cannot be read: %s", error)
        return _BAD_REQUEST
    finally:
        if not is_first:
            opened.close()
    return _NOT_FOUND


class _Listener:
    """The HTTP server for workers."""

    def __init__(self, settings: GatewayStreamsSettings, app: object) -> None:
        """Raises ConfigurationError for a certificate that cannot be used."""
        self._settings = settings
        config = uvicorn.Config(
            app,  # pyright: ignore[reportArgumentType] - Starlette's types of ASGI, which are plain dicts
            interface="asgi3",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=1,
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
        )
        check_certificate(config, "gateway.streams")
        self._server = Server(config, bounded(bounds_of_workers(settings)))
        self._serving: asyncio.Task[None] | None = None
        self.url = ""

    async def start(self) -> None:
        """Raises OSError, which names the setting."""
        listener = bound_socket(self._settings.listen, "gateway.streams.listen")
        listener.listen(self._server.config.backlog)  # the address is given out before the server has begun
        self.url = url_of(listener, self._settings.tls_certificate)
        self._serving = asyncio.create_task(self._server.serve([listener]))

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving
