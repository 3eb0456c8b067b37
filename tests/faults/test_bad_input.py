"""What makes no sense is refused with a clear answer: nothing is sent, nothing is stuck, the books are untouched."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from agent_workflows import AGENTS_TASK_QUEUE, BrokenQuestions, agents_running
from counting_server import CountingServer, FakeService
from paymaster_process import Databases, Site, configuration, results_of, running_site, settled_books, until
from pydantic import ValidationError
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowQueryFailedError, WorkflowUpdateFailedError
from temporalio.common import RawValue

from paymaster import LLMRequest, Outcome
from paymaster.client import start, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.errors import AdminRefused
from paymaster.messages import ChatMessage, PauseService, RaiseCap, ResumeService, SetCap, budget_workflow_id
from paymaster.values.limits import REQUEST_BYTES_MAX

HALF_A_PAIR = "half \ud83d of a smile"


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    service = server.service("bad-input")
    service.text = lambda request: "an answer"
    return service


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, service: FakeService, module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration([service], routes={"writer": [service]}, budgets={"acme": {"cap_usd": {"total": "1000"}}})
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


def ask(**fields: object) -> LLMRequest:
    return LLMRequest.model_validate({"route": "writer", "budget": "acme/writer", "prompt": "Say hello"} | fields)


NO_MESSAGE_CAN_CARRY = {
    "20 MB": (ask(prompt="x" * 20_000_000), "request_too_long"),
    "one byte too many": (ask(prompt="x" * REQUEST_BYTES_MAX), "request_too_long"),
    "short, but long as JSON": (ask(prompt="\x00" * 400_000), "request_too_long"),
    "prompt": (ask(prompt=HALF_A_PAIR), "not_text"),
    "system": (ask(system=HALF_A_PAIR), "not_text"),
    "message": (ask(messages=[ChatMessage(role="user", content=HALF_A_PAIR)]), "not_text"),
    "metadata": (ask(metadata={"team": HALF_A_PAIR}), "not_text"),
    "budget": (ask(budget=HALF_A_PAIR), "not_text"),
}


@pytest.mark.parametrize(("request_", "reason"), NO_MESSAGE_CAN_CARRY.values(), ids=NO_MESSAGE_CAN_CARRY)
async def test_a_request_that_no_message_can_carry_is_denied_before_it_is_sent(
    site: Site, service: FakeService, request_: LLMRequest, reason: str
) -> None:
    count = service.count
    result = await try_generate(site.client, request_)
    assert (result.outcome, result.reason) == (Outcome.DENIED, reason)
    assert result.detail
    assert len(result.model_dump_json()) < 1_000
    assert service.count == count


@pytest.mark.timeout(60)
async def test_an_agent_gets_such_a_denial_as_an_outcome_and_its_workflow_goes_on(
    site: Site, service: FakeService
) -> None:
    """The agent's own texts, too long or broken, come into being inside its workflow: its task must not get stuck."""
    count = service.count
    async with agents_running(site.client):
        results = await site.client.execute_workflow(
            BrokenQuestions.run, id="broken", task_queue=AGENTS_TASK_QUEUE, execution_timeout=timedelta(seconds=30)
        )
    assert [(result.outcome, result.reason) for result in results] == [
        (Outcome.DENIED, "request_too_long"),
        (Outcome.DENIED, "not_text"),
        (Outcome.COMPLETED, None),
    ]
    assert service.count == count + 1
    await settled_books(site, service)


