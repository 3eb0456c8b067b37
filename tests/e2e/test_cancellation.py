"""A call that nobody wants any more leaves no hold behind, and what was paid for is booked before it ends."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from agent_workflows import AGENTS_TASK_QUEUE, ManyQuestions, agents_running
from counting_server import CountingServer, Reply
from paymaster_process import (
    ROOT,
    Databases,
    Site,
    configuration,
    own_workers,
    readable_history,
    running_site,
    settled_books,
    until,
)
from stored_rows import entries_of_call
from temporalio.api.enums.v1 import EventType, PendingActivityState
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError, TerminatedError

from paymaster import LLMRequest
from paymaster.client import start, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import CALLS_TASK_QUEUE
from paymaster.providers.bounds import input_bytes
from paymaster.settings.desk_config import desk_config
from paymaster.values.money import nanos_to_usd

pytestmark = pytest.mark.timeout(90)
NAMES = (
    "parked",
    "flying",
    "meanwhile",
    "waiting",
    "agent-cancelled",
    "busy-cancelled",
    "agent-terminated",
    "busy-terminated",
)
ANSWER_NANOS = 12 * 1_000 + 5 * 4_000  # the server's usual usage at its usual price


def ask(name: str, call_id: str) -> LLMRequest:
    return LLMRequest(route=name, budget=f"acme/{name}", prompt="Say hello", call_id=call_id)


BOUND_NANOS = (input_bytes(ask("parked", "x")) + 1_024) * 1_000 + 100 * 4_000
BUDGETS = {f"acme/{name}": {"cap_usd": {"total": str(nanos_to_usd(BOUND_NANOS * 3 // 2))}} for name in NAMES}
"""Each has money for one call at a time."""


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration([server.service(name) for name in NAMES], budgets=BUDGETS)
    async with (
        running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site,
        agents_running(site.client),
    ):
        yield site


async def until_status(site: Site, *, holds: int, parked: int) -> None:
    async def so_it_is() -> bool:
        status = await site.ledger.status()
        return (status.holds, status.parked) == (holds, parked)

    await until(so_it_is, f"{holds} holds and {parked} parked calls")


async def ends_as_cancelled(call: WorkflowHandle[Any, Any]) -> None:
    with pytest.raises(WorkflowFailureError) as failure:
        await call.result()
    assert isinstance(failure.value.cause, CancelledError)


async def until_between_attempts(call: WorkflowHandle[Any, Any]) -> None:
    async def waits() -> bool:
        activities = (await call.describe()).raw_description.pending_activities
        return any(each.HasField("last_failure") for each in activities)

    await until(waits, "the call waits for its second attempt")


async def status_of(call: WorkflowHandle[Any, Any]) -> WorkflowExecutionStatus | None:
    return (await call.describe()).status


async def test_a_call_cancelled_while_parked_leaves_the_queue(site: Site, server: CountingServer) -> None:
    """It ends at once, without a request, a row or a hold; the call before it is not touched."""
    service = server.service("parked")
    service.hold()
    first = await start(site.client, ask("parked", "first"))
    await until(lambda: service.held == 1, "the first is in flight")
    second = await start(site.client, ask("parked", "second"))
    await until_status(site, holds=1, parked=1)

    await second.cancel()
    await ends_as_cancelled(second)
    await until_status(site, holds=1, parked=0)
    service.release()
    assert (await first.result()).cost_nanos == ANSWER_NANOS
    await settled_books(site, service)
    assert service.count == 1
    assert await entries_of_call(site.engine, "second") == []


async def test_a_call_cancelled_in_flight_is_finished_and_booked_before_it_ends(
    site: Site, server: CountingServer
) -> None:
    """The answer is paid for: the call goes on until its row is stored and its hold settled, then it is cancelled."""
    service = server.service("flying")
    service.hold()
    call = await start(site.client, ask("flying", "flying"))
    await until(lambda: service.held == 1, "the call is in flight")
    await call.cancel()

    requested = datetime.now(UTC)

    async def heard() -> bool:
        (activity,) = (await call.describe()).raw_description.pending_activities
        told = activity.last_heartbeat_time.ToDatetime(tzinfo=UTC)
        return activity.state == PendingActivityState.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED and told > requested

    # Only in the answer to a heartbeat does an activity hear of it, after up to 8 s; the other call gives it a moment.
    await until(heard, "the activity heard of the cancellation")
    await try_generate(site.client, ask("meanwhile", "meanwhile"))
    assert await status_of(call) is WorkflowExecutionStatus.RUNNING
    await until_status(site, holds=1, parked=0)
    service.release()
    await ends_as_cancelled(call)
    await settled_books(site, service)
    (entry,) = await entries_of_call(site.engine, "flying")
    assert (entry.status, entry.state, entry.cost_nanos) == ("completed", "final", ANSWER_NANOS)
    assert (service.count, service.bill_nanos(site.price(service))) == (1, ANSWER_NANOS)


async def test_an_answer_that_comes_with_the_cancellation_is_booked(
    stack: EmbeddedStack, database_url: str, server: CountingServer, tmp_path: Path
) -> None:
    """The workflow hears of both at once, because for a moment no worker runs it."""
    service = server.service("with-the-cancellation")
    tables = configuration([service], budgets={"acme/with-the-cancellation": {"cap_usd": {"total": "1"}}})
    async with running_site(stack.temporal_address, database_url, tmp_path, tables, workers=0) as site:
        [of_workflows] = await site.start_workers(program=[ROOT / "worker.py", "--role", "workflows"])
        await site.start_workers(program=[ROOT / "worker.py", "--role", "activities"])
        service.hold()
        call = await start(site.client, ask("with-the-cancellation", "with-the-cancellation"))
        await until(lambda: service.held == 1, "the call is in flight")
        await of_workflows.kill()
        await call.cancel()
        service.release()

        async def answered() -> bool:
            events = [event.event_type for event in (await call.fetch_history()).events]
            return EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED in events

        await until(answered, "Temporal has the answer")
        await site.start_workers(program=[ROOT / "worker.py", "--role", "workflows"])
        await ends_as_cancelled(call)
        await settled_books(site, service)
        (entry,) = await entries_of_call(site.engine, "with-the-cancellation")
        assert (entry.status, entry.state, entry.cost_nanos) == ("completed", "final", ANSWER_NANOS)


async def test_a_call_cancelled_between_two_attempts_ends_at_once(site: Site, server: CountingServer) -> None:
    """While it waits for the service's Retry-After nothing is in flight and nothing was billed: the hold is free."""
    service = server.service("waiting")
    service.script.append(Reply(429, headers={"retry-after": "50"}))
    call = await start(site.client, ask("waiting", "waiting"))
    await until(lambda: service.answered == 1, "the first attempt is over")

    await until_between_attempts(call)
    await call.cancel()
    await ends_as_cancelled(call)
    await settled_books(site, service)
    assert service.count == 1
    assert (await site.balance("budget:acme/waiting")).posted_nanos == 0


