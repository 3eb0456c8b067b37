"""A ledger that moves between workers while it is queried: no query spoils what a worker remembers of it."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

import pytest
from ledger_alone import LedgerActivities, capped, client_in_new_namespace, request
from paymaster_process import until
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowHandle, WorkflowQueryFailedError, WorkflowUpdateFailedError
from temporalio.common import RawValue
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import PollerBehaviorSimpleMaximum, Replayer, SlotPermit, SlotReserveContext, Worker

from paymaster.client import Ledger
from paymaster.devstack import EmbeddedStack
from paymaster.errors import LedgerNotFound
from paymaster.ledger.query_guard import QueryGuard, TaskSlots
from paymaster.ledger.versions import worker_identity
from paymaster.messages import ACTIVITIES_TASK_QUEUE, LEDGER_TASK_QUEUE, budget_workflow_id
from paymaster.plugin import PaymasterPlugin
from paymaster.settings import Settings
from workflows.ledger import BudgetWorkflow

WORKFLOW_TASK_FAILED = 9
NO_MESSAGE = RawValue(Payload(metadata={"encoding": b"binary/no-such"}, data=b"x"))
"""An update with it is rejected before it is accepted, and leaves no event."""


@pytest.fixture(scope="module")
async def temporal() -> AsyncIterator[str]:
    async with EmbeddedStack(postgres=False, model=False, headless=True) as stack:
        yield stack.temporal_address


class Closable(TaskSlots):
    """Slots of a worker that asks for no more work while they are closed, and forgets nothing."""

    is_closed = False

    def try_reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit | None:
        return None if self.is_closed else super().try_reserve_slot(ctx)


async def ledger_worker(address: str, namespace: str, slots: Closable) -> Worker:
    client = await Client.connect(address, namespace=namespace, plugins=[PaymasterPlugin(Settings())])
    guard = QueryGuard(slots)
    worker = Worker(
        client,
        task_queue=LEDGER_TASK_QUEUE,
        workflows=[BudgetWorkflow],
        identity=worker_identity(),
        unsandboxed_workflow_runner=guard,
        tuner=guard.tuner,
        workflow_task_poller_behavior=PollerBehaviorSimpleMaximum(2),
        nonsticky_to_sticky_poll_ratio=0.5,
        sticky_queue_schedule_to_start_timeout=timedelta(milliseconds=500),
    )
    guard.watch(worker)
    return worker


class Traffic:
    """What comes to a ledger for some time: updates, rejected ones, signals, queries with and without a handler."""

    def __init__(self, client: Client, ends_at: float) -> None:
        self.ledger = Ledger(client)
        self.budget: WorkflowHandle[object, object] = client.get_workflow_handle(budget_workflow_id("default"))
        self._ends_at = ends_at
        self._chance, self._numbers = random.Random(1), itertools.count(1)

    async def again_and_again(self, act: Callable[[], Awaitable[object]], pause_s: float) -> None:
        """One after the other, with a pause of this length on average."""
        while time.monotonic() < self._ends_at:
            try:
                with suppress(LedgerNotFound, WorkflowUpdateFailedError, WorkflowQueryFailedError):
                    await act()
            except RPCError as error:
                if error.status is not RPCStatusCode.RESOURCE_EXHAUSTED:  # as many queries wait as Temporal keeps
                    raise
            await asyncio.sleep(self._chance.uniform(0, 2 * pause_s))

    async def moves(self, slots: tuple[Closable, Closable]) -> None:
        """The ledger's tasks go to one worker and to the other, in turns, and in the end to both."""
        while time.monotonic() < self._ends_at:
            for closed, opened in (slots, slots[::-1]):
                closed.is_closed, opened.is_closed = True, False
                await asyncio.sleep(self._chance.uniform(1.5, 3))
        for each in slots:
            each.is_closed = False

    async def ask(self) -> str:
        """What a new call is answered."""
        now_ms = int(time.time() * 1000)
        return (await self.ledger.send([request(f"call/{next(self._numbers)}", now_ms)]))[0].kind

    async def reject(self) -> None:
        await self.budget.execute_update("apply", args=[NO_MESSAGE], rpc_timeout=timedelta(seconds=20))

    async def signal(self) -> None:
        await self.budget.signal("no_such_signal")

    async def query(self) -> None:
        await self.ledger.status()

    async def query_in_vain(self) -> None:
        """It fails before any handler."""
        await self.budget.query("no_such_query")


@pytest.mark.full
@pytest.mark.timeout(180)
async def test_queries_spoil_no_ledger_that_moves(temporal: str) -> None:
    client = await client_in_new_namespace(temporal)
    does = LedgerActivities()
    activities = [
        does.load_spend,
        does.recall_parked,
        does.answer_calls,
        does.store_notices,
        does.store_status,
        does.send_alerts,
    ]
    slots = (Closable(4), Closable(4))
    first, second = [await ledger_worker(temporal, client.namespace, each) for each in slots]
    async with (
        first,
        second,
        Worker(client, task_queue=ACTIVITIES_TASK_QUEUE, activities=activities, identity=worker_identity()),
    ):
        traffic = Traffic(client, time.monotonic() + 40)
        await traffic.ledger.start(capped(10**15))
        await asyncio.gather(
            traffic.moves(slots),
            traffic.again_and_again(traffic.ask, 0.1),
            traffic.again_and_again(traffic.ask, 0.1),
            traffic.again_and_again(traffic.reject, 0.05),
            traffic.again_and_again(traffic.signal, 0.15),
            traffic.again_and_again(traffic.query, 0.1),
            traffic.again_and_again(traffic.query_in_vain, 0.1),
        )

        async def grants() -> bool:
            return await traffic.ask() == "granted"

        await until(grants, "the ledger grants")
        history = await traffic.budget.fetch_history()
    failed = [
        event.workflow_task_failed_event_attributes.failure.message
        for event in history.events
        if event.event_type == WORKFLOW_TASK_FAILED
    ]
    assert not [message for message in failed if "TMPRL1100" in message]
    await Replayer(workflows=[BudgetWorkflow], plugins=[PaymasterPlugin(Settings())]).replay_workflow(history)
