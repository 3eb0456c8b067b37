"""Whatever is sent to a workflow: afterwards the ledger grants, settles, begins anew and answers."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService
from fuzz import Fuzzed, fuzzed
from load import asking
from paymaster_process import Databases, Site, configuration, results_of, running_site, until
from temporalio.client import (
    Client,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import RawValue
from temporalio.service import RPCError

from paymaster import LLMRequest, LLMResult, Outcome
from paymaster.client import start, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import (
    CALLS_TASK_QUEUE,
    BacklogBatch,
    BacklogStart,
    PauseService,
    ResumeService,
    backlog_workflow_id,
    budget_workflow_id,
)
from paymaster.messages.temporal_names import CALLER_GONE
from paymaster.settings.desk_config import desk_config
from paymaster.storage.account_sums import posted_by_account
from workflows.content_agent import ArticleRequest, ContentAgentWorkflow
from workflows.ledger import BudgetWorkflow
from workflows.llm_call import LLMCallWorkflow
from workflows.usage_backlog import UsageBacklogWorkflow

AT_ONCE = 10
ANSWERED_WITHIN = timedelta(seconds=20)
"""One message. A megabyte in a signal makes the server fail the task that is under way; the next one answers."""
GOES_ON_WITHIN_S = 120.0
METADATA_QUERY = "__temporal_workflow_metadata"
"""Every workflow of the SDK answers it."""
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
async def forgetful_temporal() -> AsyncIterator[str]:
    """The address of a server that suggests continue-as-new after every 500 events."""
    limits = {"limit.historyCount.suggestContinueAsNew": 500}
    async with EmbeddedStack(postgres=False, model=False, headless=True, dynamic_config=limits) as stack:
        yield stack.temporal_address


@pytest.fixture
def service(server: CountingServer) -> FakeService:
    return server.service(f"fuzzed-{next(NUMBERS)}")


@pytest.fixture
def paused(server: CountingServer) -> FakeService:
    """A second service, which an admin pauses: calls of its route are parked."""
    return server.service(f"paused-{next(NUMBERS)}")


@pytest.fixture
async def site(
    forgetful_temporal: str, databases: Databases, service: FakeService, paused: FakeService, tmp_path: Path
) -> AsyncIterator[Site]:
    routes = {"writer": [service], "parked": [paused]}
    tables = configuration([service, paused], routes=routes, budgets={"acme": {"cap_usd": {"total": "1000"}}})
    async with running_site(forgetful_temporal, await databases.create(), tmp_path, tables) as site:
        yield site


def handlers(kind: type) -> dict[str, list[str]]:
    """The names of a workflow's signals, updates and queries; those of others show that nobody is hurt by a mistake.

    Without the signal that a caller has gone, whose whole content is its name: the call ends by it.
    """
    definition = vars(kind)["__temporal_workflow_definition"]
    return {
        "signal": [name for name in definition.signals if name and name != CALLER_GONE.name],
        "update": [name for name in definition.updates if name],
        "query": [name for name in definition.queries if name],
    }


class Sender:
    """Sends to one workflow and counts what became of it."""

    def __init__(self, client: Client, workflow_id: str) -> None:
        self._handle: WorkflowHandle[object, object] = client.get_workflow_handle(workflow_id)
        self.outcomes = Counter[str]()

    async def send(self, how: str, message: Fuzzed) -> None:
        arguments = [RawValue(payload) for payload in message.payloads]
        try:
            match how:
                case "signal":
                    await self._handle.signal(message.name, args=arguments, rpc_timeout=ANSWERED_WITHIN)
                case "update":
                    await self._handle.execute_update(message.name, args=arguments, rpc_timeout=ANSWERED_WITHIN)
                case _:
                    await self._handle.query(message.name, args=arguments, rpc_timeout=ANSWERED_WITHIN)
        except (WorkflowUpdateFailedError, WorkflowQueryFailedError, WorkflowQueryRejectedError):
            self.outcomes[f"{how} refused"] += 1
        except WorkflowUpdateRPCTimeoutOrCancelledError:
            self.outcomes[f"{how} not answered"] += 1
        except RPCError as error:
            self.outcomes[f"{how} {error.status.name}"] += 1
        else:
            self.outcomes[f"{how} taken"] += 1

    async def goes_on(self) -> bool:
        """Whether the workflow's tasks are done."""
        try:
            await self._handle.query(METADATA_QUERY, rpc_timeout=ANSWERED_WITHIN)
        except (RPCError, WorkflowQueryFailedError):
            return False
        return True


