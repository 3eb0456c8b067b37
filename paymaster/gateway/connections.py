"""HTTP connections with bounds: slow and idle clients, too large headers, and how many there are.

uvicorn bounds none of these with its quicker parser, which is why its protocol is extended here.
"""

import asyncio
import resource
from collections.abc import Callable
from typing import NamedTuple, cast

from starlette.requests import Request
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from paymaster.settings import GatewaySettings
from paymaster.settings.gateway_streams import GatewayStreamsSettings

_FILES_LEFT = 100
"""Of the files that the process may open, those for Temporal, the database and logs."""
WORKERS_HEADERS_WITHIN_S = 10.0
_WORKERS_HEADER_BYTES_MAX = 16 * 1024
_WHEN_CUT = "paymaster.when_cut"
_AT_ONCE_S = 2.0
"""Clients keep a connection for 5 s at least."""
_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Bounds(NamedTuple):
    """Of each connection, and of all."""

    headers_within_s: float
    header_bytes_max: int
    connections_max: int
    idle: "dict[Connection, None]"
    """Connections between two requests, the one that has been idle for the longest time first."""


def bounds_of(settings: GatewaySettings) -> Bounds:
    """Of clients, with as many open files as the system allows the process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.connections_max + _of_workers(settings.streams) + _FILES_LEFT
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        wanted = soft
    return Bounds(
        headers_within_s=settings.headers_within.total_seconds(),
        header_bytes_max=settings.header_bytes_max,
        connections_max=min(settings.connections_max, max(1, wanted - _FILES_LEFT)),
        idle={},
    )


def bounds_of_workers(settings: GatewayStreamsSettings) -> Bounds:
    """Of workers, whose listener anybody may reach who is in their network."""
    return Bounds(WORKERS_HEADERS_WITHIN_S, _WORKERS_HEADER_BYTES_MAX, _of_workers(settings), idle={})


def bounded(bounds: Bounds) -> type[asyncio.Protocol]:
    """What uvicorn makes of each connection."""
    return type("BoundedConnection", (Connection,), {"bounds": bounds})


def _of_workers(settings: GatewayStreamsSettings) -> int:
    """Of their connections some are kept, and on others there is a stream."""
    return 2 * settings.at_once


def when_cut(request: Request, callback: Callable[[], object]) -> None:
    """Has it called when the connection ends before the answer has gone out, or at once afterwards: then nobody knows
    whether it arrived. An SDK keeps its connection."""
    request.scope[_WHEN_CUT] = callback


class Connection(HttpToolsProtocol):
    """One connection. A subclass of it has the bounds, since uvicorn makes them by the class."""

    bounds: Bounds

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._headers_timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        """That came since the last headers were complete, or the last piece of a body that is wanted."""
        self._unsent = 0
        self._answering = False
        self._answered_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))  # what a TCP server has, also uvloop's
        self.bounds.idle[self] = None
        self._expect_headers()
        if len(self.connections) > self.bounds.connections_max:
            next(iter(self.bounds.idle)).transport.abort()  # there is one: this one is idle

    def connection_lost(self, exc: Exception | None) -> None:
        self.bounds.idle.pop(self, None)
        self._headers_are_here()
        self._tell_when_cut()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._answering:  # also what is left of a body whose request has been answered
            self._expect_headers()
        self._header_bytes += len(data)
        super().data_received(data)
        if self._header_bytes <= self.bounds.header_bytes_max:
            return
        if self._answering:  # behind a body, or before a request that is not its turn
            self.transport.abort()
        else:
            self._end_with(_TOO_LONG)

    def on_body(self, body: bytes) -> None:
        if self._answering:
            self._header_bytes = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        self._headers_are_here()
        self.bounds.idle.pop(self, None)
        self._answering = True
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        self._answering, self._answered_at = bool(self.pipeline), self.loop.time()
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None:
            self.bounds.idle[self] = None

    def timeout_keep_alive_handler(self) -> None:
        """A reader that goes on reading, however slowly, has its answer whole; one that has stopped is given up."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0:
            super().timeout_keep_alive_handler()
        elif unsent == self._unsent:
            self.transport.abort()
        else:
            self._unsent = unsent
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _tell_when_cut(self) -> None:
        if not self.cycle or (callback := self.cycle.scope.get(_WHEN_CUT)) is None:
            return
        at_once = self.cycle.keep_alive and self.loop.time() - self._answered_at < _AT_ONCE_S
        if at_once or not self.cycle.response_complete:
            callback()

    def _expect_headers(self) -> None:
        if self._headers_timer is None:
            self._headers_timer = self.loop.call_later(self.bounds.headers_within_s, self._headers_are_late)

    def _headers_are_here(self) -> None:
        self._header_bytes = 0
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _headers_are_late(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self._end_with(_TOO_SLOW if self._header_bytes else b"")

    def _end_with(self, response: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(response)
            self.transport.close()
