"""The five commands of README: from `git clone` to a call on a service of one's own, and to the first agent."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from own_server import MODEL, SAYS, own_server
from paymaster_process import ROOT
from process_table import until

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]


def commands() -> list[str]:
    """Those of README, without what is said about them."""
    page = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"## A service of your own in five commands.*?```sh\n(.*?)```", page, re.DOTALL)
    return [re.sub(r"\s+# .*", "", line) for line in block.splitlines()]


@pytest.fixture
def data() -> Iterator[Path]:
    """A folder that the user of PostgreSQL can reach."""
    folder = Path("/var/tmp") / f"paymaster-first-{os.getpid()}-{time.time_ns()}"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class Terminal:
    """Runs commands in a folder, and says how long each took."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment

    def run(self, command: str) -> str:
        began = time.monotonic()
        ended = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        print(f"{time.monotonic() - began:5.1f} s  {command}")
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout


def test_five_commands_lead_to_a_call_on_ones_own_service(tmp_path: Path, data: Path) -> None:
    clone, export, init, dev, call = commands()
    assert export == "export OPENAI_API_KEY=sk-…"
    hidden = ("TEMPORAL_", "PAYMASTER", "OPENAI_", "ANTHROPIC_", "GEMINI_", "AZURE_", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    terminal = Terminal(tmp_path, environment)
    began = time.monotonic()
    terminal.run(clone.replace("URL", f"file://{ROOT}"))
    with own_server() as url:
        checkout = Terminal(tmp_path / "paymaster", environment | {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "sk-test"})
        assert f"paymaster.toml: own/{MODEL}, with the key in OPENAI_API_KEY" in checkout.run(init)
        with running(dev, checkout, data) as found:
            checkout.environment |= found
            assert checkout.run(call) == f"{SAYS}\n"
            print(f"{time.monotonic() - began:5.1f} s  from the clone to the answer")
            assert f"{SAYS}\n\n($0" in checkout.run(".venv/bin/python my_agent.py")


@contextmanager
def running(dev: str, terminal: Terminal, data: Path) -> Generator[dict[str, str]]:
    """`make dev` on ports and data of its own; the variables that point commands at it."""
    said = terminal.folder / "dev.log"
    arguments = f"--data-dir {data} --temporal-port 0"
    with said.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-c", dev],
            cwd=terminal.folder,
            env=terminal.environment | {"ARGS": arguments},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until(lambda: "Ctrl-C stops everything" in said.read_text() or process.poll() is not None, "dev runs", 120.0)
        assert process.poll() is None, said.read_text()
        yield dict(re.findall(r"export (\w+)='(.*)'", said.read_text()))
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
