"""Slow, idle and hostile clients before a listening gateway: raw sockets on loopback, without Temporal."""

import asyncio
import json
import os
import resource
import ssl
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from bounded_server import certificate
from paymaster_process import until
from temporalio.client import Client

from paymaster.gateway import listening, reading, serving
from paymaster.gateway.serving import run_gateway
from paymaster.settings import ConfigurationError, Settings

KEY = "gw-0123456789abcdef"
IDLE_CLIENTS = Path(__file__).parents[2] / "support/idle_clients.py"
QUICK = {"headers_within": "300ms", "body_within": "300ms", "idle_timeout": "1s", "header_bytes_max": 4096}
ROOM_FOR_ONE = {"body_bytes_max": 100_000, "bodies_bytes_max": 200_000, "body_within": "1h"}
"""Large body. With 781 bytes it is one."""
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + KEY.encode() + b"\r\n"


@asynccontextmanager
async def gateway(monkeypatch: pytest.MonkeyPatch, **table: Any) -> AsyncGenerator[str]:
    """Its URL."""

    async def connected(*ignored: object, **also: object) -> Client:
        return await Client.connect("127.0.0.1:1", lazy=True)

    monkeypatch.setattr(serving, "connect", connected)
    clients = {"tester": {"key_sha256": sha256(KEY.encode()).hexdigest(), "budget": "acme"}}
    settings = Settings.model_validate({"gateway": {"address": "127.0.0.1:0", "clients": clients, **QUICK, **table}})
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    running = asyncio.create_task(run_gateway(settings, stop, on_ready=ready.set_result))
    await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()
    try:
        yield ready.result()
    finally:
        stop.set()
        await running


class Caller:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def of(cls, url: str) -> "Caller":
        host, _, port = url.rpartition("/")[2].rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def rest(self) -> bytes:
        """All that comes until the gateway ends the connection."""
        try:
            async with asyncio.timeout(10):
                return await self.reader.read()
        except ConnectionResetError:
            return b""
        finally:
            self.writer.close()


@pytest.fixture
def soft_limit_kept() -> Iterator[None]:
    """That of open files, after the test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


async def serves(url: str) -> bool:
    async with httpx.AsyncClient() as http:
        return (await http.get(f"{url}/v1/models", headers={"x-api-key": KEY})).status_code == 200


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat", b"\r\n\r\n", CHAT, CHAT + b"x-slow: 1"])
async def test_whoever_sends_no_headers_is_left(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """Also one that sends a byte now and then, and one that sends none."""
    async with gateway(monkeypatch) as url:
        caller = await Caller.of(url)
        caller.send(sent)
        answer = await caller.rest()
        assert answer.startswith(b"HTTP/1.1 408") if sent else answer == b""
        assert await serves(url)


async def test_headers_byte_by_byte_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway(monkeypatch) as url:
        caller = await Caller.of(url)
        caller.send(CHAT + b"x-slow: ")

        async def drips() -> None:
            while True:
                caller.send(b"x")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drips())
        answer = await caller.rest()  # which is lost where a byte comes behind the end
        dripping.cancel()
        assert not answer or answer.startswith(b"HTTP/1.1 408")


async def test_headers_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway(monkeypatch) as url:
        caller = await Caller.of(url)
        caller.send(CHAT + b"x-long: " + b"x" * 8192)
        assert (await caller.rest()).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize("endless", [b"x-sum: 1\r\n", b"x"])
async def test_trailers_without_end_are_not_read(monkeypatch: pytest.MonkeyPatch, endless: bytes) -> None:
    """Headers behind a body: of many small ones the process would hold fifteen times their bytes."""
    async with gateway(monkeypatch, body_within="1h") as url:
        chunked = CHAT + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
        usual, hostile = await Caller.of(url), await Caller.of(url)
        usual.send(chunked + b"x-sum: 1\r\n\r\n")
        assert b"bad_body" in await usual.rest()
        hostile.send(chunked)
        for _ in range(20):
            hostile.send(endless * (100_000 // len(endless)))
        assert await hostile.rest() == b""
        assert await serves(url)


async def test_a_slow_body_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway(monkeypatch) as url:
        caller = await Caller.of(url)
        caller.send(CHAT + b'content-length: 100\r\n\r\n{"model": ')
        head, _, body = (await caller.rest()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408")
        assert b"connection: close" in head
        assert "did not come within 300ms" in json.loads(body)["error"]["message"]


async def test_a_body_that_goes_on_behind_its_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection ends, and the refusal has arrived."""
    async with gateway(monkeypatch, body_bytes_max=1000) as url:
        caller = await Caller.of(url)
        caller.send(CHAT + b"content-length: 100000\r\n\r\n" + b"x" * 500)
        assert (await caller.rest()).startswith(b"HTTP/1.1 413")


