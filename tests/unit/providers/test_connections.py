"""Connections to services: TLS is verified, a key goes to its own service alone, and proxies are the usual ones."""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from wire import GRANT, ask
from wire_answers import ANSWERS

from activities.call_service import CallServiceActivities
from paymaster.keys.api_key import EnvironmentKeys
from paymaster.keys.cache import KeyCache
from paymaster.ledger.group_commit import GroupCommit
from paymaster.messages import AttemptReport, Billing, Completion, Failure, ServiceCall
from paymaster.providers.connections import IDLE_MAX_S, Connections
from paymaster.providers.tls import tls_context
from paymaster.settings import ConfigurationError, ServiceSettings

KEY = "sk-live-of-one-service-0123456789"
KEYS = {"PAYMASTER_KEY_A_KEY": KEY}
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
OTHER_HOST = "service.example.com"


class Listener:
    """Answers every request on loopback, over TLS or without, and keeps what arrived. As a proxy it opens tunnels."""

    def __init__(self, raw: bytes = b"", *, tunnel_to: "Listener | None" = None) -> None:
        self.raw = raw
        self.arrived: list[bytes] = []
        self.port = 0
        self._tunnel_to = tunnel_to

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncGenerator["Listener"]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.arrived.append(head)
            if self._tunnel_to is not None and head.startswith(b"CONNECT"):
                await self._tunnel(self._tunnel_to.port, reader, writer)
                return
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self.arrived[-1] += await reader.readexactly(int(length[15:]))
            writer.write(self.raw)
        writer.close()

    async def _tunnel(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await source.read(65_536):
                    self.arrived[-1] += data
                    target.write(data)
                target.close()

        await asyncio.gather(pump(reader, to_server), pump(from_server, writer))


def answer() -> bytes:
    body = json.dumps(ANSWERS["openai"][0]).encode()
    return ANSWER % (len(body), body)


async def call(**service: Any) -> Completion | Failure:
    """One call of a service that wants a key."""
    services = {"a": ServiceSettings.model_validate({"api": "openai", "key": "a-key", "stream": False} | service)}
    connections = Connections(services)
    keys = KeyCache(EnvironmentKeys(KEYS), refresh_after=timedelta(hours=1), keep_in_outage=timedelta(hours=1))
    environment = ActivityEnvironment()
    reports = GroupCommit[AttemptReport, None](took_reports, size_of=lambda _: 0)
    hold_id = f"{environment.info.workflow_run_id}/1"
    grant = GRANT.model_copy(update={"hold_id": hold_id, "service": "a"})
    try:
        return await environment.run(
            CallServiceActivities(services, keys, connections, reports).call_service,
            ServiceCall(grant=grant, request=ask()),
        )
    except ApplicationError as error:
        return Failure.model_validate(error.details[0])
    finally:
        await connections.close()
        await keys.close()


async def took_reports(reports: Any) -> Any:
    return [None] * len(reports)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def certificate(authority: trustme.CA, host: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host).configure_cert(context)
    return context


# ---------------------------------------------------------------- TLS


async def test_a_certificate_of_ones_own_authority_is_trusted_by_its_bundle_and_by_nothing_else(
    authority: trustme.CA, bundle: Path
) -> None:
    async with Listener(answer()).listening(certificate(authority, "127.0.0.1")) as server:
        url = f"https://127.0.0.1:{server.port}/v1"
        refused = await call(base_url=url)
        assert isinstance(refused, Failure)
        assert refused.reason == "not_connected"
        assert "certificate verify failed" in refused.detail
        assert server.arrived == []
        assert isinstance(await call(base_url=url, ca_bundle=bundle), Completion)
        assert KEY.encode() in server.arrived[0]


async def test_a_certificate_for_another_host_is_refused(authority: trustme.CA, bundle: Path) -> None:
    async with Listener(answer()).listening(certificate(authority, OTHER_HOST)) as server:
        refused = await call(base_url=f"https://127.0.0.1:{server.port}/v1", ca_bundle=bundle)
        assert isinstance(refused, Failure)
        assert refused.attempts[-1].billing is Billing.NOT_BILLED
        assert server.arrived == []


def test_the_bundle_is_trusted_besides_the_usual_authorities(bundle: Path) -> None:
    usual = tls_context("a", None)
    assert len(usual.get_ca_certs()) > 10
    assert len(tls_context("a", bundle).get_ca_certs()) == len(usual.get_ca_certs()) + 1
    assert usual.verify_mode is ssl.CERT_REQUIRED
    assert usual.check_hostname


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_bundle_that_cannot_be_used_is_refused_at_start_with_its_place(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"services\.a\.ca_bundle: .*ca\.pem cannot be used.*PEM file"):
        Connections({"a": ServiceSettings(api="openai", base_url="https://example.com", ca_bundle=file)})


# ---------------------------------------------------------------- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_so_that_the_key_goes_nowhere_else(status: int) -> None:
    """Also not one to the same host: only the configured address is the service."""
    async with Listener(answer()).listening() as elsewhere, Listener().listening() as server:
        for target in (f"http://localhost:{elsewhere.port}/v1", f"http://127.0.0.1:{server.port}/v2", "//[::1]/v1"):
            server.arrived.clear()
            head = f"HTTP/1.1 {status} Moved\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n"
            server.raw = head.encode()
            failure = await call(base_url=f"http://127.0.0.1:{server.port}/v1")
            assert isinstance(failure, Failure)
            assert f"HTTP {status}" in failure.detail
            assert failure.attempts[-1].billing is Billing.NOT_BILLED
            assert len(server.arrived) == 1
        assert elsewhere.arrived == []


# ---------------------------------------------------------------- proxies


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_a_proxy_of_the_usual_variables_is_used_and_sees_no_key(
    variable: str, authority: trustme.CA, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It only carries the TLS connection to the service, whose certificate is verified all the same."""
    async with (
        Listener(answer()).listening(certificate(authority, OTHER_HOST)) as server,
        Listener(tunnel_to=server).listening() as proxy,
    ):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        assert isinstance(await call(base_url=f"https://{OTHER_HOST}/v1", ca_bundle=bundle), Completion)
        assert proxy.arrived[0].startswith(f"CONNECT {OTHER_HOST}:443 ".encode())
        assert KEY.encode() in server.arrived[0]
        assert KEY.encode() not in proxy.arrived[0]
        refused = await call(base_url=f"https://{OTHER_HOST}/v1")
        assert isinstance(refused, Failure)
        assert len(server.arrived) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_what_is_for_this_machine_goes_to_no_proxy(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """http:// is accepted for it because nothing leaves the machine: through a proxy the key would, unencrypted."""
    async with Listener(answer()).listening() as server, Listener(answer()).listening() as proxy:
        for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(variable.lower(), f"http://127.0.0.1:{proxy.port}")
        assert isinstance(await call(base_url=f"http://{host}:{server.port}/v1"), Completion)
        assert proxy.arrived == []


async def test_an_idle_connection_is_not_used_for_long() -> None:
    """A server that closes it at that moment would leave a request of which nobody knows what became."""
    arrived: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.append(0)
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                arrived[-1] += 1
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        connections = Connections({"one": ServiceSettings(api="openai", base_url=f"http://127.0.0.1:{port}/v1")})
        for idle_s in (0.0, IDLE_MAX_S + 0.05, 0.0):
            await connections["one"].get(f"http://127.0.0.1:{port}/v1")
            await asyncio.sleep(idle_s)
        await connections.close()
    assert arrived == [2, 1]


async def test_what_was_never_sent_is_not_billed() -> None:
    """Also when what is raised is an error that nobody foresaw: a host that is no name."""
    failure = await call(base_url="https://xn--.invalid/v1")
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.unknown, failure.fall_back) == ("defect", False, True)
    assert [attempt.billing for attempt in failure.attempts] == [Billing.NOT_BILLED]
    assert "nothing was sent: IDNAError" in failure.detail
