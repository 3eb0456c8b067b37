"""An identity provider on loopback: publishes its keys as a JWKS and signs tokens as the real ones do."""

import asyncio
import json
import time
from types import TracebackType
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from jwt.api_jws import PyJWS
from loopback_server import LoopbackServer

ISSUER = "https://login.acme.example/tenant/v2.0"
AUDIENCE = "api://paymaster"


class IdentityProvider:
    """`async with IdentityProvider() as provider:`; `settings` is its `[gateway.jwt]`."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: tuple[int, bytes] | None = None
        """Instead of the keys: a status and a body."""
        self.private: dict[str, Any] = {"rsa-1": _rsa(), "ec-1": ec.generate_private_key(ec.SECP256R1())}
        """By their ids. A key that is added is published from then on."""
        self._server = LoopbackServer(self._serve_one)

    async def __aenter__(self) -> Self:
        await self._server.listen()
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._server.refuse()

    async def be_down(self) -> None:
        """From now on connections are refused, until `be_up`."""
        await self._server.refuse()

    async def be_up(self) -> None:
        await self._server.listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}/keys"

    def settings(self, budget: str = "acme/{team}/{sub}", **more: object) -> dict[str, object]:
        return {"issuer": ISSUER, "audience": [AUDIENCE], "jwks_url": self.url, "budget": budget, **more}

    def rotate(self, kid: str) -> None:
        """A new key of this id, beside the others."""
        self.private[kid] = _rsa()

    def claims(self, **claims: object) -> dict[str, object]:
        """Those of a good token, with these instead of its own; None takes one out."""
        now = int(time.time())
        usual = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "u-17",
            "team": "tides",
            "exp": now + 600,
            "nbf": now,
            "iat": now,
        }
        return {name: value for name, value in (usual | claims).items() if value is not None}

    def token(self, *, kid: str = "rsa-1", headers: dict[str, Any] | None = None, **claims: object) -> str:
        """A token that is signed by the key of this id."""
        algorithm = "ES256" if isinstance(self.private[kid], ec.EllipticCurvePrivateKey) else "RS256"
        named = {"kid": kid, **(headers or {})}
        # Not by `jwt.encode`, which signs no claim that is wrong.
        content = json.dumps(self.claims(**claims)).encode()
        return PyJWS().encode(content, self.private[kid], algorithm=algorithm, headers=named)

    def jwks(self) -> dict[str, Any]:
        return {"keys": [{**public_jwk(key), "kid": kid, "use": "sig"} for kid, key in self.private.items()]}

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        status, body = self.answer or (200, json.dumps(self.jwks()).encode())
        writer.write(f"HTTP/1.1 {status} .\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        return False


def public_jwk(key: Any) -> dict[str, Any]:
    """The public half of a private key."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)


def _rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