async def test_bodies_wait_for_room_and_small_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that finds none is refused in words; one that comes in pieces is not read beyond the room there is."""
    monkeypatch.setattr(reading, "ROOM_WITHIN_S", 0.3)
    monkeypatch.setattr(reading, "PACE_S", 60.0)
    async with gateway(monkeypatch, **ROOM_FOR_ONE) as url:
        large = CHAT + b"content-length: 100000\r\n\r\n"
        holds = await Caller.of(url)
        holds.send(large + b"x" * 90_000)
        assert await serves(url)
        refused, in_pieces, small = [await Caller.of(url) for _ in range(3)]
        refused.send(large + b"x" * 100_000)
        in_pieces.send(CHAT + b"transfer-encoding: chunked\r\n\r\n2000\r\n" + b"x" * 0x2000 + b"\r\n0\r\n\r\n")
        small.send(CHAT + b'connection: close\r\ncontent-length: 19\r\n\r\n{"model": "writer"}')
        assert b"temporal_unreachable" in await small.rest()
        for caller in (refused, in_pieces):
            head, _, body = (await caller.rest()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 2" in head
            assert b"200,000 bytes that the gateway has for requests' bodies" in body
        waits = await Caller.of(url)
        monkeypatch.setattr(reading, "ROOM_WITHIN_S", 60)
        waits.send(CHAT + b"connection: close\r\ncontent-length: 100000\r\n\r\n" + b"x" * 100_000)
        assert await serves(url)
        holds.writer.close()
        assert b"temporal_unreachable" not in (answer := await waits.rest())
        assert b"bad_body" in answer


async def test_to_announce_a_large_body_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does its beginning, more than it has bytes."""
    monkeypatch.setattr(reading, "ROOM_WITHIN_S", 0.3)
    async with gateway(monkeypatch, **ROOM_FOR_ONE) as url:
        announced = [await Caller.of(url) for _ in range(6)]
        for caller in announced:
            caller.send(CHAT + b"content-length: 100000\r\n\r\n" + b"x" * 500)
        assert await serves(url)
        large = await Caller.of(url)
        large.send(CHAT + b"connection: close\r\ncontent-length: 100000\r\n\r\n" + b"x" * 100_000)
        assert b"bad_body" in await large.rest()
        for caller in announced:
            caller.writer.close()


async def test_a_large_body_that_stalls_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PACE_S", 0.5)
    monkeypatch.setattr(reading, "ROOM_WITHIN_S", 60)
    async with gateway(monkeypatch, **ROOM_FOR_ONE) as url:
        stalls, waits = await Caller.of(url), await Caller.of(url)
        stalls.send(CHAT + b"content-length: 100000\r\n\r\n" + b"x" * 90_000)
        assert await serves(url)
        waits.send(CHAT + b"connection: close\r\ncontent-length: 100000\r\n\r\n" + b"x" * 100_000)
        answered = asyncio.create_task(waits.rest())
        head, _, body = (await stalls.rest()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408")
        assert b"less than 64 KB a second" in body
        assert b"bad_body" in await answered


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/9.9\r\n\r\n",
        CHAT + b"content-length: 5\r\ncontent-length: 6\r\n\r\n{}",
        CHAT + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n{}",
        CHAT + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        CHAT + b"x-a : 1\r\n\r\n",
        CHAT + b"x-a: 1\x00\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """No two parsers could read it as two different requests."""
    async with gateway(monkeypatch) as url:
        caller = await Caller.of(url)
        caller.send(sent)
        assert (await caller.rest()).startswith(b"HTTP/1.1 400")
        assert await serves(url)


async def test_idle_connections_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that has been idle for the longest time is closed for a new one, and whoever asks is served."""
    async with gateway(monkeypatch, connections_max=3, headers_within="1h", idle_timeout="1h") as url:
        idle = [await Caller.of(url) for _ in range(20)]
        assert await serves(url)
        ended = await asyncio.gather(*(caller.rest() for caller in idle[:10]))
        assert ended == [b""] * 10
        for caller in idle[10:]:
            caller.writer.close()


@asynccontextmanager
async def idle_clients(url: str, count: int) -> AsyncGenerator[None]:
    """So many connections of another process, on which nothing is said."""
    program = [sys.executable, str(IDLE_CLIENTS), url.rpartition(":")[2], str(count)]
    process = await asyncio.create_subprocess_exec(*program, stdin=PIPE, stdout=PIPE)
    assert process.stdout is not None
    try:
        assert int(await process.stdout.readline()) == count
        yield
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.full)])
async def test_idle_connections_are_in_nobodys_way(
    monkeypatch: pytest.MonkeyPatch, soft_limit_kept: None, count: int
) -> None:
    async with gateway(monkeypatch, connections_max=count + 100, headers_within="1h") as url:
        before = open_files()
        async with idle_clients(url, count):
            assert await serves(url)
            assert open_files() - before >= count


