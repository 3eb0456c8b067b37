"""Ports of the loopback interface for servers of the embedded stack."""

import contextlib
import secrets
import socket
from collections.abc import Sequence

from paymaster.devstack.errors import StackError

LOOPBACK = "127.0.0.1"
# Below the ports that systems give to outgoing connections: one of those could take the port of a stopped server.
_PORTS = range(20_000, 32_000)
_CHOICES_MAX = 100


def free_ports(wanted: Sequence[int]) -> list[int]:
    """The wanted ports, with a free one for each 0. Raises StackError if one is taken."""
    with contextlib.ExitStack() as stack:
        return [_bind(stack.enter_context(socket.socket()), port) for port in wanted]


def _bind(listener: socket.socket, wanted: int) -> int:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a stopped server's port is free at once
    candidates = [wanted] if wanted else [secrets.choice(_PORTS) for _ in range(_CHOICES_MAX)]
    for port in candidates:
        with contextlib.suppress(OSError):
            listener.bind((LOOPBACK, port))
            return port
    raise StackError(
        f"Port {candidates[0]} on {LOOPBACK} is in use. Stop the program that has it (another Temporal?), or choose "
        "another port: `paymaster dev --temporal-port 0` takes a free one."
    )