async def attacked(client: Client, workflow_id: str, kind: type, count: int, seed: int) -> Sender:
    """Sends so many messages, some at once, and looks again and again whether the workflow still goes on."""
    sender = Sender(client, workflow_id)
    names = handlers(kind)
    all_names = [name for below in names.values() for name in below]
    places = asyncio.Semaphore(AT_ONCE)
    how = itertools.cycle([*(["signal"] * 4), *(["update"] * 4), "query"])

    async def send(message: Fuzzed, how: str) -> None:
        async with places:
            await sender.send(how, message)

    messages = fuzzed(all_names or ["status"], count, seed)
    while batch := list(itertools.islice(messages, 200)):
        await asyncio.gather(*(send(message, next(how)) for message in batch))
        await until(sender.goes_on, f"{kind.__name__} goes on after {[str(each) for each in batch]}", GOES_ON_WITHIN_S)
    return sender


@pytest.mark.timeout(1_500)
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.full)])
async def test_whatever_is_sent_nobody_is_stuck(
    site: Site, service: FakeService, paused: FakeService, count: int
) -> None:
    """Each of the four workflows gets its share; then everything goes on as if nothing had been."""
    client, config = site.client, desk_config(site.settings)
    await site.ledger.pause_service(PauseService(service=paused.name, who="ada"))
    parked = await start(client, LLMRequest(route="parked", budget="acme/parked", prompt="parked", call_id="parked"))
    agent = await client.start_workflow(
        ContentAgentWorkflow.run,
        ArticleRequest(topic="tides", budget="acme/agent", route="parked"),
        id="agent",
        task_queue=CALLS_TASK_QUEUE,
    )
    await client.start_workflow(
        "UsageBacklogWorkflow",
        BacklogStart(ledger=site.settings.ledger.name),
        id=backlog_workflow_id(site.settings.ledger.name),
        task_queue=CALLS_TASK_QUEUE,
        start_signal="add",
        start_signal_args=[BacklogBatch(voids=("no-such-run/1",))],
    )
    await until(lambda: _parked(site, 2), "the call, and the agent's first one, are parked")
    targets = {
        budget_workflow_id(site.settings.ledger.name): (BudgetWorkflow, count * 7 // 10),
        parked.id: (LLMCallWorkflow, count // 10),
        backlog_workflow_id(site.settings.ledger.name): (UsageBacklogWorkflow, count // 10),
        agent.id: (ContentAgentWorkflow, count // 10),
    }
    began = time.monotonic()
    for seed, (workflow_id, (kind, share)) in enumerate(targets.items(), start=1):
        sender = await attacked(client, workflow_id, kind, share, seed)
        print(f"{kind.__name__}: {share} messages in {time.monotonic() - began:.0f} s, {dict(sender.outcomes)}")
        applied = await site.ledger.configure(config, force=True)  # one of them may have replaced it
        assert applied.digest == config.digest
    await site.ledger.resume_service(ResumeService(service=paused.name, who="ada"))
    assert (await parked.result()).outcome is Outcome.COMPLETED
    assert (await agent.result()).calls

    status = await site.ledger.status()
    assert status.refused_messages
    before = (await client.get_workflow_handle(budget_workflow_id(site.settings.ledger.name)).describe()).run_id
    async with asking(site) as load:
        await load.answers(10)

        async def began_anew() -> bool:
            handle = client.get_workflow_handle(budget_workflow_id(site.settings.ledger.name))
            return (await handle.describe()).run_id != before

        await until(began_anew, "the ledger has begun anew", 120)
        await load.answers(10)
    result = await try_generate(client, LLMRequest(route="writer", budget="acme/after", prompt="after"))
    assert result.outcome is Outcome.COMPLETED
    accounts = ["budget:acme", f"service:{service.name}"]
    status = await site.ledger.status()
    posted = {
        account.account: window.posted_nanos
        for account in status.accounts
        if account.account in accounts
        for window in account.windows
        if window.window == "total"
    }
    assert await posted_by_account(site.engine, site.settings.ledger.name, accounts) == posted


async def _parked(site: Site, count: int) -> bool:
    return (await site.ledger.status()).parked == count


@pytest.mark.parametrize("count", [30, pytest.param(500, marks=pytest.mark.full)])
async def test_a_call_started_with_nonsense_ends(site: Site, count: int) -> None:
    """What is no request is denied in words: no call is left whose task fails again and again."""
    started: list[WorkflowHandle[object, LLMResult]] = []
    for number, message in enumerate(fuzzed(["request"], count, seed=7)):
        if len(message.payloads) != 1:  # the SDK itself wants as many arguments as there are
            continue
        started.append(
            await site.client.start_workflow(
                "LLMCallWorkflow",
                args=[RawValue(message.payloads[0])],
                id=f"call/nonsense-{number}",
                task_queue=CALLS_TASK_QUEUE,
                result_type=LLMResult,
            )
        )
    reasons = Counter(result.reason for result in await results_of(started, deadline_s=120))
    print(reasons)
    assert reasons.keys() <= {"bad_request", "nested_too_deeply", "not_text", "number_too_long"}
