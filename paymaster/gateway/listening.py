"""What the gateway's HTTP servers, for callers and for workers, have in common: how they listen and say where."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import cast

import uvicorn

from paymaster.gateway import connections
from paymaster.gateway.connections import Connection
from paymaster.gateway.handshakes import TlsListener
from paymaster.providers.network import keep_alive
from paymaster.settings import ConfigurationError

RENEWED_WITHIN_S = 10.0
"""How long after its files have changed a certificate is in use."""
_TICKS_PER_S = 10
"""Of uvicorn."""
logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Leaves signals to whoever runs the gateway; connections that begin after a certificate was renewed have that, and
    those whose clients take nothing are ended."""

    def __init__(self, config: uvicorn.Config, made: type[Connection]) -> None:
        """`made`: of each connection. `config` is loaded."""
        config.http_protocol_class = made
        super().__init__(config)
        self._made = made
        self._files = _stamps_of(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.config.ssl is None:
            await super().startup(sockets)
            return
        make = partial(self._made, self.config, self.server_state, self.lifespan.state)
        listeners = [TlsListener(each, self.config.ssl, make) for each in sockets or []]
        for listener in listeners:
            listener.start(self.config.backlog)
        self.servers, self.started = cast(list[asyncio.Server], listeners), True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        looking = asyncio.create_task(self._look_at_connections())
        try:
            await super().shutdown(sockets)
        finally:
            looking.cancel()

    async def on_tick(self, counter: int) -> bool:
        if counter % round(RENEWED_WITHIN_S * _TICKS_PER_S) == 0:
            self._take_renewed_certificate()
        if counter % round(connections.LOOKED_AT_EVERY_S * _TICKS_PER_S) == 0:
            self._end_stuck_connections()
        return await super().on_tick(counter)

    async def _look_at_connections(self) -> None:
        """While nothing ticks any more."""
        while True:
            await asyncio.sleep(connections.LOOKED_AT_EVERY_S)
            self._end_stuck_connections()

    def _end_stuck_connections(self) -> None:
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.end_if_stuck()

    def _take_renewed_certificate(self) -> None:
        files, config = _stamps_of(self.config), self.config
        if files == self._files or config.ssl is None or config.ssl_certfile is None:
            return
        self._files = files
        try:
            # First elsewhere: what fails halfway leaves a certificate without its key.
            for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), config.ssl):
                context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile)
        except (OSError, ssl.SSLError) as error:
            logger.error("%s has changed and cannot be used; the one before stays: %s", config.ssl_certfile, error)
        else:
            logger.info("%s has changed and is in use", config.ssl_certfile)


def _stamps_of(config: uvicorn.Config) -> list[tuple[int, int, int] | None]:
    """What tells a certificate's files from those that take their place. None: there is no such file now."""
    found: list[tuple[int, int, int] | None] = []
    for file in filter(None, (config.ssl_certfile, config.ssl_keyfile)):
        try:
            at = Path(file).stat()
            found.append((at.st_mtime_ns, at.st_ino, at.st_size))
        except OSError:
            found.append(None)
    return found


def check_certificate(config: uvicorn.Config, table: str) -> None:
    """Loads what the server needs. Raises ConfigurationError, with the name of the settings' table, for a certificate
    that cannot be used."""
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        files = f"{config.ssl_certfile} and {config.ssl_keyfile}"
        raise ConfigurationError([f"{table}.tls_certificate, tls_key: {files} cannot be used: {error}"]) from None


def bound_socket(address: str, setting: str) -> socket.socket:
    """A socket at this host and port, whose connections notice that the other machine has gone. Raises OSError, which
    names the setting."""
    host, _, port = address.rpartition(":")
    with contextlib.ExitStack() as unused:
        try:
            family, kind, _, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
            listener = unused.enter_context(socket.socket(family, kind))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            keep_alive(listener)  # each connection takes it over
            listener.bind(where)
        except OSError as error:
            raise OSError(f"{setting} {address!r} cannot be used: {error.strerror or error}") from error
        unused.pop_all()
        return listener


def url_of(listener: socket.socket, certificate: Path | None) -> str:
    """`certificate` None: without TLS."""
    host, port = listener.getsockname()[:2]
    scheme = "http" if certificate is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
