"""An HTTP server with the gateway's connections, and an ASGI application of the test behind it."""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import trustme
import uvicorn
import uvloop
from starlette.types import ASGIApp

from paymaster.gateway.connections import Bounds, bounded
from paymaster.gateway.listening import Server, bound_socket, check_certificate

HOST = "127.0.0.1"
FEW_BYTES = 64 * 1024
"""Of a buffer in the kernel."""
EVENT_LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
"""That of tests, and that of `paymaster serve`."""


class Certificate(NamedTuple):
    """Of this machine, and whom a client must trust for it."""

    file: Path
    key: Path
    trusting: ssl.SSLContext


def certificate(folder: Path) -> Certificate:
    authority = trustme.CA()
    issued = authority.issue_cert(HOST)
    files = folder / "tls.crt", folder / "tls.key"
    issued.cert_chain_pems[0].write_to_path(files[0])
    issued.private_key_pem.write_to_path(files[1])
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return Certificate(*files, trusting)


@asynccontextmanager
async def bounded_server(
    app: ASGIApp, tls: Certificate | None = None, *, send_buffer: int | None = None, grace_s: int = 1, **bounds: Any
) -> AsyncGenerator[int]:
    """Its port. `send_buffer`: bytes that the kernel holds of each connection, about. `grace_s`: for requests at its
    end."""
    few = Bounds(headers_within_s=60, header_bytes_max=4096, send_timeout_s=60, connections_max=100, idle={})
    config = uvicorn.Config(
        app,
        interface="asgi3",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=grace_s,
        ssl_certfile=None if tls is None else tls.file,
        ssl_keyfile=None if tls is None else tls.key,
    )
    check_certificate(config, "gateway")
    server = Server(config, bounded(few._replace(**bounds)))
    listener = bound_socket(f"{HOST}:0", "gateway.address")
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    listener.listen()
    serving = asyncio.create_task(server.serve([listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


async def on_loop(name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Does it on an event loop of its own, in a thread."""

    def run() -> None:
        assert threading.current_thread() is not threading.main_thread()
        with asyncio.Runner(loop_factory=EVENT_LOOPS[name]) as runner:
            runner.run(work())

    await asyncio.to_thread(run)


@asynccontextmanager
async def caller(
    port: int, tls: Certificate | None = None
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Holds few bytes that it has not read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, FEW_BYTES)
    connection.connect((HOST, port))
    trusting = None if tls is None else tls.trusting
    name = None if tls is None else HOST
    reader, writer = await asyncio.open_connection(sock=connection, ssl=trusting, server_hostname=name, limit=FEW_BYTES)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
