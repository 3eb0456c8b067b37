"""Runs `paymaster` in a folder with a good configuration."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast
from unittest.mock import patch

import pytest
from command_line import CONFIGURATION, ENVIRONMENT, NOWHERE, PAYMASTER, Ended, Run

from paymaster.cli import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a good configuration."""
    (tmp_path / "paymaster.toml").write_text(CONFIGURATION)
    return tmp_path


@pytest.fixture
def run_process(folder: Path) -> Run:
    """Runs `paymaster` as a user does, with nothing of the shell's environment."""

    def run(*arguments: str, **environment: str) -> Ended:
        environment = {**ENVIRONMENT, "TEMPORAL_ADDRESS": NOWHERE, **environment}
        return subprocess.run(
            [PAYMASTER, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
        )

    return run


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `paymaster` within this process: a new interpreter for each of these tests would take a minute more."""

    def run(*arguments: str, **environment: str) -> Ended:
        with monkeypatch.context() as changed, patch.dict(os.environ):  # `--ledger` sets a variable
            changed.chdir(folder)
            changed.setattr(sys, "argv", ["paymaster", *arguments])
            for name in [name for name in os.environ if name.startswith(("PAYMASTER", "TEMPORAL"))]:
                changed.delenv(name)
            for name, value in {"TEMPORAL_ADDRESS": NOWHERE, **environment}.items():
                changed.setenv(name, value)
            # In a thread, because commands run an event loop of their own.
            with ThreadPoolExecutor(1) as thread, pytest.raises(SystemExit) as ended:
                thread.submit(main).result()
        captured = capsys.readouterr()
        return Ended(arguments, cast(int, ended.value.code), captured.out, captured.err)

    return run
