"""The network of the HTTP clients to services and gateways: TCP connections on asyncio's transports as they are.

httpcore's own, over anyio, begins and stops reading around each piece, with a timer for each: of what a token of a
stream takes a worker that was a third.
"""

import asyncio
import select
import socket
import ssl
from collections.abc import Iterable
from typing import Any, cast

import httpcore
import httpx
from aiohappyeyeballs import start_connection  # pyright: ignore[reportUnknownVariableType]

_HELD_BYTES_MAX = 64 * 1024
"""That have arrived and are not read yet; with more, the connection is read no further."""
_UNSENT_BYTES_MAX = 16 * 1024
"""With more, whoever writes waits."""
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPALIVE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds of silence before the other side is asked, macOS's name for them, seconds between questions, and how many."""
_NEXT_ADDRESS_AFTER_S = 0.25
"""Where a host has several addresses, as RFC 8305 says."""


def quick_transport(
    *, verify: ssl.SSLContext, limits: httpx.Limits, proxy: httpx.Proxy | None
) -> httpx.AsyncHTTPTransport:
    """The transport of an httpx client, on this network."""
    transport = httpx.AsyncHTTPTransport(verify=verify, limits=limits, proxy=proxy, trust_env=False)
    transport._pool._network_backend = Network()  # pyright: ignore - httpx passes none on
    return transport


def keep_alive(connection: socket.socket) -> None:
    """Has the kernel ask whether the other machine is still there: a minute after one that went without a word the
    connection ends. A listening socket hands that on to its connections."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if (option := getattr(socket, name, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


class Network(httpcore.AsyncNetworkBackend):
    """Connects to whatever is asked for."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                return await _connected(host, port)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _connected(host: str, port: int) -> "TcpStream":
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    connected = await start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER_S)
    try:
        keep_alive(connected)
        _, stream = await loop.create_connection(TcpStream, sock=connected)
    except BaseException:
        connected.close()
        raise
    return stream


class TcpStream(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection, with or without TLS."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._held = bytearray()
        self._is_over = False
        """Nothing more arrives."""
        self._is_lost = False
        self._error: Exception | None = None
        self._reads = _Wait()
        self._writes = _Wait()
        self._reads_no_further = False
        self._may_write = True
        self._silent_until: float | None = None
        """By the loop's clock. None: however long it takes."""
        self._alarm: asyncio.TimerHandle | None = None
        """One for many pieces: to set a timer for each costs more than to read it."""

    # ---------------------------------------------------- for httpcore

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if not self._held and not self._is_over:
            self._expect_within(timeout)
            await self._reads.until_ended(self._loop)
        if not self._held:
            if self._error is not None:
                raise httpcore.ReadError(str(self._error)) from self._error
            return b""
        data = bytes(self._held[:max_bytes])
        del self._held[:max_bytes]
        if self._reads_no_further and len(self._held) <= _HELD_BYTES_MAX // 2:
            self._reads_no_further = False
            self._transport.resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._is_lost or self._transport.is_closing():
            raise httpcore.WriteError(str(self._error or "the connection is closed"))
        self._transport.write(buffer)
        if self._may_write:
            return
        try:
            async with asyncio.timeout(timeout):
                await self._writes.until_ended(self._loop)
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        if self._is_lost:
            raise httpcore.WriteError(str(self._error or "the connection is closed"))

    async def aclose(self) -> None:
        self._no_alarm()
        self._transport.abort()  # what a peer does not take would keep it open

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                secured = await self._loop.start_tls(
                    self._transport, self, ssl_context, server_hostname=server_hostname
                )
        except BaseException as error:
            await self.aclose()
            if isinstance(error, TimeoutError):
                raise httpcore.ConnectTimeout(str(error)) from error
            if isinstance(error, OSError):
                raise httpcore.ConnectError(str(error)) from error
            raise
        if secured is None:  # lost meanwhile
            raise httpcore.ConnectError("the connection was lost while TLS began")
        self._set_transport(secured)
        return self

    def get_extra_info(self, info: str) -> Any:
        match info:
            case "client_addr":
                return self._transport.get_extra_info("sockname")
            case "server_addr":
                return self._transport.get_extra_info("peername")
            case "is_readable":
                return bool(self._held) or self._is_over or self._transport.is_closing() or self._is_socket_readable()
            case _:
                return self._transport.get_extra_info(info)

    # ---------------------------------------------------- for the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._set_transport(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > _HELD_BYTES_MAX and not self._reads_no_further:
            self._reads_no_further = True
            self._transport.pause_reading()
        self._reads.end()

    def eof_received(self) -> bool:
        self._is_over = True
        self._reads.end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_over = self._is_lost = True
        self._error = exc
        self._no_alarm()
        self._reads.end()
        self._writes.end()

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        self._writes.end()

    def _set_transport(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(_UNSENT_BYTES_MAX)

    def _is_socket_readable(self) -> bool:
        """Whether something arrived that the loop has not looked at: for an idle connection it is its end."""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    # ---------------------------------------------------- silence

    def _expect_within(self, seconds: float | None) -> None:
        self._silent_until = None if seconds is None else self._loop.time() + seconds
        if self._silent_until is None:
            return
        if self._alarm is not None and self._alarm.when() > self._silent_until:
            self._no_alarm()
        if self._alarm is None:
            self._alarm = self._loop.call_at(self._silent_until, self._look_at_silence)

    def _look_at_silence(self) -> None:
        self._alarm = None
        if self._silent_until is None or not self._reads.lasts:
            return
        if self._loop.time() < self._silent_until:
            self._alarm = self._loop.call_at(self._silent_until, self._look_at_silence)
        else:
            self._reads.end(httpcore.ReadTimeout("nothing arrived for too long"))

    def _no_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


class _Wait:
    """For one who waits."""

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None

    @property
    def lasts(self) -> bool:
        return self._future is not None and not self._future.done()

    async def until_ended(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises what it is ended with."""
        self._future = loop.create_future()
        try:
            await self._future
        finally:
            self._future = None

    def end(self, error: Exception | None = None) -> None:
        if self._future is None or self._future.done():
            return
        if error is None:
            self._future.set_result(None)
        else:
            self._future.set_exception(error)
