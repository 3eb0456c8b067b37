"""Google's token endpoint on loopback: gives tokens to one service account, who signs for them, and to nobody else."""

import asyncio
import json
from base64 import b64encode, urlsafe_b64decode
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from loopback_server import LoopbackServer

ACCOUNT = "paymaster@acme.iam.gserviceaccount.com"


class GoogleTokenServer:
    """`async with GoogleTokenServer() as google:`; `google.file` is the service account's, in base64."""

    def __init__(self) -> None:
        self.asked = 0
        self.lasts_s = 3_600
        self.answer: tuple[int, bytes] | None = None
        """Instead of a token: a status and a body."""
        self._server = LoopbackServer(self._serve_one)
        self._key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)

    async def __aenter__(self) -> Self:
        await self._server.listen()
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._server.refuse()

    @property
    def account(self) -> dict[str, str]:
        """What the service account's file holds."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        uri = f"http://127.0.0.1:{self._server.port}/token"
        named = {"type": "service_account", "project_id": "acme", "client_email": ACCOUNT, "token_uri": uri}
        return named | {"private_key_id": "1", "private_key": pem.decode()}

    @property
    def file(self) -> str:
        return b64encode(json.dumps(self.account).encode()).decode()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:"))
        form = parse_qs((await reader.readexactly(length)).decode())
        self.asked += 1
        found = {"access_token": f"ya29.token-{self.asked}", "expires_in": self.lasts_s, "token_type": "Bearer"}
        status, body = self.answer or (200, json.dumps(found).encode())
        if not self._is_signed(form["assertion"][0]):
            status, body = 401, b'{"error": "invalid_grant"}'
        kind = "content-type: application/json\r\nconnection: close"
        writer.write(f"HTTP/1.1 {status} x\r\n{kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        return False

    def _is_signed(self, assertion: str) -> bool:
        signed, _, signature = assertion.rpartition(".")
        said: dict[str, Any] = json.loads(_decoded(signed.split(".")[1]))
        try:
            self._key.public_key().verify(_decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return False
        return said["iss"] == ACCOUNT and said["scope"] == "https://www.googleapis.com/auth/cloud-platform"


def _decoded(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))
