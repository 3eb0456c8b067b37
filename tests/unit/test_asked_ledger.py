"""Which ledger a client, a workflow and an activity ask: that of the plugin, by argument, settings or environment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.plugin import SimplePlugin
from temporalio.testing import ActivityEnvironment
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    ReplayerConfig,
    WorkerConfig,
    WorkflowInterceptorClassInput,
)

from paymaster.asked_ledger import ledger_of_client
from paymaster.messages.temporal_names import LEDGER_FUNCTION
from paymaster.plugin import PaymasterPlugin
from paymaster.settings import ConfigurationError, LedgerSettings, Settings

ACME = Settings(ledger=LedgerSettings(name="acme"))


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings but those that a test makes."""
    monkeypatch.chdir(tmp_path)
    for name in ("PAYMASTER_CONFIG", "PAYMASTER__LEDGER__NAME"):
        monkeypatch.delenv(name, raising=False)


async def client(*plugins: Any) -> Client:
    """One that never connects."""
    return await Client.connect("127.0.0.1:1", lazy=True, plugins=plugins)


async def test_without_the_plugin_a_client_asks_the_default_ledger() -> None:
    assert ledger_of_client(await client()) == "default"
    assert ledger_of_client(await client(SimplePlugin("another"))) == "default"


async def test_the_plugin_names_the_ledger_of_the_settings_or_another(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ledger_of_client(await client(PaymasterPlugin())) == "default"
    assert ledger_of_client(await client(PaymasterPlugin(ACME))) == "acme"
    assert ledger_of_client(await client(PaymasterPlugin(ACME, ledger="zoo"))) == "zoo"
    assert ledger_of_client(await client(SimplePlugin("another"), PaymasterPlugin(ledger="zoo"))) == "zoo"
    Path("paymaster.toml").write_text('[ledger]\nname = "of-the-file"\n')
    assert ledger_of_client(await client(PaymasterPlugin())) == "of-the-file"
    monkeypatch.setenv("PAYMASTER__LEDGER__NAME", "of-the-shell")
    assert ledger_of_client(await client(PaymasterPlugin())) == "of-the-shell"


@pytest.mark.parametrize("name", ["", "Acme", "acme/zoo", "acme@zoo", "a" * 65, "ä", "acme\n"])
def test_a_bad_name_is_refused_in_words(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    advice = 'is no ledger name: write 1 to 64 of a-z, 0-9 and "-"'
    with pytest.raises(ConfigurationError, match=advice):
        PaymasterPlugin(Settings(), ledger=name)
    monkeypatch.setenv("PAYMASTER__LEDGER__NAME", name)
    with pytest.raises(ConfigurationError, match=rf"ledger\.name: .*{advice} \(see PAYMASTER__LEDGER__NAME\)"):
        PaymasterPlugin()


def told_to_workflows(interceptors: Any) -> str:
    """What the last of these has an agent's workflow know."""
    functions: dict[str, Callable[..., Any]] = {}
    for each in interceptors:
        each.workflow_interceptor_class(WorkflowInterceptorClassInput(unsafe_extern_functions=functions))
    return functions[LEDGER_FUNCTION]()


@pytest.mark.parametrize("queue", ["agents", "paymaster@acme"])
def test_workflows_are_told_which_ledger_they_ask(queue: str) -> None:
    config = PaymasterPlugin(ACME).configure_worker(WorkerConfig(task_queue=queue))
    assert told_to_workflows(config.get("interceptors")) == "acme"
    replaying = PaymasterPlugin(ACME).configure_replayer(ReplayerConfig())
    assert told_to_workflows(replaying.get("interceptors")) == "acme"


async def asked_in_activity(interceptors: Any, of: Client) -> str:
    """Which ledger an activity asks by this client, whose worker has these interceptors."""

    @activity.defn
    async def asks() -> str:
        return ledger_of_client(of)

    class Runs(ActivityInboundInterceptor):
        def __init__(self) -> None:
            pass

        async def execute_activity(self, input: ExecuteActivityInput) -> Any:
            return await input.fn(*input.args)

    inbound: ActivityInboundInterceptor = Runs()
    for each in interceptors:
        assert isinstance(each, Interceptor)
        inbound = each.intercept_activity(inbound)
    run = inbound.execute_activity
    return await ActivityEnvironment().run(run, ExecuteActivityInput(fn=asks, args=[], executor=None, headers={}))


async def test_activities_ask_their_clients_ledger_or_their_workers() -> None:
    config = PaymasterPlugin(ACME).configure_worker(WorkerConfig(task_queue="agents"))
    interceptors = config.get("interceptors")
    assert await asked_in_activity(interceptors, await client()) == "acme"
    assert await asked_in_activity(interceptors, await client(PaymasterPlugin(ledger="zoo"))) == "zoo"
    assert ledger_of_client(await client()) == "default", "not beyond the activity"


async def test_a_worker_whose_client_names_another_ledger_is_refused() -> None:
    """Its workflows would ask the one and its activities the other."""
    worker = PaymasterPlugin(ACME)
    for agreed in (await client(), await client(PaymasterPlugin(ACME))):
        worker.configure_worker(WorkerConfig(client=agreed, task_queue="agents"))
    other = await client(PaymasterPlugin(ledger="zoo"))
    with pytest.raises(ConfigurationError, match="the client's PaymasterPlugin names 'zoo', the worker's 'acme'"):
        worker.configure_worker(WorkerConfig(client=other, task_queue="agents"))
