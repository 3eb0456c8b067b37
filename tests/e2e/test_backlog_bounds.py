"""An outage of the database with large metadata, or so long that thousands of records wait: everything arrives."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService
from paymaster_process import MODEL, Databases, Site, configuration, running_site, settled_books, until
from sqlalchemy import text
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.client import WorkflowExecutionStatus, WorkflowUpdateFailedError
from temporalio.service import RPCError, RPCStatusCode

from paymaster import LLMRequest, Outcome
from paymaster.calls.usage_records import settlement_of
from paymaster.client import Backlog, generate, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import (
    CALLS_TASK_QUEUE,
    AnswerBatch,
    Attempt,
    AttemptReport,
    AttemptReports,
    Billing,
    CallRef,
    CommandBatch,
    Configure,
    Grant,
    LLMResult,
    Reserve,
    RetrySettings,
    SetAsideSum,
    SetCap,
    UsageRecord,
    Void,
    backlog_workflow_id,
    budget_workflow_id,
    call_workflow_id,
)
from paymaster.settings.desk_config import desk_config
from paymaster.values.limits import BACKLOG_HISTORY_BYTES_MAX, COMMANDS_MAX, METADATA_BYTES_MAX
from paymaster.values.money import TokenUsage

PIECES = "WorkflowType = 'UsageBacklogPieceWorkflow'"


@pytest.fixture
async def own_database() -> AsyncIterator[EmbeddedStack]:
    """A PostgreSQL that can be stopped."""
    async with EmbeddedStack(temporal=False, model=False) as stack:
        yield stack


@pytest.fixture
def service(server: CountingServer, request: pytest.FixtureRequest) -> FakeService:
    return server.service(request.node.name.split("[")[0].removeprefix("test_").replace("_", "-")[:60])


@pytest.fixture
async def site(
    stack: EmbeddedStack, own_database: EmbeddedStack, service: FakeService, tmp_path: Path
) -> AsyncIterator[Site]:
    tables = configuration([service], routes={"writer": [service]}, budgets={"acme": {"cap_usd": {"total": "1000"}}})
    database_url = await Databases(own_database.database_url).create()
    async with running_site(stack.temporal_address, database_url, tmp_path, tables) as site:
        yield site


def ask(call_id: str, **fields: object) -> LLMRequest:
    asked = {"route": "writer", "budget": "acme/writer", "prompt": "Say hello", "call_id": call_id}
    return LLMRequest.model_validate(asked | fields)


def noise(characters: int, seed: object) -> str:
    """Text that cannot be compressed much."""
    return "".join(random.Random(str(seed)).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=characters))


async def rows(site: Site) -> int:
    async with site.engine.connect() as connection:
        return (await connection.execute(text("SELECT count(*) FROM usage_entries"))).scalar_one()


NO_FAULTS = {
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND,  # a signal came while the run ended
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND,  # over 100 or 2 MiB of them came meanwhile
}
"""Nothing failed in the workflow: the server has the task done again, with the signals that came while it ran."""


async def no_task_failed(site: Site, *workflow_ids: str) -> None:
    for workflow_id in workflow_ids:
        async for run in site.client.list_workflows(f"WorkflowId = '{workflow_id}'"):
            history = await site.client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history()
            causes = [
                event.workflow_task_failed_event_attributes.cause
                for event in history.events
                if event.HasField("workflow_task_failed_event_attributes")
            ]
            assert set(causes) <= NO_FAULTS


@pytest.mark.timeout(120)
async def test_requests_of_senders_that_do_not_check_are_denied_and_free(
    site: Site, own_database: EmbeddedStack, service: FakeService
) -> None:
    """What 0.1.0 sent: much metadata, a deep schema, and things that are no request."""
    deep: dict[str, object] = {}
    for _ in range(230):
        deep = {"a": deep}
    wrong: dict[str, tuple[object, str]] = {
        "metadata": (ask("metadata", metadata={"a": "x" * 1_200_000}), "metadata_too_large"),
        "deep": (ask("deep", json_schema=deep), "nested_too_deeply"),
        "newer": ({"route": "writer", "budget": "acme", "prompt": "x", "a_newer_field": 1}, "bad_request"),
        "text": ("no request", "bad_request"),
    }
    await own_database.postgres.stop()
    for call_id, (request, reason) in wrong.items():
        result = await site.client.execute_workflow(
            "LLMCallWorkflow",
            request,
            id=call_workflow_id(call_id),
            task_queue=CALLS_TASK_QUEUE,
            result_type=LLMResult,
        )
        assert (result.outcome, result.reason, result.cost_nanos) == (Outcome.DENIED, reason, 0), result
        assert result.call_id == call_id
    await own_database.postgres.start()
    assert service.count == 0
    assert (await generate(site.client, ask("as ever"))).outcome is Outcome.COMPLETED
    await settled_books(site, service)


@pytest.mark.timeout(120)
async def test_forged_messages_poison_neither_ledger_nor_backlog(site: Site, service: FakeService) -> None:
    """Numbers that no date and no duration can have, names of a megabyte, too many commands, brackets without end."""
    await generate(site.client, ask("before"))
    ledger = site.client.get_workflow_handle(budget_workflow_id("default"))
    config = desk_config(site.settings)
    for field, value in (("hold_expires_after_ms", -(10**15)), ("hold_expires_after_ms", 10**18), ("max_parked", -1)):
        forged = config.model_copy(update={field: value, "digest": f"{field} {value}"})
        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await ledger.execute_update("configure", Configure(config=forged))
        assert field in str(refused.value.cause)
    many = CommandBatch(commands=(Void(hold_id="x"),) * (COMMANDS_MAX + 1))
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await ledger.execute_update("apply", many)
    assert str(COMMANDS_MAX) in str(refused.value.cause)
    call = CallRef(workflow_id="call/1", run_id="1")
    reserve = Reserve(
        hold_id="run/1",
        call=call,
        budget="acme",
        candidates=(),
        input_bytes=1,
        on_exhausted="wait",
        deadline_at_ms=10**18,
        asked_at_ms=-(10**15),
    )
    batch = CommandBatch(commands=(reserve, Void(hold_id="x" * 1_000_000), Void(hold_id="run/2")))
    answers = (await ledger.execute_update("apply", batch, result_type=AnswerBatch)).answers
    assert [answer.kind for answer in answers] == ["denied", "refused", "settled"]
    report = AttemptReport(hold_id="", service=service.name, pause_ms=10**18)
    await ledger.signal("report_attempts", AttemptReports(reports=(report,)))
    await ledger.signal("set_cap", "[" * 1_000_000)
    await ledger.signal("set_cap", {"account": "budget:acme", "window": "day", "to": "1" * 100_000})
    backlog = Backlog(site.client, "default")
    bad = ordinary(site, service, 1)
    bad = bad.model_copy(update={"grant": bad.grant.model_copy(update={"granted_at_ms": 10**18})})
    await backlog.add_record(bad)
    await backlog.add_record(ordinary(site, service, 2))

    async def empty() -> bool:
        return await site.in_backlog() == 0

    await until(empty, "what is good in the backlog is stored")
    waiting = site.client.get_workflow_handle(backlog_workflow_id("default"))
    assert await waiting.query("set_aside_sum", result_type=SetAsideSum) == SetAsideSum(
        records=1, cost_nanos=settlement_of(bad).cost_nanos
    )
    assert (await generate(site.client, ask("afterwards"))).outcome is Outcome.COMPLETED
    assert len((await site.ledger.status()).refused_messages) == 3
    assert await rows(site) == 3
    await no_task_failed(site, budget_workflow_id("default"), backlog_workflow_id("default"))


@pytest.mark.full
@pytest.mark.timeout(240)
async def test_220_calls_with_much_metadata_arrive_after_an_outage(
    site: Site, own_database: EmbeddedStack, service: FakeService
) -> None:
    """3.6 MB: more than one batch, more than one run. A budget that gets a cap meanwhile waits for them."""
    await generate(site.client, ask("before"))
    await own_database.postgres.stop()
    at_once = asyncio.Semaphore(20)

    async def call(number: int) -> LLMResult:
        async with at_once:
            metadata = {"a": noise(METADATA_BYTES_MAX - 1, number)}
            return await try_generate(site.client, ask(f"call-{number}", metadata=metadata))

    results = await asyncio.gather(*map(call, range(220)))
    assert {(result.outcome, result.attempts, result.reason) for result in results} == {(Outcome.COMPLETED, 1, None)}
    assert await site.in_backlog() == 220
    await site.ledger.set_cap(SetCap(account="budget:acme/writer", window="day", to="50"))
    late = asyncio.create_task(generate(site.client, ask("late")))
    await own_database.postgres.start()
    assert (await asyncio.wait_for(late, 90)).outcome is Outcome.COMPLETED
    assert await rows(site) >= 221
    await settled_books(site, service, deadline_s=90)
    assert await rows(site) == service.count == 222
    await no_task_failed(site, backlog_workflow_id("default"))


async def largest_history(site: Site) -> str:
    """Of the runs of the backlog; the server would end one of 50 MiB, with all that waits in it."""
    found: list[int] = []
    async for run in site.client.list_workflows(f"WorkflowId = '{backlog_workflow_id('default')}'"):
        described = await site.client.get_workflow_handle(run.id, run_id=run.run_id).describe()
        assert described.status is not WorkflowExecutionStatus.TERMINATED
        found.append(described.raw_info.history_size_bytes)
    assert max(found) < 2 * BACKLOG_HISTORY_BYTES_MAX
    return f"{len(found)} runs, the largest with {max(found):,} bytes of history"


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(8_000, marks=pytest.mark.timeout(240)),
        pytest.param(14_000, marks=[pytest.mark.full, pytest.mark.timeout(600)]),
        pytest.param(100_000, marks=[pytest.mark.full, pytest.mark.timeout(3_600)]),
    ],
)
async def test_thousands_of_records_wait_and_all_arrive(
    site: Site, own_database: EmbeddedStack, service: FakeService, count: int
) -> None:
    """They look like those of another ledger's calls: they are stored, and no account is told of them twice."""
    await generate(site.client, ask("before"))
    await own_database.postgres.stop()
    backlog = Backlog(site.client, "default")
    began = time.monotonic()
    for start in range(0, count, 1_000):
        numbers = range(start, min(count, start + 1_000))
        await asyncio.gather(*(backlog.add_record(ordinary(site, service, number)) for number in numbers))
    print(f"{count} records sent in {time.monotonic() - began:.0f} s")

    async def all_wait() -> bool:
        try:
            return await site.in_backlog() == count
        except RPCError as error:
            if error.status is not RPCStatusCode.FAILED_PRECONDITION:
                raise
            return False  # the task is done again, because too many signals came while it ran

    await until(all_wait, "all of them wait, here or in pieces", 60)

    async def pieces() -> int:
        return (await site.client.count_workflows(PIECES)).count

    await until(pieces, "some of them were handed on")
    print(f"{await pieces()} pieces, {await largest_history(site)}")
    await own_database.postgres.start()
    began = time.monotonic()

    async def empty() -> bool:
        return await site.in_backlog() == 0

    await until(empty, "everything that waited is stored", 60 + count / 30)
    print(f"all stored {time.monotonic() - began:.0f} s after the database came back")
    assert await rows(site) == count + 1

    async def ended() -> bool:
        return (await site.client.count_workflows(f"{PIECES} AND ExecutionStatus != 'Completed'")).count == 0

    await until(ended, "each piece has completed: its last row is there a moment before")
    await no_task_failed(site, backlog_workflow_id("default"))
    assert (await generate(site.client, ask("afterwards", budget="acme/new"))).outcome is Outcome.COMPLETED
    status = await site.ledger.status()
    (acme,) = (account for account in status.accounts if account.account == "budget:acme")
    print(acme)


