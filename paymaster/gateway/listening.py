"""What the gateway's HTTP servers, for callers and for workers, have in common: how they listen and say where."""

import contextlib
import socket
import ssl
from collections.abc import Generator
from pathlib import Path

import uvicorn

from paymaster.settings import ConfigurationError


class Server(uvicorn.Server):
    """Leaves signals to whoever runs the gateway."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def check_certificate(config: uvicorn.Config, table: str) -> None:
    """Loads what the server needs. Raises ConfigurationError, with the name of the settings' table, for a certificate
    that cannot be used."""
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        files = f"{config.ssl_certfile} and {config.ssl_keyfile}"
        raise ConfigurationError([f"{table}.tls_certificate, tls_key: {files} cannot be used: {error}"]) from None


def bound_socket(address: str, setting: str) -> socket.socket:
    """A socket at this host and port. Raises OSError, which names the setting."""
    host, _, port = address.rpartition(":")
    with contextlib.ExitStack() as unused:
        try:
            family, kind, _, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
            listener = unused.enter_context(socket.socket(family, kind))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
