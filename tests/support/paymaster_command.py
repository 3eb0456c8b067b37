"""A `paymaster` command, run as a person runs it."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import warm_start
from process_table import alive, descendants, until

PAYMASTER = [sys.executable, "-c", "import sys; from paymaster.__main__ import main; sys.argv[0] = 'paymaster'; main()"]


def document(*arguments: str, env: Mapping[str, str], folder: Path) -> Any:
    """What a command prints with `--json`, in a process that is forked. Fails unless its exit code is 0."""
    with TemporaryFile() as output, TemporaryFile() as errors:
        process = warm_start.start(
            "paymaster", [*arguments, "--json"], environment=env, folder=folder, output=output, errors=errors
        )
        until(lambda: process.poll() is not None, "the command ends", 60.0)
        output.seek(0)
        errors.seek(0)
        assert process.poll() == 0, errors.read().decode()
        return json.load(output)


class Command:
    """A `paymaster` command that is running."""

    def __init__(self, *arguments: str, env: Mapping[str, str], folder: Path) -> None:
        self.output_file = folder / "output"
        with self.output_file.open("w") as output:
            self.process = subprocess.Popen(
                [*PAYMASTER, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=dict(env),
                start_new_session=True,
            )
        self.children: set[int] = set()

    @property
    def output(self) -> str:
        self.children |= descendants(self.process.pid)
        return self.output_file.read_text()

    def says(self, text: str, deadline_s: float = 90.0) -> None:
        def said() -> bool:
            assert text in self.output or self.process.poll() is None, self.output
            return text in self.output

        until(said, f"{text!r} in the output", deadline_s)

    def ends_with(self, code: int, deadline_s: float = 30.0) -> str:
        until(lambda: self.process.poll() is not None, "the command ends", deadline_s)
        assert self.process.returncode == code, self.output
        return self.output

    def leaves_nothing(self) -> None:
        assert len(self.children) >= 2, "nothing was started, so this proves nothing"
        until(lambda: not alive(self.children), "everything that it started is gone")
