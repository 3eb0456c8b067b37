"""A worker or a command of the tests that is forked is as one that was started: beside each other, both ways."""

import base64
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import warm_start
from paymaster_process import until
from warm_start import WarmProcess

from paymaster.devstack import GuardedProcess

ROOT = Path(__file__).resolve().parents[2]
STARTED = {
    "worker": (sys.executable, ROOT / "worker.py"),
    "paymaster": (Path(sys.executable).with_name("paymaster"),),
}
CODEC = """
[encryption]
keys = ["payloads"]
[codec]
token = "token"
port = 0
"""
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "TEMPORAL_ADDRESS": "127.0.0.1:1",
    "TZ": "Asia/Kathmandu",
    "PAYLOADS": base64.b64encode(bytes(32)).decode(),
    "TOKEN": "0123456789abcdef" * 4,
}
Start = Callable[..., GuardedProcess | WarmProcess]


class Place(NamedTuple):
    folder: Path
    start: Start

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture(params=["forked", pytest.param("started", marks=pytest.mark.full)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    def started(program: warm_start.Program, *arguments: str) -> GuardedProcess:
        command = [*STARTED[program], *arguments]
        return GuardedProcess(command, env=ENVIRONMENT, cwd=tmp_path, log_file=tmp_path / "log")

    def forked(program: warm_start.Program, *arguments: str) -> WarmProcess:
        with (tmp_path / "log").open("wb") as log:
            return warm_start.start(
                program, arguments, environment=ENVIRONMENT, folder=tmp_path, output=log, errors=log
            )

    (tmp_path / "paymaster.toml").write_text(CODEC)
    return Place(tmp_path, {"started": started, "forked": forked}[request.param])


@pytest.mark.parametrize(
    ("program", "arguments", "code", "said"),
    [
        ("paymaster", ["--version"], 0, "paymaster 0."),
        ("paymaster", ["no-such-command"], 2, "Usage: paymaster"),
        ("paymaster", ["budget", "show"], 2, "127.0.0.1:1"),
        ("worker", ["--help"], 0, "usage: worker.py"),
        ("worker", ["--config", "missing.toml"], 2, "missing.toml"),
    ],
)
async def test_what_it_says_and_its_exit_code(
    place: Place, program: warm_start.Program, arguments: list[str], code: int, said: str
) -> None:
    process = place.start(program, *arguments)
    assert await process.wait(60) == code, place.log
    assert said in place.log


async def serving(place: Place) -> GuardedProcess | WarmProcess:
    process = place.start("paymaster", "codec")
    await until(lambda: "http://" in place.log or process.poll() is not None, "it serves", 60)
    assert process.poll() is None, place.log
    return process


def signals(state: Path, which: str) -> set[int]:
    (mask,) = re.findall(rf"^{which}:\t(\w+)$", (state / "status").read_text(), re.MULTILINE)
    return {number for number in range(1, 65) if int(mask, 16) >> (number - 1) & 1}


async def test_it_is_a_process_of_its_own(place: Place) -> None:
    process = await serving(place)
    try:
        state = Path(f"/proc/{process.pid}")
        files = {int(file.name): os.readlink(file) for file in (state / "fd").iterdir()}
        assert os.getpgid(process.pid) == process.pid
        assert (state / "cwd").resolve() == place.folder
        assert [files[number] for number in (0, 1, 2)] == [os.devnull, *2 * [str(place.folder / "log")]]
        # An event loop's descriptor, its pair of sockets and the listener: nothing of anybody else.
        assert len(files) == 3 + 4, files
        assert signals(state, "SigBlk") == set()
        assert signals(state, "SigIgn") <= signals(Path("/proc/self"), "SigIgn") - {signal.SIGINT}
    finally:
        await process.stop()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 0), (signal.SIGTERM, 143)],
)
async def test_signals_reach_it(place: Place, number: signal.Signals, code: int) -> None:
    process = await serving(place)
    process.send_signal(number)
    assert await process.wait(20) == code, place.log
    process.send_signal(number)  # nothing happens to anybody


async def test_one_that_is_frozen_is_stopped(place: Place) -> None:
    process = await serving(place)
    process.send_signal(signal.SIGSTOP)
    assert await process.stop() == 143


async def test_its_end_is_told_when_others_have_ended_before(place: Place) -> None:
    first, second = await serving(place), place.start("paymaster", "--version")
    assert await second.wait(60) == 0
    assert first.poll() is None
    first.kill()
    assert await first.wait(20) == -signal.SIGKILL
