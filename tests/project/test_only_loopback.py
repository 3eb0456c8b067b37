"""No test talks to a provider by mistake: the guard in conftest.py stops it, whatever opens the connection."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import httpx
import pytest


async def by_socket() -> None:
    socket.create_connection(("192.0.2.1", 443), timeout=1)


async def by_name() -> None:
    socket.getaddrinfo("api.openai.com", 443)


async def by_httpx() -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.get("https://api.openai.com/v1/models")


async def by_asyncio() -> None:
    await asyncio.open_connection("2001:db8::1", 443)


@pytest.mark.parametrize("connect", [by_socket, by_name, by_httpx, by_asyncio])
async def test_another_machine_cannot_be_reached(
    connect: Callable[[], Awaitable[None]], only_loopback: list[str]
) -> None:
    """The connection fails, and the test would, too: the attempt is remembered."""
    with pytest.raises(RuntimeError, match="may not talk to"):
        await connect()
    assert len(only_loopback) == 1
    only_loopback.clear()


async def test_this_machine_can_be_reached() -> None:
    async with await asyncio.start_server(lambda reader, writer: writer.close(), "localhost", 0) as server:
        reader, writer = await asyncio.open_connection("localhost", server.sockets[0].getsockname()[1])
        assert await reader.read() == b""
        writer.close()