def ordinary(site: Site, service: FakeService, number: int) -> UsageRecord:
    grant = Grant(
        hold_id=f"019ac3f0-{number:08}-7000-8000-0242ac120002/1",
        budget="acme/writer",
        service=service.name,
        model=MODEL,
        price=site.price(service),
        max_output_tokens=100,
        bound_nanos=1_000_000,
        granted_at_ms=int(time.time() * 1_000),
        expires_at_ms=int(time.time() * 1_000) + 900_000,
        epoch="of-another-ledger",
        timeout_ms=60_000,
        retry=RetrySettings(),
        max_retry_after_ms=60_000,
        max_unconfirmed=1,
    )
    attempt = Attempt(
        number=1,
        started_at_ms=grant.granted_at_ms,
        duration_ms=812,
        billing=Billing.BILLED,
        http_status=200,
        provider_request_id=f"req_{number:032}",
        model_answered=MODEL,
        usage=TokenUsage(input_tokens=number % 5_000, output_tokens=50),
    )
    return UsageRecord(
        call=CallRef(workflow_id=f"call/article-{number}", run_id=f"019ac3f0-{number:08}-7000-8000-0242ac120002"),
        grant=grant,
        attempts=(attempt,),
        answered=True,
        metadata={"team": "content", "article": f"{number}"},
    )
