"""Workers and commands without the seconds that their imports take: forks of one process that has imported everything.

Each is a process of its own, in a session of its own, with its own arguments, environment, folder and files; it is
killed, frozen and waited for like any other. What no fork can show, a variable that is read by an import say, is asked
of programs that start by themselves: `running_site(warm=False)`.
"""

import asyncio
import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Literal

Program = Literal["worker", "paymaster"]
_FORKS = Path(__file__).with_name("warm_forks.py")
_DIED = "the process that forks workers and commands has died; its last words are on stderr"
_GRACE_S = 5.0
_POLL_S = 0.01


class WarmProcess:
    """A forked process, with what tests use of `GuardedProcess`."""

    def __init__(self, pid: int, ended: IO[bytes]) -> None:
        self.pid = pid
        self._ended = ended
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for the signal that it died from; None while it runs."""
        if self._code is None:
            with contextlib.suppress(BlockingIOError):
                said = os.read(self._ended.fileno(), 64)
                self._ended.close()
                if not said:
                    raise RuntimeError(_DIED)
                self._code = int(said)
        return self._code

    async def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended. Raises TimeoutError after so many seconds, and leaves it running. Default:
        no limit."""
        async with asyncio.timeout(timeout):
            while (code := self.poll()) is None:
                await asyncio.sleep(_POLL_S)
        return code

    async def stop(self) -> int:
        """Sends SIGTERM, and SIGKILL to one that has not ended five seconds later. Returns the exit code."""
        self.send_signal(signal.SIGTERM)
        self.send_signal(signal.SIGCONT)  # a suspended process would not see the signal before the grace is over
        try:
            return await self.wait(_GRACE_S)
        except TimeoutError:
            self.kill()
            return await self.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing happens if it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # ended, and that has not been said yet
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    program: Program,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path,
    output: IO[bytes],
    errors: IO[bytes],
) -> WarmProcess:
    """Starts the worker or the command, whose input is empty. It ends with this process at the latest."""
    request = {"program": program, "arguments": arguments, "environment": dict(environment), "folder": str(folder)}
    reader, writer = os.pipe()
    ended = open(reader, "rb", buffering=0)  # noqa: SIM115 - the process that is returned reads it to its end
    files = [writer, output.fileno(), errors.fileno()]
    with contextlib.suppress(BrokenPipeError):  # then nothing comes back either
        socket.send_fds(prepare(), [json.dumps(request).encode() + b"\n"], files)
    os.close(writer)
    pid = ended.readline()
    if not pid:
        ended.close()
        raise RuntimeError(_DIED)
    os.set_blocking(reader, False)
    return WarmProcess(int(pid), ended)


def prepare() -> socket.socket:
    """Starts the process that forks where it does not run yet; its imports take a while. Returns the way to it."""
    if not _started:
        ours, theirs = socket.socketpair()
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
        with theirs:
            process = subprocess.Popen(
                [sys.executable, _FORKS, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=kept,
                start_new_session=True,
            )
        _started.append((ours, process))
        atexit.register(_end)
    return _started[0][0]


def _end() -> None:
    for ours, process in _started:
        ours.close()
        process.wait()


_started: list[tuple[socket.socket, "subprocess.Popen[bytes]"]] = []
