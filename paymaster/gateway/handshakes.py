"""A listener for TLS, each of whose connections counts, and has a time, from its first packet on.

An event loop's own server tells of a connection when its handshake is through, so that nobody would see slow ones.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

from paymaster.gateway.connections import Connection

_ACCEPTED_AT_ONCE = 100
_AGAIN_AFTER_S = 1.0
"""When the system has no file for another connection."""
_CLOSED_WITHIN_S = 3600.0
"""TLS, with what is written before. Whoever takes nothing of it is ended long before, by `Connection.end_if_stuck`."""
logger = logging.getLogger(__name__)


class TlsListener:
    """Takes the place of asyncio's server."""

    def __init__(self, listener: socket.socket, tls: ssl.SSLContext, make: Callable[[], Connection]) -> None:
        """`make` makes what uvicorn has for each connection."""
        self._listener = listener
        self._tls = tls
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._shaking = set[asyncio.Task[None]]()
        self._later: asyncio.TimerHandle | None = None
        listener.setblocking(False)

    def start(self, backlog: int) -> None:
        self._listener.listen(backlog)
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """No more are accepted."""
        self._loop.remove_reader(self._listener)
        if self._later is not None:
            self._later.cancel()

    async def wait_closed(self) -> None:
        """Handshakes that are under way are ended as connections are."""

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.error("no connection can be accepted: %s", error)
                self._loop.remove_reader(self._listener)
                self._later = self._loop.call_later(_AGAIN_AFTER_S, self._loop.add_reader, self._listener, self._accept)
                return
            accepted.setblocking(False)
            task = self._loop.create_task(self._shake(accepted))
            self._shaking.add(task)
            task.add_done_callback(self._shaking.discard)

    async def _shake(self, accepted: socket.socket) -> None:
        connection = self._make()
        connection.accepted(accepted)
        try:
            with suppress(OSError):  # there is nobody to be told
                await self._loop.connect_accepted_socket(
                    lambda: connection,
                    accepted,
                    ssl=self._tls,
                    ssl_handshake_timeout=connection.bounds.headers_within_s,
                    ssl_shutdown_timeout=_CLOSED_WITHIN_S,
                )
        finally:
            connection.handshake_has_ended()
