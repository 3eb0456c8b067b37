"""Azure Key Vault and Entra ID's sign-in for tests: the REST protocols over TLS on loopback, in a thread of its own.

Secrets with versions, the bearer challenge, tokens for client secrets; and on demand it is slow, full, broken or down.
Paths, codes and bodies are those of https://learn.microsoft.com/rest/api/keyvault/secrets/get-secret and of OAuth 2.0's
client credentials flow.
"""

import asyncio
import json
import ssl
import threading
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import trustme
from loopback_server import LoopbackServer

TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT_ID = "66666666-7777-8888-9999-000000000000"
CLIENT_SECRET = "vault-client-SENTINEL~0123456789"
VAULT_RESOURCE = "https://vault.azure.net"


@dataclass
class Version:
    value: Any
    version: str
    enabled: bool
    created: int
    expires: int | None = None


@dataclass(frozen=True)
class Fault:
    """What one request gets instead of its answer."""

    status: int = 500
    code: str = "InternalError"
    inner: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes | None = None
    """Instead of an error in the vault's form."""
    cut: bool = False
    """The connection is closed instead of an answer."""


Answer = tuple[int, Mapping[str, str], bytes]


class KeyVaultServer:
    """`with KeyVaultServer(folder) as vault:` runs it; the certificate of its authority is `vault.ca_bundle`."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca_bundle = folder / "vault-ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_bundle))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(tls)
        self._server = LoopbackServer(self._serve_one, tls)
        self.resource = VAULT_RESOURCE
        """What its challenge asks for a token for."""
        self.faults: deque[Fault] = deque()
        """What the next questions for a secret get, once they are signed in."""
        self.sign_in_faults: deque[Fault] = deque()
        self.fault: Fault | None = None
        """What every question gets after those."""
        self.gets = 0
        """Questions for a secret, with a token or without."""
        self.sign_ins = 0
        self.scopes: list[str] = []
        """What tokens were asked for."""
        self.token_seconds = 3_600
        self.allowed = True
        """Whether this identity may read secrets."""
        self._secrets: dict[str, list[Version]] = {}
        self._tokens: dict[str, str] = {}
        self._held: asyncio.Event | None = None
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="key vault")

    def __enter__(self) -> Self:
        self._thread.start()
        self._loop, self._stop = self._started.result(timeout=10)
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.port}"

    def tables(self) -> dict[str, dict[str, object]]:
        """`[keys]` and `[azure]` of a configuration that uses it."""
        return {
            "keys": {"source": "azure-key-vault", "vault_url": self.url, "verify_challenge_resource": False},
            "azure": {
                "credential": "client-secret",
                "tenant_id": TENANT,
                "client_id": CLIENT_ID,
                "client_secret": CLIENT_SECRET,
                "authority": self.url,
                "ca_bundle": str(self.ca_bundle),
            },
        }

    # ------------------------------------------------------------ what a test does with it

    def set(self, name: str, value: Any, *, enabled: bool = True, expires: int | None = None) -> str:
        """A new version of the secret, which is the newest one; its name."""
        version = Version(value, uuid4().hex, enabled, int(time.time()), expires)
        self._secrets.setdefault(name, []).append(version)
        return version.version

    def disable(self, name: str) -> None:
        """Its newest version."""
        self._secrets[name][-1].enabled = False

    def delete(self, name: str) -> None:
        del self._secrets[name]

    def revoke_tokens(self) -> None:
        """The tokens that were given are not accepted any more."""
        self._tokens.clear()

    def hold(self) -> None:
        """From now on questions for secrets hang."""
        self._do(self._set_held(asyncio.Event()))

    def release(self) -> None:
        """Those that hang get their answer, and those that come later do not hang."""
        self._do(self._set_held(None))

    def go_down(self) -> None:
        """Connections are ended and refused."""
        self._do(self._server.refuse())

    def come_up(self) -> None:
        self._do(self._server.listen())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _set_held(self, held: asyncio.Event | None) -> None:
        if self._held is not None:
            self._held.set()
        self._held = held

    # ------------------------------------------------------------ the server

    async def _run(self) -> None:
        stop = asyncio.Event()
        await self._server.listen()
        self._started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        await self._server.refuse()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        url = urlsplit(target)
        parts = url.path.strip("/").split("/")
        answer: Answer | None
        if method == "POST" and parts[1:] == ["oauth2", "v2.0", "token"]:
            answer = self._sign_in(parts[0], {name: values[0] for name, values in parse_qs(body.decode()).items()})
        elif method == "GET" and parts[0] == "secrets" and "api-version=" in url.query:
            answer = await self._secret(parts[1], parts[2] if len(parts) > 2 else "", headers.get("authorization", ""))
        else:
            answer = _error(404, "NotFound")
        if answer is None:
            return False
        status, more, content = answer
        lines = [f"HTTP/1.1 {status} status", f"content-length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in ({"content-type": "application/json"} | dict(more)).items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        await writer.drain()
        return True

    def _sign_in(self, tenant: str, form: Mapping[str, str]) -> Answer | None:
        self.sign_ins += 1
        self.scopes.append(form.get("scope", ""))
        if self.sign_in_faults:
            return _faulty(self.sign_in_faults.popleft())
        if tenant != TENANT:
            return _sign_in_error(400, "invalid_request", "AADSTS90002: Tenant not found.")
        if form.get("client_id") != CLIENT_ID:
            return _sign_in_error(400, "unauthorized_client", "AADSTS700016: Application not found.")
        if form.get("client_secret") != CLIENT_SECRET:
            words = f"AADSTS7000215: Invalid client secret provided: {form.get('client_secret')}"  # as no real one does
            return _sign_in_error(401, "invalid_client", words)
        token = f"token-SENTINEL-{uuid4().hex}"
        self._tokens[token] = form.get("scope", "")
        said = {"token_type": "Bearer", "expires_in": self.token_seconds, "access_token": token}
        return 200, {}, json.dumps(said).encode()

    async def _secret(self, name: str, version: str, authorization: str) -> Answer | None:
        self.gets += 1
        if self._tokens.get(authorization.removeprefix("Bearer ")) != f"{self.resource}/.default":
            challenge = f'Bearer authorization="{self.url}/{TENANT}", resource="{self.resource}"'
            return _error(401, "Unauthorized", headers={"www-authenticate": challenge})
        versions = list(self._secrets.get(name, []))
        if self._held is not None:
            await self._held.wait()
        fault = self.faults.popleft() if self.faults else self.fault
        if fault is not None:
            return _faulty(fault)
        if not self.allowed:
            return _error(403, "Forbidden", "ForbiddenByRbac")
        found = next((each for each in reversed(versions) if version in ("", each.version)), None)
        if found is None:
            return _error(404, "SecretNotFound")
        if not found.enabled:
            return _error(403, "Forbidden", "SecretDisabled")
        attributes = {"enabled": True, "created": found.created, "updated": found.created, "exp": found.expires}
        document = {
            "value": found.value,
            "id": f"{self.url}/secrets/{name}/{found.version}",
            "attributes": {name: value for name, value in attributes.items() if value is not None},
        }
        return 200, {}, json.dumps(document).encode()


def _error(status: int, code: str, inner: str | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    said: dict[str, object] = {"code": code, "message": f"SENTINEL: {code}"}
    if inner is not None:
        said["innererror"] = {"code": inner}
    return status, headers or {}, json.dumps({"error": said}).encode()


def _faulty(fault: Fault) -> Answer | None:
    if fault.cut:
        return None
    if fault.body is not None:
        return fault.status, fault.headers, fault.body
    return _error(fault.status, fault.code, fault.inner, fault.headers)


def _sign_in_error(status: int, error: str, description: str) -> Answer:
    return status, {}, json.dumps({"error": error, "error_description": description}).encode()
