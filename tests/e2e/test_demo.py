"""`paymaster demo` and `paymaster dev`, run as a person runs them, on the real local model."""

import os
import re
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from paymaster_command import Command, document
from process_table import until
from temporalio.client import Client

from paymaster.devstack import EmbeddedStack

NONSENSE = {
    "TEMPORAL_ADDRESS": "nonsense.invalid:1",
    "TEMPORAL_NAMESPACE": "nonsense",
    "OPENAI_API_KEY": "nonsense",
    "PAYMASTER__DATABASE__URL": "postgresql://nonsense.invalid/nonsense",
}

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def environment() -> dict[str, str]:
    """The shell points at things that are not there: the demo must not care."""
    return dict(os.environ) | NONSENSE


@pytest.fixture(autouse=True)
def home_stays_private() -> Iterator[None]:
    home = Path.home()
    before = stat.S_IMODE(home.stat().st_mode)
    yield
    assert stat.S_IMODE(home.stat().st_mode) == before


def test_the_demo_parks_raises_finishes_and_its_books_agree(environment: dict[str, str], tmp_path: Path) -> None:
    """At least five completed attempts with the model's own counts; their sum is what `budget show --json` says."""
    demo = Command("demo", "--keep", env=environment, folder=tmp_path)
    demo.says("Still running, until Ctrl-C", 150.0)
    output = demo.output
    assert output.index("parked:") < output.index("raise_cap {") < output.index("3. The article")
    assert "agree, to the nano-dollar" in output
    exported = dict(re.findall(r"export (\w+)='(.*)'", output))
    shell = {name: value for name, value in os.environ.items() if not name.startswith(("TEMPORAL_", "PAYMASTER"))}

    asked = partial(document, env=shell | exported, folder=tmp_path)
    usage = asked("usage", "--by", "status")
    (completed,) = [row for row in usage["rows"] if row["status"] == "completed"]
    assert completed["attempts"] >= 5
    assert completed["input_tokens"] > 0
    assert completed["output_tokens"] > 0
    (budget,) = asked("budget", "show", "demo")["accounts"]
    posted = {window["window"]: window["posted_usd"] for window in budget["windows"]}
    assert posted["day"] == posted["total"] == completed["cost_usd"]
    assert asked("reconcile")["agree"] is True
    os.kill(demo.process.pid, signal.SIGINT)
    demo.ends_with(0)
    demo.leaves_nothing()


@pytest.mark.full
async def test_the_demo_on_another_server_has_a_namespace_of_its_own(
    stack: EmbeddedStack, environment: dict[str, str], tmp_path: Path
) -> None:
    demo = Command("demo", "--temporal", stack.temporal_address, env=environment, folder=tmp_path)
    output = demo.ends_with(0, 150.0)
    assert "agree, to the nano-dollar" in output
    (namespace,) = re.findall(r"/namespaces/(paymaster-\w+)/workflows at 127", output)
    client = await Client.connect(stack.temporal_address, namespace=namespace)
    assert (await client.count_workflows('WorkflowType = "LLMCallWorkflow"')).count >= 5


def test_the_demo_on_a_server_that_is_not_there_says_so(environment: dict[str, str], tmp_path: Path) -> None:
    nobody = Command("demo", "--temporal", "127.0.0.1:1", env=environment, folder=tmp_path)
    assert "no namespace for the demo could be made at 127.0.0.1:1" in nobody.ends_with(2)


@pytest.mark.parametrize("moment", ["Starting Temporal", pytest.param("✓ outline", marks=pytest.mark.full)])
def test_ctrl_c_at_any_point_leaves_no_process(environment: dict[str, str], tmp_path: Path, moment: str) -> None:
    demo = Command("demo", env=environment, folder=tmp_path)
    demo.says(moment)
    until(lambda: len(demo.output) > 0 and len(demo.children) >= 2, "it has started something")
    os.kill(demo.process.pid, signal.SIGINT)
    demo.ends_with(130)
    demo.leaves_nothing()


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.full), signal.SIGKILL])
def test_a_killed_demo_leaves_no_process(environment: dict[str, str], tmp_path: Path, number: signal.Signals) -> None:
    demo = Command("demo", env=environment, folder=tmp_path)
    demo.says("✓ outline")
    demo.process.send_signal(number)
    demo.ends_with(143 if number is signal.SIGTERM else -signal.SIGKILL)
    demo.leaves_nothing()


def test_dev_answers_other_commands_and_keeps_its_data(tmp_path: Path) -> None:
    """What `paymaster call` spent is still in the books after `dev` was stopped and started."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TEMPORAL_", "PAYMASTER"))}
    outside_homes = Path("/var/tmp") / f"paymaster-test-{os.getpid()}-{time.time_ns()}"
    data = outside_homes if os.geteuid() == 0 else tmp_path / "dev"
    spent: list[str] = []
    for _ in range(2):
        dev = Command("dev", "--data-dir", str(data), "--temporal-port", "0", env=env, folder=tmp_path)
        dev.says("Ctrl-C stops everything")
        found = dict(re.findall(r"export (\w+)='(.*)'", dev.output))
        assert '\n  paymaster call writer "What is a ledger?"\n' in dev.output

        paymaster = partial(document, env=env | found, folder=tmp_path)
        answer = paymaster("call", "writer", "Say hello.", "--max-output-tokens", "8")
        assert answer["outcome"] == "completed"
        (budget,) = paymaster("budget", "show", "dev")["accounts"]
        (total,) = [window["posted_usd"] for window in budget["windows"] if window["window"] == "total"]
        spent.append(total)
        assert paymaster("reconcile")["agree"] is True
        os.kill(dev.process.pid, signal.SIGINT)
        dev.ends_with(0)
        dev.leaves_nothing()
    assert float(spent[0]) < float(spent[1]) < 3 * float(spent[0])
    shutil.rmtree(data)
