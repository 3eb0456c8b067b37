"""Child processes that end with their owner, and the environment that they get."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from paymaster.devstack.errors import StackError

POLL_S = 0.02  # how often a wait looks; short against the times that servers take
_GUARD = Path(__file__).with_name("guard.py")
_LOG_TAIL_BYTES = 8_192


class GuardedProcess:
    """A running command that ends when its owner, this process, ends in whatever way: return, Ctrl-C or SIGKILL.

    The command starts in a process group and session of its own, so Ctrl-C in a terminal does not reach it: call
    `stop`. Its standard input is empty. Everything here is quick and may be called from asyncio code: starting takes
    about 30 ms, waiting never blocks the event loop.
    """

    pid: int
    """The process id of the command itself, not of its guard."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log_file: Path | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace_s: float = 5.0,
        keep_open: Sequence[int] = (),
    ) -> None:
        """Starts the command.

        `env` is its whole environment; None means `clean_environment()`. `cwd` None means this process's. `log_file`
        gets its output, appended; None means that it writes where this process writes. `user` is the name of the user
        to run as, for root only; None means the same user. On `stop`, or when the owner is gone, the command gets
        `stop_signal` and, `grace_s` seconds later, SIGKILL. The descriptors in `keep_open` stay open until the command
        has ended: that is how a file lock can outlive its owner. Raises StackError if the command can't be executed.
        """
        self._log_file = log_file
        self._log_start = log_file.stat().st_size if log_file and log_file.exists() else 0
        self.command = [str(part) for part in command]
        report_reader, report_writer = os.pipe()
        with open(report_reader, "rb") as report:
            try:
                passed = (report_writer, *keep_open)
                self._guard = _start_guard(
                    [",".join(map(str, passed)), str(int(stop_signal)), str(grace_s), user or "-", *self.command],
                    env=clean_environment() if env is None else env,
                    cwd=cwd,
                    log_file=log_file,
                    passed=passed,
                )
            finally:
                os.close(report_writer)
            answer = report.readline().decode().strip()
        if not answer.isdecimal():
            self._close_lifeline()
            self._guard.wait()
            raise StackError(f"{self.command[0]} could not be started: {answer or 'its guard process died'}")
        self.pid = int(answer)

    @property
    def returncode(self) -> int | None:
        """The exit code; negative for the signal that it died from; None while it runs."""
        return self.poll()

    def poll(self) -> int | None:
        """The exit code, None while it runs: `returncode`."""
        returncode = self._guard.poll()
        if returncode is not None:
            self._close_lifeline()
        return returncode

    async def wait(self, timeout: float | None = None) -> int:
        """Waits until the command has ended and returns the exit code as `returncode` has it.

        `timeout` is in seconds, None = no limit; raises TimeoutError and leaves the command running.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (returncode := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"{self.command[0]} still runs after {timeout} s")
            await asyncio.sleep(POLL_S)
        return returncode

    async def stop(self) -> int:
        """Stops the command as described above, waits for its end and returns the exit code. May be called again.

        A caller that is cancelled meanwhile stops waiting; the command ends all the same.
        """
        self._close_lifeline()
        return await self.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal to the command itself. Nothing happens if it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # ended, and the guard has not reported yet
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL for the command itself."""
        self.send_signal(signal.SIGKILL)

    def log_tail(self, lines: int = 15) -> str:
        """The last lines that the command wrote to its log file; nothing from earlier runs."""
        if self._log_file is None or not self._log_file.exists():
            return ""
        with open(self._log_file, "rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def _close_lifeline(self) -> None:
        assert self._guard.stdin is not None
        self._guard.stdin.close()


def _start_guard(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None,
    log_file: Path | None,
    passed: Sequence[int],
) -> "subprocess.Popen[bytes]":
    output = None if log_file is None else open(log_file, "ab")  # noqa: SIM115 - closed below
    # A Ctrl-C must not end the guard before it is in its own session; it unblocks the signal itself.
    signals_before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=dict(env),
            cwd=cwd,
            pass_fds=passed,
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, signals_before)
        if output is not None:
            output.close()


class Server:
    """A server that can be stopped, killed and started again."""

    _process: GuardedProcess | None = None

    @property
    def process(self) -> GuardedProcess:
        """The process of the latest start, for tests that kill it for real. RuntimeError before the first start."""
        if self._process is None:
            raise RuntimeError(f"{type(self).__name__} has not been started")
        return self._process

    async def stop(self) -> None:
        """Stops the server and returns when it has ended. Nothing happens if it does not run."""
        if self._process is not None:
            await self._process.stop()


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without `TEMPORAL_*` and `PG*`, plus `extra`.

    The embedded stack must not depend on which servers the shell happens to point at.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TEMPORAL_", "PG"))}
    return kept | extra


def minimal_environment(**extra: str) -> dict[str, str]:
    """What a server of ours needs and no more, so that no key in the shell is handed to it."""
    wanted = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in wanted if name in os.environ} | extra
