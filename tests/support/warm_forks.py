"""The process that workers and commands of tests are forks of: `python warm_forks.py FD`; warm_start.py asks it.

It imports what the programs may import and runs nothing of it: no event loop, no thread, nothing of Temporal's runtime.
Each request is a line of JSON with three files: where the process is told of, its output, its errors.
"""

import contextlib
import gc
import json
import os
import pkgutil
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_LOADED = ("worker", "paymaster", "workflows", "activities")
_LEFT_OUT = ("paymaster.devstack", "paymaster.integrations", "paymaster.testing", "paymaster.transport")
_TASKS = Path("/proc/self/task")


def serve(control: socket.socket) -> Callable[[], object]:
    """Forks for each request until the tests are gone. Comes back in the forked process only, with its program."""
    programs = _programs()
    gc.collect()
    gc.freeze()  # so that forks share it
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # having a handler makes it write to the pipe
    signal.set_wakeup_fd(wake)
    told: dict[int, int] = {}
    """Where the end of each running process is told."""
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            os.read(woken, 65_536)
            _tell_of_ends(told)
        if control not in ready:
            continue
        request, files = _request(control)
        if request is None:
            for pid in told:
                os.kill(pid, signal.SIGKILL)
            sys.exit()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            control.close()
            for file in (woken, wake, *told.values()):
                os.close(file)
            return _become(request, files, programs)
        told[pid], *of_the_process = files
        _tell(told[pid], pid)
        for file in of_the_process:
            os.close(file)


def _programs() -> dict[str, Callable[[], object]]:
    """The programs, with all that they may import later. Raises RuntimeError if an import has begun to do something."""
    sys.path[0] = str(ROOT)
    for name in _LOADED:
        module = import_module(name)
        for found in pkgutil.walk_packages(getattr(module, "__path__", []), f"{name}."):
            if not found.name.startswith(_LEFT_OUT):
                import_module(found.name)
    # Every worker would read all these modules once more to tell Temporal which code it is.
    import_module("temporalio.worker._worker").load_default_build_id()
    threads = len(list(_TASKS.iterdir())) if _TASKS.exists() else threading.active_count()
    if threads > 1:
        raise RuntimeError(f"after the imports {threads} threads run; a fork would lack all but one")
    import worker
    from paymaster.__main__ import main

    return {"worker": worker.main, "paymaster": main}


def _request(control: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The next request and its files; None when nobody asks any more."""
    said, files = b"", list[int]()
    while not said.endswith(b"\n"):
        heard, found, _, _ = socket.recv_fds(control, 65_536, 3)
        if not heard:
            return None, files
        said, files = said + heard, [*files, *found]
    return json.loads(said), files


def _tell_of_ends(told: dict[int, int]) -> None:
    while told:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        file = told.pop(pid)
        _tell(file, os.waitstatus_to_exitcode(status))
        os.close(file)


def _tell(file: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody wants to know any more
        os.write(file, f"{number}\n".encode())


def _become(
    request: Mapping[str, Any], files: Sequence[int], programs: Mapping[str, Callable[[], object]]
) -> Callable[[], object]:
    """Makes of this fork what a start of the program would be; returns the program."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests are a shell's background job
    told, *outputs = files
    os.close(told)
    for number, file in enumerate(outputs, start=1):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    sys.argv = [str(ROOT / "worker.py") if request["program"] == "worker" else "paymaster", *request["arguments"]]
    return programs[request["program"]]


if __name__ == "__main__":
    forked = serve(socket.socket(fileno=int(sys.argv[1])))
    sys.exit(forked())  # pyright: ignore[reportArgumentType] - as a console script does
