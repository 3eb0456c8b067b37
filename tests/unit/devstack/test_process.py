"""A guarded process ends with its owner, and stops when it is told to."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_table import alive, descendants, until

from paymaster.devstack import GuardedProcess, StackError, clean_environment

SLEEP = "import time; time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); {SLEEP}"
# An owner that starts a command, which starts another one, and then does nothing.
OWNER = """
import signal, sys
from paymaster.devstack import GuardedProcess
process = GuardedProcess(["sh", "-c", "sleep 600 & sleep 600"])
print(process.pid, flush=True)
signal.pause()
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


async def test_output_goes_to_the_log_and_the_exit_code_comes_back(tmp_path: Path) -> None:
    log_file = tmp_path / "log"
    log_file.write_text("from an earlier run\n")
    async with GuardedProcess(python("print('hello'); raise SystemExit(3)"), log_file=log_file) as process:
        assert await process.wait(timeout=20) == 3
    assert log_file.read_text() == "from an earlier run\nhello\n"
    assert process.log_tail() == "hello"


async def test_stop_sends_the_stop_signal_to_the_command() -> None:
    process = GuardedProcess(python(SLEEP), stop_signal=signal.SIGINT)
    assert process.poll() is None
    assert await process.stop() == -signal.SIGINT
    assert await process.stop() == -signal.SIGINT, "a second stop answers the same"


async def test_a_command_that_ignores_the_stop_signal_is_killed_when_the_grace_is_over(tmp_path: Path) -> None:
    process = GuardedProcess(python(DEAF), log_file=tmp_path / "log", grace_s=0.1)
    until(lambda: process.log_tail() == "deaf", "the command ignores the signal")
    assert await process.stop() == -signal.SIGKILL


async def test_a_suspended_command_stops_without_waiting_for_the_grace() -> None:
    process = GuardedProcess(python(SLEEP), grace_s=600)
    process.send_signal(signal.SIGSTOP)
    assert await process.stop() == -signal.SIGTERM


async def test_kill_reaches_the_command_itself() -> None:
    process = GuardedProcess(python(SLEEP))
    process.kill()
    assert await process.wait(timeout=20) == -signal.SIGKILL


async def test_wait_gives_up_after_its_timeout_and_the_command_runs_on() -> None:
    async with GuardedProcess(python(SLEEP)) as process:
        with pytest.raises(TimeoutError):
            await process.wait(timeout=0.05)
        assert process.returncode is None


async def test_the_terminals_ctrl_c_does_not_reach_the_command() -> None:
    async with GuardedProcess(python(SLEEP)) as process:
        assert os.getsid(process.pid) != os.getsid(0)


def test_a_command_that_cannot_be_executed_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"no-such-program.*No such file"):
        GuardedProcess([tmp_path / "no-such-program"])


def test_sigkill_of_the_owner_ends_the_command_and_what_that_started() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        command = int(owner.stdout.readline())
        until(lambda: len(descendants(command)) == 2, "the command starts two others")
        started = descendants(owner.pid)
        assert command in started
        owner.kill()
    until(lambda: not alive(started), "everything ends", deadline_s=5)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
async def test_sigkill_of_the_guard_ends_the_command() -> None:
    process = GuardedProcess(python(SLEEP))
    (guard,) = (pid for pid in descendants(os.getpid()) if process.pid in descendants(pid))
    os.kill(guard, signal.SIGKILL)
    until(lambda: not alive({process.pid}), "the command ends", deadline_s=5)
    await process.stop()


async def test_a_lock_that_is_kept_open_outlives_its_owner_until_the_command_ends(tmp_path: Path) -> None:
    lock_file = tmp_path / "lock"
    with open(lock_file, "w") as owners:
        fcntl.flock(owners, fcntl.LOCK_EX)
        process = GuardedProcess(python(SLEEP), keep_open=[owners.fileno()])
    with open(lock_file, "w") as others:
        with pytest.raises(BlockingIOError):
            fcntl.flock(others, fcntl.LOCK_EX | fcntl.LOCK_NB)
        await process.stop()
        fcntl.flock(others, fcntl.LOCK_EX | fcntl.LOCK_NB)


async def test_the_command_does_not_get_what_the_shell_says_about_temporal_and_postgresql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", "production:7233")
    monkeypatch.setenv("PGHOST", "production")
    monkeypatch.setenv("OTHER", "stays")
    async with GuardedProcess(["env"], log_file=tmp_path / "log") as process:
        await process.wait(timeout=20)
    seen = (tmp_path / "log").read_text()
    assert "production" not in seen
    assert "OTHER=stays" in seen
    assert clean_environment(TEMPORAL_ADDRESS="127.0.0.1:1")["TEMPORAL_ADDRESS"] == "127.0.0.1:1"


async def test_starting_and_stopping_take_a_moment() -> None:
    started = time.monotonic()
    await GuardedProcess(python(SLEEP)).stop()
    took_s = time.monotonic() - started
    print(f"started and stopped in {took_s * 1000:.0f} ms")
    assert took_s < 5
