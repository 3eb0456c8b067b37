"""Fixtures for tests that start real servers."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """An empty folder for data that outlives a stack. Pytest's own is closed to the user that PostgreSQL runs as."""
    if os.geteuid() != 0:
        yield tmp_path / "data"
        return
    folder = Path(tempfile.mkdtemp(prefix="paymaster-test-", dir="/var/tmp"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)
