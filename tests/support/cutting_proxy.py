"""A way to a server over TCP on loopback whose connections are cut, each where it is told."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Cut:
    """Where a connection ends: both sides get a TCP reset. None, or false, everywhere: it does not."""

    sent: int | None = None
    """After so many bytes of what the client sends."""
    answered: int | None = None
    """After so many bytes of what the server answers; a negative number counts from its end."""
    when: Callable[[], Awaitable[object]] | None = None
    """When this returns, which is awaited from the first bytes of the client on."""


class CuttingProxy:
    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._host, self._port = where.hostname or "", where.port or 0
        self.url = ""
        self.cuts: deque[Cut] = deque()
        """Of the next connections, in the order in which they come; those after them are whole."""
        self.connections = 0

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator["CuttingProxy"]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        cut = self.cuts.popleft() if self.cuts else Cut()
        from_server, to_server = await asyncio.open_connection(self._host, self._port)
        ways: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(self._to_server(reader, to_server, cut)),
            asyncio.ensure_future(self._to_client(from_server, writer, cut)),
        ]
        if cut.when is not None:
            ways.append(asyncio.ensure_future(cut.when()))
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for side in (writer, to_server):
            side.transport.abort()

    async def _to_server(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: Cut) -> None:
        left = cut.sent
        with contextlib.suppress(OSError):
            while (left is None or left > 0) and (data := await reader.read(65_536 if left is None else left)):
                writer.write(data)
                await writer.drain()
                left = None if left is None else left - len(data)

    async def _to_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: Cut) -> None:
        with contextlib.suppress(OSError):
            if cut.answered is not None:
                answer = await _whole_answer(reader)
                writer.write(answer[: cut.answered] if cut.answered else b"")
                await writer.drain()
                return
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()


async def _whole_answer(reader: asyncio.StreamReader) -> bytes:
    """Head and body of one response, whose head says how long the body is."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
    return head + await reader.readexactly(int(length.split(b":")[1]))