@pytest.mark.parametrize("how", ["cancelled", "terminated"])
async def test_an_agent_that_ends_with_calls_in_every_state_leaves_no_hold(
    site: Site, server: CountingServer, how: str
) -> None:
    """One call is in flight, one is parked, one waits for its next attempt. What is in flight is booked."""
    name, busy = f"agent-{how}", f"busy-{how}"
    service = server.service(name)
    service.hold()
    server.service(busy).reply = lambda request: Reply(429, headers={"retry-after": "50"})
    calls = [ask(name, f"{name}-1"), ask(name, f"{name}-2"), ask(busy, busy)]
    agent = await site.client.start_workflow(ManyQuestions.run, calls, id=name, task_queue=AGENTS_TASK_QUEUE)
    await until_status(site, holds=2, parked=1)
    await until(lambda: service.held == 1, "one call is in flight")
    handles = [site.client.get_workflow_handle(f"call/{call.call_id}") for call in calls]
    await until_between_attempts(handles[2])

    await (agent.cancel() if how == "cancelled" else agent.terminate("nobody needs it"))
    await until_status(site, holds=1, parked=0)
    service.release()
    with pytest.raises(WorkflowFailureError) as failure:
        await agent.result()
    assert isinstance(failure.value.cause, CancelledError if how == "cancelled" else TerminatedError)
    for handle in handles:
        await ends_as_cancelled(handle)
    await settled_books(site, service, server.service(busy))
    rows = [entry for call in calls for entry in await entries_of_call(site.engine, call.call_id or "")]
    assert [(entry.status, entry.cost_nanos) for entry in rows if entry.cost_nanos] == [("completed", ANSWER_NANOS)]
    assert (service.count, server.service(busy).count) == (1, 1)


async def loaded_ledger(site: Site) -> None:
    """Starts the ledger and lets it read what was spent, so that it will grant; then it has no worker any more."""
    async with own_workers(site) as (ledger, _, _), ledger:
        await site.ledger.start(desk_config(site.settings))

        async def loaded() -> bool:
            return not any(account.loading for account in (await site.ledger.status()).accounts)

        await until(loaded, "the ledger knows what was spent")


async def test_a_call_cancelled_while_it_reserves_leaves_no_hold(
    stack: EmbeddedStack, database_url: str, server: CountingServer, tmp_path: Path
) -> None:
    """The ledger grants the hold after the cancellation: it is given back, and nothing is sent.

    Paymaster's own three workers run in this process, the ledger's one last, so that the order is certain.
    """
    service = server.service("reserving")
    tables = configuration([service], budgets={"acme": {"cap_usd": {"total": "1"}}})
    async with (
        running_site(stack.temporal_address, database_url, tmp_path, tables, workers=0) as site,
        own_workers(site) as (ledger, activities, calls),
        AsyncExitStack() as running,
    ):
        await running.enter_async_context(activities)
        await loaded_ledger(site)
        await running.enter_async_context(calls)
        call = await site.client.start_workflow(
            "LLMCallWorkflow",
            ask("reserving", "reserving"),
            id="call/reserving",
            task_queue=CALLS_TASK_QUEUE,
            # While a local activity runs, a workflow hears of anything else only once in this time.
            task_timeout=timedelta(seconds=2),
        )
        budget = site.client.get_workflow_handle("budget/default")

        async def asked() -> bool:
            return (await call.describe()).history_length >= 3

        await until(asked, "the call's first task is running, and asks the ledger")
        await call.cancel()

        async def heard() -> bool:
            events = [event.event_type for event in (await call.fetch_history()).events]
            cancelled = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
            return cancelled in events and (
                EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED in events[events.index(cancelled) :]
            )

        await until(heard, "the workflow knows, and still waits for the ledger")
        await running.enter_async_context(ledger)
        await ends_as_cancelled(call)
        await settled_books(site, service)
        assert service.count == 0
        assert await entries_of_call(site.engine, "reserving") == []
        history = await readable_history(budget)
        assert '\\"kind\\":\\"granted\\"' in history, "the hold was never granted, so this proves nothing"
        assert '\\"kind\\":\\"void\\"' in history