async def test_a_kept_connection_ends_when_it_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway(monkeypatch) as url:
        caller = await Caller.of(url)
        caller.send(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-api-key: " + KEY.encode() + b"\r\n\r\n")
        assert (await caller.rest()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "path", [b"/v1/models/../../v1/models", b"/v1//models", b"//v1/models", b"/v1/models?key=1", b"/%2e%2e/v1/models"]
)
async def test_tricks_with_paths_lead_nowhere(monkeypatch: pytest.MonkeyPatch, path: bytes) -> None:
    async with gateway(monkeypatch) as url:
        caller = await Caller.of(url)
        caller.send(
            b"GET " + path + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: " + KEY.encode() + b"\r\n\r\n"
        )
        status = (await caller.rest()).split(b" ")[1]
        assert status in (b"400", b"404")


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_it_speaks_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also where others hold all connections that it may have, in handshakes that they do not go on with."""
    of_gateway = certificate(tmp_path)
    files = {"tls_certificate": of_gateway.file, "tls_key": of_gateway.key}
    async with gateway(monkeypatch, connections_max=3, headers_within="1h", **files) as url:
        assert url.startswith("https://")
        strangers = [await Caller.of(url) for _ in range(20)]
        for stranger in strangers:
            stranger.send(b"\x16\x03\x01\x02\x00\x01")
        async with httpx.AsyncClient(verify=of_gateway.trusting) as http:
            assert (await http.get(f"{url}/v1/models", headers={"x-api-key": KEY})).status_code == 200
        ended = await asyncio.gather(*(stranger.rest() for stranger in strangers[:10]))
        assert ended == [b""] * 10
        for stranger in strangers[10:]:
            stranger.writer.close()


async def test_a_renewed_certificate_is_in_use_without_a_restart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Connections that are open stay; one that does not fit its key changes nothing."""
    monkeypatch.setattr(listening, "RENEWED_WITHIN_S", 0.1)
    old, new = trustme.CA(), trustme.CA()
    file, key = tmp_path / "tls.crt", tmp_path / "tls.key"

    def issue(authority: trustme.CA) -> None:
        issued = authority.issue_cert("127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(file)
        issued.private_key_pem.write_to_path(key)

    issue(old)
    url_path, headers = "/v1/models", {"x-api-key": KEY}
    async with gateway(monkeypatch, tls_certificate=file, tls_key=key, idle_timeout="1h") as url:

        async def is_spoken_to(authority: trustme.CA) -> bool:
            try:
                async with httpx.AsyncClient(verify=trusting(authority)) as http:
                    return (await http.get(f"{url}{url_path}", headers=headers)).status_code == 200
            except httpx.ConnectError:
                return False

        async with httpx.AsyncClient(verify=trusting(old), limits=httpx.Limits(max_connections=1)) as kept:
            assert (await kept.get(f"{url}{url_path}", headers=headers)).status_code == 200
            broken = new.issue_cert("127.0.0.1").cert_chain_pems[0]
            broken.write_to_path(file)
            await until(lambda: "the one before stays" in caplog.text, "it is noticed")
            assert await is_spoken_to(old)
            issue(new)
            await until(partial(is_spoken_to, new), "it is in use")
            assert not await is_spoken_to(old)
            assert (await kept.get(f"{url}{url_path}", headers=headers)).status_code == 200


async def test_a_certificate_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tls.crt").write_text("no certificate")
    files = {"tls_certificate": tmp_path / "tls.crt", "tls_key": tmp_path / "tls.crt"}
    with pytest.raises(ConfigurationError, match=r"tls\.crt cannot be used"):
        async with gateway(monkeypatch, **files):
            pass


async def test_an_address_that_is_taken_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway(monkeypatch) as url:
        with pytest.raises(OSError, match=r"gateway\.address .* cannot be used"):
            async with gateway(monkeypatch, address=url.rpartition("/")[2]):
                pass


async def test_nobody_who_could_ask_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="nobody could ask"):
        async with gateway(monkeypatch, clients={}):
            pass
