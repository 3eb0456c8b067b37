"""Temporal over TLS, with client certificates and with an API key, by its standard environment configuration."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from counting_server import CountingServer
from hpack import Decoder
from paymaster_process import Databases, configuration, running_site, settled_books

from paymaster import LLMRequest
from paymaster.cli.connection import connect_temporal
from paymaster.cli.exits import CommandError
from paymaster.client import connect, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.settings import Settings

pytestmark = pytest.mark.timeout(120)
API_KEY = "temporal-api-key-for-tests-0123456789"


class Certificates:
    """An authority of our own, a certificate of the server for 127.0.0.1, and one of a client; as files."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.ca, self.other_ca = folder / "ca.pem", folder / "other-ca.pem"
        self.client_cert, self.client_key = folder / "client.pem", folder / "client-key.pem"
        self.authority.cert_pem.write_to_path(self.ca)
        trustme.CA().cert_pem.write_to_path(self.other_ca)
        client = self.authority.issue_cert("worker@example.com")
        client.cert_chain_pems[0].write_to_path(self.client_cert)
        client.private_key_pem.write_to_path(self.client_key)

    def server(self, *, wants_client: bool) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["h2"])
        self.authority.issue_cert("127.0.0.1").configure_cert(context)
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            self.authority.configure_trust(context)
        return context

    def environment(self, *names: str) -> dict[str, str]:
        files = {"SERVER_CA": self.ca, "CLIENT": self.client_cert}
        variables = {f"TEMPORAL_TLS_{name}_CERT_PATH": str(files[name]) for name in names}
        if "CLIENT" in names:
            variables["TEMPORAL_TLS_CLIENT_KEY_PATH"] = str(self.client_key)
        return variables | {"TEMPORAL_TLS": "true"}


class TlsProxy:
    """Ends TLS in front of a Temporal that speaks none, as a load balancer does, and looks at what arrives."""

    def __init__(self) -> None:
        self.subjects: list[Any] = []
        """Of the clients' certificates; None for a client without one."""
        self.headers: list[tuple[str, str]] = []
        """Of every request."""
        self.address = ""

    @asynccontextmanager
    async def running(self, backend: str, tls: ssl.SSLContext) -> AsyncGenerator["TlsProxy"]:
        host, port = backend.split(":")
        connections: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            certificate = writer.get_extra_info("peercert")
            self.subjects.append(certificate.get("subjectAltName") if certificate else None)
            to_server: asyncio.StreamWriter | None = None
            try:
                from_server, to_server = await asyncio.open_connection(host, int(port))
                requests = _Requests(self.headers)
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pump(reader, to_server, requests.feed))
                    group.create_task(_pump(from_server, writer))
            except* (OSError, asyncio.CancelledError):
                pass
            finally:
                writer.close()
                if to_server is not None:
                    to_server.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in connections:
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, look: Callable[[bytes], None] | None = None
) -> None:
    while data := await reader.read(65_536):
        if look is not None:
            look(data)
        writer.write(data)
        await writer.drain()
    with suppress(OSError, RuntimeError):
        writer.close()


class _Requests:
    """Reads the headers out of what an HTTP/2 client sends."""

    PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

    def __init__(self, headers: list[tuple[str, str]]) -> None:
        self._headers = headers
        self._decoder = Decoder()
        self._data = b""
        self._begun = False

    def feed(self, data: bytes) -> None:
        self._data += data
        if not self._begun and len(self._data) >= len(self.PREFACE):
            self._data = self._data.removeprefix(self.PREFACE)
            self._begun = True
        while self._begun and len(self._data) >= 9:
            length, kind, flags = int.from_bytes(self._data[:3]), self._data[3], self._data[4]
            if len(self._data) < 9 + length:
                return
            frame, self._data = self._data[9 : 9 + length], self._data[9 + length :]
            if kind == 1:  # HEADERS; the SDK's client neither pads nor continues them
                block = frame[5:] if flags & 0x20 else frame
                self._headers += [(str(name), str(value)) for name, value in self._decoder.decode(block)]


@pytest.fixture(scope="module")
def certificates(module_folder: Path) -> Certificates:
    return Certificates(module_folder)


@pytest.fixture
async def with_client_certificates(stack: EmbeddedStack, certificates: Certificates) -> AsyncIterator[TlsProxy]:
    async with TlsProxy().running(stack.temporal_address, certificates.server(wants_client=True)) as proxy:
        yield proxy


@pytest.fixture
async def with_tls(stack: EmbeddedStack, certificates: Certificates) -> AsyncIterator[TlsProxy]:
    async with TlsProxy().running(stack.temporal_address, certificates.server(wants_client=False)) as proxy:
        yield proxy


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Nothing of the user's own Temporal configuration."""
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "temporal.toml"))
    (tmp_path / "temporal.toml").touch()
    return monkeypatch


