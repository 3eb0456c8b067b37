"""HTTP connections with bounds: slow and idle clients, too large headers, and how many there are.

uvicorn bounds none of these with its quicker parser, which is why its protocol is extended here.
"""

import asyncio
import fcntl
import resource
import socket
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, cast

from starlette.requests import Request
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from paymaster.settings import GatewaySettings
from paymaster.settings.gateway_streams import GatewayStreamsSettings

_FILES_LEFT = 100
"""Of the files that the process may open, those for Temporal, the database and logs."""
WORKERS_HEADERS_WITHIN_S = 10.0
_WORKERS_SEND_TIMEOUT_S = 10.0
_WORKERS_HEADER_BYTES_MAX = 16 * 1024
_WHEN_CUT = "paymaster.when_cut"
LOOKED_AT_EVERY_S = 2.0
"""Whether clients take their answers."""
_AT_ONCE_S = 2.0
"""Clients keep a connection for 5 s at least."""
_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Bounds(NamedTuple):
    """Of each connection, and of all."""

    headers_within_s: float
    """With the TLS handshake before them."""
    header_bytes_max: int
    send_timeout_s: float
    connections_max: int
    idle: "dict[Connection, None]"
    """Connections before their first request and between two, the one that has been idle for the longest time first."""


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
        send_timeout_s=settings.send_timeout.total_seconds(),
        connections_max=min(settings.connections_max, max(1, wanted - _FILES_LEFT)),
        idle={},
    )


def bounds_of_workers(settings: GatewayStreamsSettings) -> Bounds:
    """Of workers, whose listener anybody may reach who is in their network."""
    return Bounds(
        headers_within_s=WORKERS_HEADERS_WITHIN_S,
        header_bytes_max=_WORKERS_HEADER_BYTES_MAX,
        send_timeout_s=_WORKERS_SEND_TIMEOUT_S,
        connections_max=_of_workers(settings),
        idle={},
    )


def bounded(bounds: Bounds) -> type["Connection"]:
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
        self._accepted: socket.socket | None = None
        """Whose TLS handshake is under way. None: it is through, or there is none."""
        self._headers_timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        """That came since the last headers were complete, or the last piece of a body that is wanted."""
        self._unsent: tuple[int, float] | None = None
        """Bytes that its client had not taken when somebody looked, and since when they are as many."""
        self._answering = False
        self._under_way: RequestResponseCycle | None = None
        """The request that is answered. uvicorn's `cycle` is the newest one, which may wait behind it."""
        self._answered: RequestResponseCycle | None = None
        """The last one whose answer is written, and behind which its client has not asked again."""
        self._answered_at = 0.0

    def accepted(self, accepted: socket.socket) -> None:
        """Counts it before there is TLS. `handshake_has_ended` is called behind it."""
        self._accepted = accepted
        self.connections.add(self)
        self._is_one_more()

    def handshake_has_ended(self) -> None:
        """Well, when `connection_made` was called."""
        if self._accepted is not None:
            self._accepted = None
            self.connections.discard(self)
            self.bounds.idle.pop(self, None)
            self._headers_are_here()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        is_counted, self._accepted = self._accepted is not None, None
        super().connection_made(cast(asyncio.Transport, transport))  # what a TCP server has, also uvloop's
        if not is_counted:
            self._is_one_more()

    def abort(self) -> None:
        if self._accepted is None:
            self.transport.abort()
        else:
            with suppress(OSError):  # its client has gone already
                self._accepted.shutdown(socket.SHUT_RDWR)

    def shutdown(self) -> None:
        """The server ends."""
        if self._accepted is None:
            super().shutdown()
        else:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.bounds.idle.pop(self, None)
        self._headers_are_here()
        self._tell_when_cut()
        super().connection_lost(exc)
        if self._under_way is not None:
            self._under_way.disconnected = True  # uvicorn tells the newest request only
            self._under_way.message_event.set()

    def end_if_stuck(self) -> None:
        """Ends it when its client has taken nothing of an answer for too long. A slow one has all the time it needs."""
        if self._accepted is not None:
            return
        unsent, now = self._bytes_unsent(), self.loop.time()
        if not unsent and not self.transport.is_closing():
            self._unsent = None
        elif self._unsent is None or unsent != self._unsent[0]:
            self._unsent = unsent, now
        elif not unsent or now - self._unsent[1] >= self.bounds.send_timeout_s:
            self.abort()  # also where only the client's end of TLS is missing

    def data_received(self, data: bytes) -> None:
        if not self._answering:  # also what is left of a body whose request has been answered
            self._expect_headers()
        self._header_bytes += len(data)
        super().data_received(data)
        if self._header_bytes <= self.bounds.header_bytes_max:
            return
        if self._answering:  # behind a body, or before a request that is not its turn
            self.abort()
        else:
            self._end_with(_TOO_LONG)

    def on_body(self, body: bytes) -> None:
        if self._answering:
            self._header_bytes = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        self._headers_are_here()
        self.bounds.idle.pop(self, None)
        is_its_turn, self._answering = not self._answering, True
        super().on_headers_complete()
        if is_its_turn:
            self._under_way, self._answered = self.cycle, None

    def on_response_complete(self) -> None:
        self._answered, self._answered_at = self._under_way, self.loop.time()
        self._under_way = self.pipeline[-1][0] if self.pipeline else None
        self._answering = self._under_way is not None
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None:
            self.bounds.idle[self] = None

    def timeout_keep_alive_handler(self) -> None:
        """What its client has not taken yet is no idle connection's."""
        if self._bytes_unsent() == 0:
            super().timeout_keep_alive_handler()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _bytes_unsent(self) -> int:
        """That are held here and in the kernel because the client does not take them."""
        if self._under_way is None and self._answered is None:
            return self.transport.get_write_buffer_size()  # a refusal at most
        return self.transport.get_write_buffer_size() + _queued(self.transport.get_extra_info("socket"))

    def _is_one_more(self) -> None:
        self.bounds.idle[self] = None
        self._expect_headers()
        if len(self.connections) > self.bounds.connections_max:
            oldest = next(iter(self.bounds.idle))  # there is one: this one is idle
            del self.bounds.idle[oldest]  # at once: the next of many must find another one
            oldest.abort()

    def _tell_when_cut(self) -> None:
        """Also of an answer behind which another request waited already: that one says nothing about it."""
        if self._under_way is not None:
            _tell(self._under_way)
        if self._answered is None:
            return
        is_at_once = self._answered.keep_alive and self.loop.time() - self._answered_at < _AT_ONCE_S
        if is_at_once or (self._unsent is not None and self._unsent[0] > 0):
            _tell(self._answered)

    def _expect_headers(self) -> None:
        if self._headers_timer is None:
            self._headers_timer = self.loop.call_later(self.bounds.headers_within_s, self._headers_are_late)

    def _headers_are_here(self) -> None:
        self._header_bytes = 0
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _headers_are_late(self) -> None:
        if self._accepted is not None or self.transport.get_write_buffer_size():
            self.abort()
        else:
            self._end_with(_TOO_SLOW if self._header_bytes else b"")

    def _end_with(self, response: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(response)
            self.transport.close()


def _tell(cut: RequestResponseCycle) -> None:
    if (callback := cut.scope.get(_WHEN_CUT)) is not None:
        callback()


def _queued(of: socket.socket | None) -> int:
    """Bytes that the kernel holds until the other side has them. 0 where it does not say, and when it is closed."""
    with suppress(OSError, ValueError):
        return 0 if of is None else struct.unpack("i", fcntl.ioctl(of.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0]
    return 0
