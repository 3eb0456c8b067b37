"""A way to a server over TCP on loopback that takes longer than the direct one."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable


class SlowProxy:
    """Each piece of what goes through, in both directions, takes `delay_s` longer; while it is cut, nothing does."""

    def __init__(self, connect: Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]) -> None:
        """`connect` opens the direct way."""
        self.delay_s = 0.0
        self._is_cut = False
        self._clients = set[asyncio.StreamWriter]()
        self._connect = connect

    async def listen(self) -> int:
        """The port."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        self._server.close()

    def cut(self) -> None:
        """Resets each connection, and those that are made until `mend`."""
        self._is_cut = True
        for writer in self._clients:
            writer.transport.abort()

    def mend(self) -> None:
        self._is_cut = False

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        self._clients.add(writer)
        with contextlib.suppress(OSError):
            from_server, to_server = await self._connect()
            await asyncio.gather(self._forward(reader, to_server), self._forward(from_server, writer))
        self._clients.discard(writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
        writer.close()