@pytest.mark.timeout(60)
async def test_the_longest_request_and_the_shortest_are_answered(site: Site, service: FakeService) -> None:
    room = REQUEST_BYTES_MAX - len(ask(prompt="", call_id=str(uuid4())).model_dump_json())
    for prompt in ("x" * room, "ü" * (room // 2), ""):
        result = await try_generate(site.client, ask(prompt=prompt))
        assert result.outcome is Outcome.COMPLETED, (result.reason, result.detail)
        assert service.requests[-1].prompt == prompt
    await settled_books(site, service)


HOSTILE_PATHS = [
    "",
    "/",
    "acme/",
    "acme//writer",
    "/acme",
    "acme/%",
    "acme/wr iter",
    "acme/\x00",
    "acme/\u202eretirw",
    "acme/\uff41dmin",
    "acme'; DROP TABLE api_usage; --",
    "acme/" + "a" * 196,
    "x" * 100_000,
]


async def test_a_hostile_budget_path_is_denied_and_makes_no_account(site: Site, service: FakeService) -> None:
    count, accounts = service.count, {account.account for account in (await site.ledger.status()).accounts}
    for path in HOSTILE_PATHS:
        result = await try_generate(site.client, ask(budget=path))
        assert (result.outcome, result.reason) == (Outcome.DENIED, "bad_budget"), path
        assert len(result.detail or "") < 1_000
        with pytest.raises((AdminRefused, ValidationError)):
            await site.ledger.set_cap(SetCap(account=f"budget:{path}", window="day", to="1"))
    assert service.count == count
    assert {account.account for account in (await site.ledger.status()).accounts} == accounts


@pytest.mark.timeout(60)
async def test_no_cap_is_changed_by_an_amount_that_is_none(site: Site) -> None:
    before = await site.balance("budget:acme")
    for amount in ("-1", "NaN", "-NaN", "Infinity", "1e400", "1e-400", "-0.000000001", "", "1,5", "$5"):
        with pytest.raises(AdminRefused):
            await site.ledger.set_cap(SetCap(account="budget:acme", window="total", to=amount))
        with pytest.raises(AdminRefused):
            await site.ledger.raise_cap(RaiseCap(account="budget:acme", window="total", by=amount))
    with pytest.raises(AdminRefused):
        await site.ledger.raise_cap(RaiseCap(account="budget:acme", window="total", by="0"))
    assert await site.balance("budget:acme") == before


async def is_parked(site: Site) -> bool:
    return (await site.ledger.status()).parked == 1


@pytest.mark.timeout(60)
async def test_a_signal_by_hand_that_is_none_stops_no_call(site: Site, service: FakeService) -> None:
    """Without a message, with two, with another one, and in an encoding that nobody knows."""
    await site.ledger.pause_service(PauseService(service=service.name, reason="for a while"))
    call = await start(site.client, ask())
    await until(lambda: is_parked(site), "the call is parked")
    strange = RawValue(Payload(metadata={"encoding": b"binary/strange"}, data=b"?"))
    for signal in ("budget_answer", "budget_withdrawn", "ledger_began", "no_such_signal"):
        for messages in ([], ["a", {"b": 1}], [None], [[1, 2]], [strange]):
            await call.signal(signal, args=messages)
    await site.ledger.resume_service(ResumeService(service=service.name))
    (result,) = await results_of([call], 20)
    assert result.outcome is Outcome.COMPLETED
    failed = EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED
    assert failed not in [event.event_type for event in (await call.fetch_history()).events]
    await settled_books(site, service)


async def test_arguments_that_nobody_asked_for_are_not_read(site: Site) -> None:
    """2 MB of them, each as many values as bytes allow: the ledger goes on, and does not even make them.

    After the tests that find no refused message in this ledger.
    """
    lists = RawValue(Payload(metadata={"encoding": b"json/plain"}, data=b"[" + b"[]," * 600_000 + b"0]"))
    ledger = site.client.get_workflow_handle(budget_workflow_id(site.settings.ledger.name))
    await ledger.execute_update("reload", lists)
    await ledger.query("configuration", lists)
    for query in ("status", "unconfirmed_holds"):
        with pytest.raises(WorkflowQueryFailedError):
            await ledger.query(query, lists)
    await ledger.signal("set_cap", args=[lists, None])
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await ledger.execute_update("set_cap", args=[lists, None])
    assert "an update needs one SetCap as JSON, not: RawValue, NoneType" in str(refused.value.cause)
    assert (await site.ledger.status()).rules


@pytest.mark.full
@pytest.mark.timeout(200)
async def test_ten_thousand_budgets_with_a_cap_each_and_a_call_on_many_of_them(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, tmp_path: Path
) -> None:
    """Configuration, state and status of them all fit, and a budget that nobody configured is charged to its parent."""
    budgets = {f"acme/b{n:05}": {"cap_usd": {"day": "1"}} for n in range(9_999)}
    service = server.service("ten-thousand")
    tables = configuration(
        [service], routes={"writer": [service]}, budgets={"acme": {"cap_usd": {"total": "1000"}}} | budgets
    )
    async with running_site(stack.temporal_address, await databases.create(), tmp_path, tables) as site:
        paths = [*(f"acme/b{n:05}" for n in range(0, 10_000, 50)), *(f"acme/other/{n}" for n in range(200))]
        calls = await asyncio.gather(*(start(site.client, ask(budget=path)) for path in paths))
        results = await results_of(calls, 120)
        assert {result.outcome for result in results} == {Outcome.COMPLETED}
        status = await settled_books(site, service)
        assert len(status.accounts) == 10_001
