"""Connections on asyncio's transports: what httpcore expects of a network, over real sockets, on both event loops."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpcore
import httpx
import pytest
import uvloop

from paymaster.providers.connections import Connections
from paymaster.providers.network import Network, TcpStream, quick_transport
from paymaster.providers.tls import tls_context
from paymaster.settings import ServiceSettings

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
MUCH = 20 * 2**20
"""More than the sockets of both ends hold."""


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a test in an event loop of that kind."""

    def running(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(work)

    return running


@asynccontextmanager
async def connected(peer: Peer) -> AsyncGenerator[TcpStream]:
    """To a server that does this."""
    served: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.append(task)
        try:
            await peer(reader, writer)
            writer.close()
            await writer.wait_closed()
        except (asyncio.CancelledError, ConnectionError):
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    stream = await Network().connect_tcp("127.0.0.1", server.sockets[0].getsockname()[1], timeout=10)
    assert isinstance(stream, TcpStream)
    try:
        yield stream
    finally:
        await stream.aclose()
        server.close()
        for task in served:
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)


async def nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


def test_what_arrives_is_read_and_then_the_end(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"you said " + await reader.readexactly(5))

    async def test() -> None:
        async with connected(peer) as stream:
            await stream.write(b"hello")
            assert await stream.read(3, timeout=10) == b"you"
            said = b""
            while data := await stream.read(100, timeout=10):
                said += data
            assert said == b" said hello"
            assert await stream.read(100, timeout=10) == b""
            assert stream.get_extra_info("is_readable")

    run(test())


def test_silence_ends_a_read_and_each_piece_begins_it_anew(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def peer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _piece in range(8):
            writer.write(b"x")
            await asyncio.sleep(0.1)
        await asyncio.Event().wait()

    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with connected(peer) as stream:
            began = loop.time()
            for _piece in range(8):
                assert await stream.read(1, timeout=0.5) == b"x"
            assert loop.time() - began > 0.5
            with pytest.raises(httpcore.ReadTimeout):
                await stream.read(1, timeout=0.2)

    run(test())


def test_a_shorter_time_counts_after_a_longer_one(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def peer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        writer.write(b"x")
        await asyncio.Event().wait()

    async def test() -> None:
        async with connected(peer) as stream:
            assert await stream.read(1, timeout=600) == b"x"
            with pytest.raises(httpcore.ReadTimeout):
                await asyncio.wait_for(stream.read(1, timeout=0.05), 10)

    run(test())


def test_who_does_not_read_holds_up_who_sends(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """And nothing is lost of it."""

    async def test() -> None:
        sent = asyncio.Event()

        async def peer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"x" * MUCH)
            await writer.drain()
            sent.set()

        async with connected(peer) as stream:
            read = len(await stream.read(1, timeout=10))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(sent.wait(), 0.3)
            while data := await stream.read(65_536, timeout=10):
                read += len(data)
            assert read == MUCH
            assert sent.is_set()

    run(test())


def test_who_sends_waits_for_a_reader_but_not_for_ever(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def much(stream: TcpStream) -> None:
        for _piece in range(MUCH // 65_536):
            await stream.write(b"x" * 65_536, timeout=0.2)

    async def test() -> None:
        async with connected(nothing) as stream:
            with pytest.raises(httpcore.WriteTimeout):
                await much(stream)

    run(test())


def test_a_cut_connection_is_an_error_for_both_sides(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def peer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        linger = b"\1\0\0\0\0\0\0\0"  # closing sends a reset
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async def test() -> None:
        async with connected(peer) as stream:
            with pytest.raises(httpcore.ReadError):
                await stream.read(1, timeout=10)
            with pytest.raises(httpcore.WriteError):
                await stream.write(b"x", timeout=10)

    run(test())


def test_a_read_that_is_given_up_takes_nothing_with_it(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(1))
        await asyncio.Event().wait()

    async def test() -> None:
        async with connected(peer) as stream:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(stream.read(1), 0.05)
            await stream.write(b"x")
            assert await stream.read(1, timeout=10) == b"x"

    run(test())


def test_nobody_there_is_an_error(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def test() -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            with pytest.raises(httpcore.ConnectError):
                await Network().connect_tcp("127.0.0.1", bound.getsockname()[1], timeout=10)

    run(test())


def test_small_pieces_are_sent_at_once(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def test() -> None:
        async with connected(nothing) as stream:
            assert stream.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(test())


async def test_services_are_reached_over_it() -> None:
    """httpx has no public way to say so: an update of it may lose it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        direct = Connections({"one": ServiceSettings(api="openai", base_url=f"http://127.0.0.1:{port}/v1")})["one"]
        proxy = httpx.Proxy(f"http://127.0.0.1:{port}")
        tls = tls_context("services.one", None)
        proxied = httpx.AsyncClient(transport=quick_transport(verify=tls, limits=httpx.Limits(), proxy=proxy))
        for client, url in ((direct, f"http://127.0.0.1:{port}/"), (proxied, "http://example.com/")):
            async with client.stream("GET", url) as response:
                assert isinstance(response.extensions["network_stream"], TcpStream)
            await client.aclose()
