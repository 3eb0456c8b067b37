"""A run of the ledger ends when Temporal wants it to, also while one of its activities hangs."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
from paymaster_process import new_namespace, until
from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

from paymaster.client import Ledger
from paymaster.devstack import EmbeddedStack
from paymaster.ledger.versions import worker_identity
from paymaster.messages import (
    ACTIVITIES_TASK_QUEUE,
    LEDGER_TASK_QUEUE,
    AccountConfig,
    Alerts,
    CallMessages,
    CallRef,
    Candidate,
    Delivery,
    DeskConfig,
    LoadedSpend,
    LoadSpend,
    Notices,
    RaiseCap,
    Reserve,
    ServiceConfig,
    budget_workflow_id,
)
from paymaster.plugin import PaymasterPlugin
from paymaster.settings import Settings
from paymaster.values.money import Price
from workflows.budget import BudgetWorkflow

pytestmark = pytest.mark.timeout(60)
CONFIG = DeskConfig(
    digest="one", budgets={"acme": AccountConfig(caps_nanos={"total": 3_000})}, services={"s": ServiceConfig()}
)


@pytest.fixture(scope="module")
async def forgetful_temporal() -> AsyncIterator[str]:
    """The address of a server that suggests continue-as-new after every 30 events."""
    limits = {"limit.historyCount.suggestContinueAsNew": 30}
    async with EmbeddedStack(postgres=False, model=False, headless=True, dynamic_config=limits) as stack:
        yield stack.temporal_address


class Hanging:
    """The ledger's activities: nothing was spent before, and everything arrives. One of them hangs the first time."""

    def __init__(self, hangs: str) -> None:
        self._hangs = hangs
        self.begun, self.done = Counter[str](), Counter[str]()
        self.goes_on = asyncio.Event()

    async def _do(self, name: str) -> None:
        self.begun[name] += 1
        if name == self._hangs and self.begun[name] == 1:
            await self.goes_on.wait()
        self.done[name] += 1

    @activity.defn
    async def load_spend(self, wanted: LoadSpend) -> LoadedSpend:
        await self._do("load_spend")
        return LoadedSpend(number=wanted.number, posted_nanos={})

    @activity.defn
    async def recall_parked(self) -> int:
        await self._do("recall_parked")
        return 0

    @activity.defn
    async def answer_calls(self, batch: CallMessages) -> Delivery:
        await self._do("answer_calls")
        return Delivery(delivered=tuple(message.sequence for message in batch.messages))

    @activity.defn
    async def store_notices(self, batch: Notices) -> Delivery:
        await self._do("store_notices")
        return Delivery(delivered=tuple(notice.sequence for notice in batch.notices))

    @activity.defn
    async def send_alerts(self, batch: Alerts) -> Delivery:
        await self._do("send_alerts")
        return Delivery(delivered=tuple(alert.sequence for alert in batch.alerts))

    def all(self) -> list[Callable[..., object]]:
        return [self.load_spend, self.recall_parked, self.answer_calls, self.store_notices, self.send_alerts]


def request(hold_id: str, asked_at_ms: int) -> Reserve:
    """It costs 2,000 nano-dollars, and the cap is 3,000."""
    price = Price(input_nanos=0, output_nanos=1_000_000_000, source="test")
    return Reserve(
        hold_id=hold_id,
        call=CallRef(workflow_id=f"call/{hold_id}", run_id=hold_id),
        budget="acme",
        candidates=(Candidate(service="s", model="m", max_output_tokens=2, price=price),),
        input_bytes=0,
        on_exhausted="wait",
        deadline_at_ms=asked_at_ms + 3_600_000,
        asked_at_ms=asked_at_ms,
    )


@pytest.mark.parametrize("hangs", ["load_spend", "recall_parked", "answer_calls", "store_notices", "send_alerts"])
async def test_a_run_ends_while_an_activity_hangs(forgetful_temporal: str, hangs: str) -> None:
    """Updates keep coming. The next run begins with all that was to be done, and has it done."""
    namespace = await new_namespace(forgetful_temporal)
    client = await Client.connect(forgetful_temporal, namespace=namespace, plugins=[PaymasterPlugin(Settings())])
    ledger, others = Ledger(client), Hanging(hangs)
    handle = client.get_workflow_handle(budget_workflow_id("default"))
    async with (
        Worker(client, task_queue=LEDGER_TASK_QUEUE, workflows=[BudgetWorkflow], identity=worker_identity()),
        Worker(client, task_queue=ACTIVITIES_TASK_QUEUE, activities=others.all(), identity=worker_identity()),
    ):
        await ledger.start(CONFIG)
        first = (await handle.describe()).run_id
        now_ms = (await ledger.status()).now_ms
        if hangs != "load_spend":
            await until(lambda: others.done["load_spend"], "the budgets are open")
        waiting = request("waiting/1", now_ms)
        if hangs == "answer_calls":
            waiting = waiting.model_copy(update={"deadline_at_ms": now_ms + 2_000})
        answers = await ledger.send([request("first/1", now_ms), waiting])
        assert [answer.kind for answer in answers] == ["parked" if hangs == "load_spend" else "granted", "parked"]
        await ledger.raise_cap(RaiseCap(account="budget:acme", window="total", by="0.000000001", reason="a notice"))
        await handle.signal("no_such_signal")  # an alert
        await until(lambda: others.begun[hangs] == 1, f"{hangs} hangs")

        async def is_begun_again() -> bool:
            await ledger.send([request("more/1", now_ms)])
            return others.begun[hangs] >= 2

        await until(is_begun_again, f"the run has ended, and the next one has it done again: {hangs}", deadline_s=15)
        assert (await handle.describe()).run_id != first
        others.goes_on.set()
        await until(lambda: others.done[hangs] >= 2, "the activity that hung comes too late, and nobody misses it")

        async def is_done() -> bool:
            status = await ledger.status()
            return status.outbox == 0 and not any(account.loading for account in status.accounts)

        await until(is_done, "everything has arrived")
        assert others.done["recall_parked"] == (2 if hangs == "recall_parked" else 1)
