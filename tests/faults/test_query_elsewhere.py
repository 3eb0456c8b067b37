"""A ledger that moves between workers while it is queried: no query spoils what a worker remembers of it."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from ledger_alone import LedgerActivities, capped, client_in_new_namespace, request
from paymaster_process import until
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowHandle, WorkflowQueryFailedError, WorkflowUpdateFailedError
from temporalio.common import RawValue
from temporalio.worker import PollerBehaviorSimpleMaximum, Replayer, SlotPermit, SlotReserveContext, Worker

from paymaster.client import Ledger
from paymaster.devstack import EmbeddedStack
from paymaster.errors import LedgerNotFound
from paymaster.ledger.query_guard import QueryGuard, TaskSlots
from paymaster.ledger.versions import worker_identity
from paymaster.messages import ACTIVITIES_TASK_QUEUE, LEDGER_TASK_QUEUE, budget_workflow_id
from paymaster.plugin import PaymasterPlugin
from paymaster.settings import Settings
from workflows.budget import BudgetWorkflow

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


@pytest.mark.full
@pytest.mark.timeout(180)
async def test_queries_spoil_no_ledger_that_moves(temporal: str) -> None:
    """Its tasks go to one worker and to the other, in turns, with updates, rejected updates, signals and queries."""
    client = await client_in_new_namespace(temporal)
    ledger, does = Ledger(client), LedgerActivities()
    handle: WorkflowHandle[object, object] = client.get_workflow_handle(budget_workflow_id("default"))
    activities = [does.load_spend, does.recall_parked, does.answer_calls, does.store_notices, does.send_alerts]
    slots = (Closable(4), Closable(4))
    first, second = [await ledger_worker(temporal, client.namespace, each) for each in slots]
    chance, numbers = random.Random(1), itertools.count(1)
    ends_at = time.monotonic() + 40

    async def again_and_again(pause_s: float, act: str) -> None:
        while time.monotonic() < ends_at:
            try:
                match act:
                    case "send":
                        await ledger.send([request(f"more/{next(numbers)}", int(time.time() * 1000))])
                    case "reject":
                        await handle.execute_update("apply", args=[NO_MESSAGE], rpc_timeout=timedelta(seconds=20))
                    case "signal":
                        await handle.signal("no_such_signal")
                    case "query in vain":  # it fails before any handler
                        await handle.query("no_such_query")
                    case _:
                        await ledger.status()
            except (LedgerNotFound, WorkflowUpdateFailedError, WorkflowQueryFailedError):
                pass
            await asyncio.sleep(chance.uniform(0, 2 * pause_s))

    async def moves() -> None:
        while time.monotonic() < ends_at:
            for closed, opened in (slots, slots[::-1]):
                closed.is_closed, opened.is_closed = True, False
                await asyncio.sleep(chance.uniform(1.5, 3))
        for each in slots:
            each.is_closed = False

    async with (
        first,
        second,
        Worker(client, task_queue=ACTIVITIES_TASK_QUEUE, activities=activities, identity=worker_identity()),
    ):
        await ledger.start(capped(10**15))
        loops = [
            ("send", 0.1),
            ("send", 0.1),
            ("reject", 0.05),
            ("signal", 0.15),
            ("query", 0.1),
            ("query in vain", 0.1),
        ]
        await asyncio.gather(moves(), *(again_and_again(pause_s, act) for act, pause_s in loops))

        async def answers() -> bool:
            return (await ledger.send([request("last/1", int(time.time() * 1000))]))[0].kind == "granted"

        await until(answers, "the ledger grants")
        history = await handle.fetch_history()
    failed = [
        event.workflow_task_failed_event_attributes.failure.message
        for event in history.events
        if event.event_type == WORKFLOW_TASK_FAILED
    ]
    assert not [message for message in failed if "TMPRL1100" in message]
    await Replayer(workflows=[BudgetWorkflow], plugins=[PaymasterPlugin(Settings())]).replay_workflow(history)