def set_all(environment: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)


async def test_worker_and_commands_reach_temporal_with_a_client_certificate(
    stack: EmbeddedStack,
    databases: Databases,
    server: CountingServer,
    module_folder: Path,
    certificates: Certificates,
    with_client_certificates: TlsProxy,
) -> None:
    """The worker by variables, the command by a profile in a file; all that they send goes through the proxy."""
    service = server.service("over-tls")
    tables = configuration([service], budgets={"acme": {"cap_usd": {"total": "1"}}})
    proxy = with_client_certificates
    async with running_site(
        stack.temporal_address, await databases.create(), module_folder / "site", tables, workers=0
    ) as site:
        plain = dict(site.environment)
        site.environment |= certificates.environment("SERVER_CA", "CLIENT") | {"TEMPORAL_ADDRESS": proxy.address}
        await site.start_workers()
        result = await try_generate(site.client, LLMRequest(route="over-tls", budget="acme", prompt="Say hello"))
        assert result.text == "answer to Say hello"
        await settled_books(site, service)
        assert set(proxy.subjects) == {(("email", "worker@example.com"),)}
        assert (":path", "/temporal.api.workflowservice.v1.WorkflowService/PollWorkflowTaskQueue") in proxy.headers

        profile = module_folder / "temporal.toml"
        profile.write_text(
            f'[profile.cloud]\naddress = "{proxy.address}"\nnamespace = "{site.namespace}"\n'
            f'tls = {{ server_ca_cert_path = "{certificates.ca}", client_cert_path = "{certificates.client_cert}", '
            f'client_key_path = "{certificates.client_key}" }}\n'
        )
        without_temporal = {name: value for name, value in plain.items() if not name.startswith("TEMPORAL_")}
        site.environment = without_temporal | {"TEMPORAL_CONFIG_FILE": str(profile), "TEMPORAL_PROFILE": "cloud"}
        shown = await site.command("budget", "show")
        assert shown.code == 0, shown
        assert "budget:acme" in shown.output


async def test_who_has_no_client_certificate_is_refused(
    certificates: Certificates, with_client_certificates: TlsProxy, environment: pytest.MonkeyPatch
) -> None:
    set_all(environment, certificates.environment("SERVER_CA") | {"TEMPORAL_ADDRESS": with_client_certificates.address})
    with pytest.raises(CommandError, match="TEMPORAL_TLS_CLIENT_CERT_PATH"):
        await connect_temporal(Settings())
    assert with_client_certificates.headers == []


async def test_a_server_whose_certificate_is_not_trusted_gets_nothing(
    certificates: Certificates, with_tls: TlsProxy, environment: pytest.MonkeyPatch
) -> None:
    """Signed by somebody else, or for another host; and the command says which address it was, and why."""
    variables = certificates.environment("SERVER_CA") | {
        "TEMPORAL_ADDRESS": with_tls.address,
        "TEMPORAL_API_KEY": API_KEY,
    }
    for wrong, problem in (
        ({"TEMPORAL_TLS_SERVER_CA_CERT_PATH": str(certificates.other_ca)}, "UnknownIssuer"),
        ({"TEMPORAL_TLS_SERVER_NAME": "temporal.example.com"}, "NotValidForName"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            set_all(patch, variables | wrong)
            with pytest.raises(CommandError, match=with_tls.address) as refused:
                await connect_temporal(Settings())
            assert f"its certificate is not trusted: {problem}" in str(refused.value)
            assert "TEMPORAL_TLS_SERVER_CA_CERT_PATH" in str(refused.value)
            assert API_KEY not in str(refused.value)
    assert with_tls.headers == []


async def test_an_api_key_goes_with_every_request_and_only_over_tls(
    certificates: Certificates, with_tls: TlsProxy, environment: pytest.MonkeyPatch
) -> None:
    """A key alone turns TLS on: so it is with Temporal Cloud."""
    variables = certificates.environment("SERVER_CA") | {"TEMPORAL_ADDRESS": with_tls.address}
    del variables["TEMPORAL_TLS"]
    set_all(environment, variables | {"TEMPORAL_API_KEY": API_KEY, "TEMPORAL_NAMESPACE": "default"})
    client = await connect(Settings())
    await client.count_workflows()
    requests = with_tls.headers.count((":method", "POST"))
    assert requests >= 2
    assert with_tls.headers.count(("authorization", f"Bearer {API_KEY}")) == requests
    assert ("temporal-namespace", "default") in with_tls.headers
