"""What the tests' own servers have in common: a port on loopback that can be opened and closed, and its connections."""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable

ServeOne = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]


class LoopbackServer:
    """Serves connections, each with any number of requests one after the other.

    `serve_one` takes one request and answers it; False when its connection is over.
    """

    def __init__(self, serve_one: ServeOne, tls: ssl.SSLContext | None = None) -> None:
        self._serve_one = serve_one
        self._tls = tls
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0
        """0 before the first `listen`, and the same from then on."""

    async def listen(self) -> None:
        """From now on somebody answers."""
        if self._listener is None:
            self._listener = await asyncio.start_server(
                self._connected, "127.0.0.1", self.port, backlog=1_000, ssl=self._tls
            )
            self.port = self._listener.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """From now on connections are refused, and those that there are end."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                while await self._serve_one(reader, writer):
                    pass
        finally:
            if self._tls is None:
                writer.close()
            else:
                writer.transport.abort()  # a client that has gone never ends TLS in the proper way
