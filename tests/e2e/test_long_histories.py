"""`paymaster dev` starts on a ledger with a long history while somebody asks for the budget again and again.

From Server 1.32 on a query that waits for the worker makes the server reject the update that waits with it, when the
history is too long for one answer. The worker gives the ledger its configuration just then.
"""

import asyncio
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, Popen
from tempfile import mkdtemp

import pytest
from paymaster_command import Command
from process_table import until
from temporalio.client import Client

from paymaster.client import Ledger
from paymaster.messages import RaiseCap, budget_workflow_id
from paymaster.plugin import PaymasterPlugin
from paymaster.settings import Settings

CONFIGURATION = """
[services.nobody]
api = "openai"
base_url = "http://127.0.0.1:1/v1"
models."m".price = { input = "1", output = "1" }

[routes]
writer = ["nobody/m"]

[budgets.dev]
cap_usd = { day = "1.00" }
"""
ASKS_FOR_EVER = """
import contextlib, sys
from paymaster.cli import main
sys.argv = ["paymaster", "budget", "show"]
while True:
    with contextlib.suppress(SystemExit):
        main()
"""
"""The real command without the second that each start of Python takes."""


class Dev:
    """`paymaster dev` with data of its own, at a port that stays the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._config = folder / "paymaster.toml"
        self._config.write_text(CONFIGURATION)
        self._port = _port()
        shell = {name: value for name, value in os.environ.items() if not name.startswith(("TEMPORAL_", "PAYMASTER"))}
        self.environment = shell | {
            "TEMPORAL_ADDRESS": f"127.0.0.1:{self._port}",
            "PAYMASTER_CONFIG": str(self._config),
        }
        self._temporal, self._kept = folder / "data" / "temporal", folder / "kept"

    @contextmanager
    def started(self) -> Generator[None]:
        log = self._folder / "data" / "logs" / "worker.log"
        log.unlink(missing_ok=True)
        data = ("--data-dir", str(self._folder / "data"), "--config", str(self._config))
        dev = Command("dev", *data, "--temporal-port", str(self._port), env=self.environment, folder=self._folder)
        try:
            dev.says("Ctrl-C stops everything")
            until(lambda: "worker ready" in log.read_text() or dev.process.poll() is not None, "the worker is ready")
            assert dev.process.poll() is None, dev.output
            yield
            dev.process.send_signal(signal.SIGINT)
            output = dev.ends_with(0)
            assert "Traceback" not in output, output
            assert "\x1b" not in output, output
        finally:
            dev.process.kill()
        dev.leaves_nothing()

    async def make_history(self, events: int) -> None:
        """So many events of raised caps, and never so many that it continues as new."""
        with self.started():
            client = await Client.connect(f"127.0.0.1:{self._port}", plugins=[PaymasterPlugin(Settings())])
            ledger, budget = Ledger(client), client.get_workflow_handle(budget_workflow_id("default"))
            while (missing := events - (await budget.describe()).history_length) > 0:
                for _ in range(max(1, missing // 20)):
                    await ledger.raise_cap(RaiseCap(account="budget:dev", window="day", by="0.01", reason="more"))
        shutil.copytree(self._temporal, self._kept)

    def restore(self) -> None:
        """Temporal's data as it was when the history was made."""
        shutil.rmtree(self._temporal)
        shutil.copytree(self._kept, self._temporal)

    @contextmanager
    def asked(self) -> Generator[None]:
        """While the block runs, `paymaster budget show` runs again and again."""
        command = [sys.executable, "-c", ASKS_FOR_EVER]
        asking = Popen(
            command, env=self.environment, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True
        )
        try:
            yield
        finally:
            os.killpg(asking.pid, signal.SIGKILL)
            asking.wait()


def _port() -> int:
    """One that is free, as is the one of the Web UI, 1000 above."""
    while True:
        with socket.socket() as front, socket.socket() as ui:
            front.bind(("127.0.0.1", 0))
            port = front.getsockname()[1]
            try:
                ui.bind(("127.0.0.1", port + 1_000))
            except (OSError, OverflowError):
                continue
            return port


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    """Not below a private home: PostgreSQL runs as another user when this is root."""
    folder = Path(mkdtemp(prefix="paymaster-test-", dir="/var/tmp")) if os.geteuid() == 0 else tmp_path
    folder.chmod(0o755)
    yield Dev(folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("events", "starts"),
    [
        pytest.param(1_200, 1, marks=pytest.mark.timeout(240)),
        *(
            pytest.param(events, 20, marks=[pytest.mark.full, pytest.mark.timeout(1_200)])
            for events in (1_200, 2_500, 4_000)
        ),
    ],
)
def test_dev_starts_on_a_long_history(dev: Dev, events: int, starts: int) -> None:
    asyncio.run(dev.make_history(events))
    took_s: list[float] = []
    for _ in range(starts):
        dev.restore()
        with dev.asked():
            began = time.monotonic()
            with dev.started():
                took_s.append(time.monotonic() - began)
    print(f"{events} events: {starts} of {starts} starts, {min(took_s):.1f} to {max(took_s):.1f} s")
