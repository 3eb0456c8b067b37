"""A budget workflow without Paymaster's worker: its activities, and a call that asks it for money."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from paymaster_process import new_namespace
from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

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
    Reserve,
    ServiceConfig,
    StatusCopy,
)
from paymaster.plugin import PaymasterPlugin
from paymaster.settings import Settings
from paymaster.values.money import Price
from workflows.ledger import BudgetWorkflow


class LedgerActivities:
    """The ledger's activities: nothing was spent before, and everything arrives."""

    async def does(self, name: str, batch: object) -> None:
        """What happens in each of them, for who looks on; nothing by itself."""

    @activity.defn
    async def load_spend(self, wanted: LoadSpend) -> LoadedSpend:
        await self.does("load_spend", wanted)
        return LoadedSpend(number=wanted.number, posted_nanos={})

    @activity.defn
    async def recall_parked(self) -> int:
        await self.does("recall_parked", None)
        return 0

    @activity.defn
    async def answer_calls(self, batch: CallMessages) -> Delivery:
        await self.does("answer_calls", batch)
        return Delivery(delivered=tuple(message.sequence for message in batch.messages))

    @activity.defn
    async def store_notices(self, batch: Notices) -> Delivery:
        await self.does("store_notices", batch)
        return Delivery(delivered=tuple(notice.sequence for notice in batch.notices))

    @activity.defn
    async def store_status(self, copy: StatusCopy) -> None:
        await self.does("store_status", copy)

    @activity.defn
    async def send_alerts(self, batch: Alerts) -> Delivery:
        await self.does("send_alerts", batch)
        return Delivery(delivered=tuple(alert.sequence for alert in batch.alerts))


def capped(total_nanos: int) -> DeskConfig:
    """One budget, `acme`, with this cap, and one service."""
    budgets = {"acme": AccountConfig(caps_nanos={"total": total_nanos})}
    return DeskConfig(digest="one", budgets=budgets, services={"s": ServiceConfig()})


def request(hold_id: str, asked_at_ms: int) -> Reserve:
    """It costs 2,000 nano-dollars of `acme`."""
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


async def client_in_new_namespace(temporal_address: str) -> Client:
    namespace = await new_namespace(temporal_address)
    return await Client.connect(temporal_address, namespace=namespace, plugins=[PaymasterPlugin(Settings())])


@asynccontextmanager
async def running(client: Client, does: LedgerActivities) -> AsyncGenerator[None]:
    """The workers of the ledger and of its activities, which say what rules they know."""
    activities = [
        does.load_spend,
        does.recall_parked,
        does.answer_calls,
        does.store_notices,
        does.store_status,
        does.send_alerts,
    ]
    async with (
        Worker(client, task_queue=LEDGER_TASK_QUEUE, workflows=[BudgetWorkflow], identity=worker_identity()),
        Worker(client, task_queue=ACTIVITIES_TASK_QUEUE, activities=activities, identity=worker_identity()),
    ):
        yield
