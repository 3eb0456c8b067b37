"""0.1.0 as it was released, out of this repository's history, for tests of both versions side by side."""

import io
import subprocess
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest
from paymaster_process import ROOT

COMMIT = "d4ba7f0"


class OldVersion(NamedTuple):
    """A folder with the whole of 0.1.0. A process that has it on its PYTHONPATH runs that code."""

    folder: Path

    @property
    def worker(self) -> Path:
        return self.folder / "worker.py"


def unpack(folder: Path) -> OldVersion:
    """Skips the test in a clone that lacks 0.1.0's commit: a shallow one, or a source distribution."""
    archive = subprocess.run(["git", "-C", ROOT, "archive", COMMIT], capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip(f"this clone does not have 0.1.0 ({COMMIT}): {archive.stderr.decode().strip()[:200]}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return OldVersion(folder)
