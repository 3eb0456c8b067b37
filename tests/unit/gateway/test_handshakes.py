"""TLS handshakes before a listening server: slow ones, broken ones, and many, on both event loops."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from bounded_server import EVENT_LOOPS, HOST, Certificate, bounded_server, certificate, on_loop
from paymaster_process import until
from starlette.responses import PlainTextResponse

from paymaster.gateway import connections

ASKED = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""The first bytes of a handshake."""

pytestmark = pytest.mark.parametrize("loop", EVENT_LOOPS)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def strangers(port: int, count: int, says: bytes = b"") -> AsyncGenerator[list[asyncio.StreamReader]]:
    """Connections that come at once, and on which no handshake is finished."""
    opened = await asyncio.gather(*(asyncio.open_connection(HOST, port) for _ in range(count)))
    for _, writer in opened:
        writer.write(says)
    try:
        yield [reader for reader, _ in opened]
    finally:
        for _, writer in opened:
            writer.close()


async def is_served(port: int, tls: Certificate) -> bool:
    reader, writer = await asyncio.open_connection(HOST, port, ssl=tls.trusting)
    writer.write(ASKED)
    answer = await reader.read()
    writer.close()
    return answer.endswith(b"hello")


def app() -> PlainTextResponse:
    return PlainTextResponse("hello")


async def ended(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("says", [b"", HELLO])
async def test_handshakes_are_connections_that_are_counted(loop: str, tls: Certificate, says: bytes) -> None:
    """Those that have lasted longest give way, and whoever asks is served."""

    async def work() -> None:
        async with bounded_server(app(), tls, connections_max=3) as port, strangers(port, 20, says) as readers:
            ending = [asyncio.create_task(ended(reader)) for reader in readers]
            await until(lambda: sum(task.done() for task in ending) == 17, "the others have given way")
            assert await is_served(port, tls)
            for task in ending:
                task.cancel()

    await within(10, loop, work())


@pytest.mark.parametrize("says", [b"", HELLO, b"GET / HTTP/1.1\r\n\r\n"])
async def test_a_handshake_that_does_not_end_is_left(loop: str, tls: Certificate, says: bytes) -> None:
    async def work() -> None:
        async with bounded_server(app(), tls, headers_within_s=0.3) as port, strangers(port, 3, says) as readers:
            answers = await asyncio.gather(*map(ended, readers))
            assert all(not answer or answer[0] == 0x15 for answer in answers)  # an alert of TLS
            assert await is_served(port, tls)

    await within(10, loop, work())


async def test_a_request_in_the_packet_that_ends_it(loop: str, tls: Certificate) -> None:
    def answered(port: int) -> bytes:
        sent, arrived = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = tls.trusting.wrap_bio(arrived, sent, server_hostname=HOST)
        with socket.create_connection((HOST, port), timeout=10) as connection:
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    connection.sendall(sent.read())
                    arrived.write(connection.recv(65536))
            client.write(ASKED)
            connection.sendall(sent.read())
            answer = b""
            while not answer.endswith(b"hello"):
                with contextlib.suppress(ssl.SSLWantReadError):
                    answer += client.read()
                    continue
                arrived.write(connection.recv(65536))
        return answer

    async def work() -> None:
        async with bounded_server(app(), tls) as port:
            assert (await asyncio.to_thread(answered, port)).startswith(b"HTTP/1.1 200")

    await within(10, loop, work())


async def test_the_server_does_not_wait_for_them_at_its_end(loop: str, tls: Certificate) -> None:
    async def work() -> None:
        async with bounded_server(app(), tls) as port:
            unfinished = await asyncio.open_connection(HOST, port)
            assert await is_served(port, tls)
            began = time.monotonic()
        assert time.monotonic() - began < 0.9  # its grace period has a second
        unfinished[1].close()

    await within(10, loop, work())


async def test_the_server_does_not_wait_for_the_end_of_tls(
    monkeypatch: pytest.MonkeyPatch, loop: str, tls: Certificate
) -> None:
    """Of a client that has gone without a word."""
    monkeypatch.setattr(connections, "LOOKED_AT_EVERY_S", 0.1)

    async def work() -> None:
        async with bounded_server(app(), tls, grace_s=60) as port:
            reader, writer = await asyncio.open_connection(HOST, port, ssl=tls.trusting)
            writer.write(ASKED.replace(b"connection: close\r\n", b""))
            await reader.readuntil(b"hello")
            cast(asyncio.Transport, writer.transport).pause_reading()
        writer.transport.abort()

    await within(10, loop, work())


async def within(seconds: float, loop: str, work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await work

    await on_loop(loop, bounded)
