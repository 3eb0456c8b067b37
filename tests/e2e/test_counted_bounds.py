"""Long prompts whose bytes could cost more than there is: their tokens are counted once, and what they cost fits."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from counting_server import CountingServer, FakeService, Received, Reply
from key_search import find_key
from openai_encodings import kept_encodings
from paymaster_process import (
    MODEL,
    Databases,
    Site,
    configuration,
    free_address,
    frozen,
    readable_history,
    running_site,
    until,
)
from temporalio.api.enums.v1 import EventType, PendingWorkflowTaskState
from temporalio.client import WorkflowFailureError, WorkflowHandle

from paymaster import LLMRequest, Outcome
from paymaster.client import start, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import (
    CallRef,
    Candidate,
    CountFirst,
    LLMResult,
    ParkedAnswer,
    PauseService,
    ResumeService,
)
from paymaster.providers.bounds import input_bytes
from paymaster.values.money import TokenUsage, usd_to_nanos

pytestmark = pytest.mark.timeout(120)
TOKENS = 100_000
PROMPT = " word" * TOKENS
"""Of 500,000 bytes: at $1 for a million tokens they could cost $0.50, and the tokens cost $0.10."""
CAP = Decimal("0.12")
KEY = "sk-live-counted-0123456789"
BOTH = "both"
BUDGETS = ("fits-claude", "fits-gpt", "paused", "gone", "fails", "waits", "over", "then")


def ask(service: FakeService, budget: str, **asked: Any) -> LLMRequest:
    fields = {"route": service.name, "budget": f"acme/{budget}", "prompt": PROMPT, "on_exhausted": "fail"}
    return LLMRequest.model_validate({**fields, "max_output_tokens": 100, **asked})


def is_count(request: Received) -> bool:
    return request.path.endswith("/count_tokens")


def claude(request: Received) -> Reply:
    """Counts, and answers, as Anthropic does."""
    if is_count(request):
        return Reply(body=json.dumps({"input_tokens": TOKENS}).encode())
    usage = {"input_tokens": TOKENS, "output_tokens": 5}
    content = [{"type": "text", "text": "a short answer"}]
    answer = {"type": "message", "model": MODEL, "content": content, "stop_reason": "end_turn", "usage": usage}
    return Reply(body=json.dumps(answer).encode())


@pytest.fixture(scope="module")
def services(server: CountingServer) -> dict[str, FakeService]:
    found = {name: server.service(f"counted-{name}") for name in ("claude", "gpt", "failing")}
    found["claude"].reply = claude
    found["gpt"].usage = lambda request: TokenUsage(input_tokens=TOKENS, output_tokens=5)
    return found


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack,
    databases: Databases,
    services: dict[str, FakeService],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("counted")
    anthropic = {"api": "anthropic", "bound": "counted", "stream": False, "key": "claude-key"}
    price = {"max_output_tokens": 100, "price": {"input": "1.00", "output": "4.00"}}
    tables = configuration(
        list(services.values()),
        budgets={"acme": {}} | {f"acme/{name}": {"cap_usd": {"total": str(CAP)}} for name in BUDGETS},
        only={
            services["claude"].name: anthropic,
            services["failing"].name: anthropic,
            services["gpt"].name: {"bound": "counted", "models": {"gpt-4o": price}},
        },
    )
    routes: Any = tables["routes"]
    routes[services["gpt"].name] = [f"{services['gpt'].name}/gpt-4o"]
    routes[BOTH] = [*routes[services["claude"].name], *routes[services["gpt"].name]]
    environment = {
        "TIKTOKEN_CACHE_DIR": str(kept_encodings(folder / "encodings")),
        "PAYMASTER_KEY_CLAUDE_KEY": KEY,
    }
    address, database = stack.temporal_address, await databases.create()
    async with running_site(address, database, folder / "site", tables, environment=environment) as site:
        yield site


async def counted(site: Site, result: LLMResult) -> int:
    """How often the tokens of a call were counted, by its history."""
    handle = site.client.get_workflow_handle(f"call/{result.call_id}")
    return (await readable_history(handle)).count('"name": "count_tokens"')


@pytest.mark.parametrize("name", ["claude", "gpt"])
async def test_a_prompt_of_100_000_tokens_fits_where_its_bytes_do_not(
    site: Site, services: dict[str, FakeService], name: str
) -> None:
    """By the provider's own counter, and by the tokenizer; each asked once, for what is sent."""
    service, request = services[name], ask(services[name], f"fits-{name}")
    assert input_bytes(request) > usd_to_nanos(CAP) // 1_000
    result = await try_generate(site.client, request)
    assert result.outcome is Outcome.COMPLETED, result
    assert result.cost_nanos == TOKENS * 1_000 + 5 * 4_000
    assert (await site.balance(f"budget:acme/fits-{name}")).posted_nanos == result.cost_nanos
    assert await counted(site, result) == 1
    if name == "claude":
        asked = [each for each in service.requests if is_count(each)]
        assert [each.body["messages"] for each in asked] == [service.requests[-1].body["messages"]]


async def test_a_call_that_waited_for_its_service_is_counted_then(site: Site, services: dict[str, FakeService]) -> None:
    """The ledger signals that to a parked call, also to one that does not wait for money."""
    service = services["claude"]
    await site.ledger.pause_service(PauseService(service=service.name))
    call = await start(site.client, ask(service, "paused"))
    await until(lambda: is_parked(site), "the call waits for its service")
    await site.ledger.resume_service(ResumeService(service=service.name))
    result = await call.result()
    assert result.outcome is Outcome.COMPLETED, f"{result.reason}: {result.detail}"
    assert await counted(site, result) == 1


async def is_parked(site: Site) -> bool:
    return (await site.ledger.status()).parked == 1


async def test_a_counter_that_fails_leaves_the_bound_of_the_bytes(site: Site, services: dict[str, FakeService]) -> None:
    """It is asked once, nothing is sent or charged, and its words, with our key in them, are nowhere."""
    service = services["failing"]
    service.reply = lambda request: Reply(status=500, message=f"no, {request.headers['x-api-key']}")
    result = await try_generate(site.client, ask(service, "fails"))
    assert (result.outcome, result.reason) == (Outcome.DENIED, "bound_above_cap")
    assert [is_count(each) for each in service.requests] == [True]
    assert KEY in str(service.requests[0].headers)
    assert (await site.balance("budget:acme/fails")).posted_nanos == 0
    assert "were not counted: the counter answers 500: " in site.logs()
    history = await readable_history(site.client.get_workflow_handle(f"call/{result.call_id}"))
    assert not find_key(site.logs(), KEY)
    assert not find_key(history, KEY)


async def test_a_call_that_waits_was_counted_once(site: Site, services: dict[str, FakeService]) -> None:
    """It is parked, and granted, with the bound of its count; also if it is told to count once more, or what nobody can
    count."""
    service = services["gpt"]
    service.usage = lambda request: TokenUsage(input_tokens=1, output_tokens=1)
    service.hold()
    first = await start(site.client, ask(service, "waits"))
    await until(lambda: service.held, "the first call is sent")
    second = await start(site.client, ask(service, "waits", on_exhausted="wait"))
    await until(lambda: is_parked(site), "the second one is parked")
    candidate = Candidate(service=service.name, model="gpt-4o", max_output_tokens=100, price=None)
    again = CountFirst(hold_id=f"{second.result_run_id}/1", candidate=candidate)
    reference = CallRef(workflow_id=second.id, run_id=second.result_run_id or "")
    absurd = again.model_copy(update={"candidate": candidate.model_copy(update={"service": "s" * 1_900_000})})
    for answer in (absurd, again, again):
        await second.signal("budget_answer", ParkedAnswer(sequence=1, call=reference, answer=answer))
    service.release()
    results = [await first.result(), await second.result()]
    assert [result.outcome for result in results] == [Outcome.COMPLETED] * 2
    assert [await counted(site, result) for result in results] == [1, 1]
    failed = set(re.findall(r"TASK_FAILED_CAUSE_\w+", await readable_history(second)))
    assert failed <= {"TASK_FAILED_CAUSE_UNHANDLED_COMMAND"}, "that is: a signal came meanwhile"


async def test_a_call_that_is_cancelled_while_it_is_counted_costs_nothing(
    site: Site, services: dict[str, FakeService]
) -> None:
    """The counter never answers."""
    service = services["claude"]
    asked = service.count
    service.hold()
    call = await start(site.client, ask(service, "fits-claude"))
    await until(lambda: service.held, "its tokens are being counted")
    await call.cancel()
    with pytest.raises(WorkflowFailureError):
        await call.result()
    service.release()
    assert service.count == asked + 1
    assert (await site.balance("budget:acme/fits-claude")).pending_nanos == 0


async def has_its_task(call: WorkflowHandle[Any, Any]) -> bool:
    """Whether a worker has a task of it: what comes from now on is in the next one."""
    task = (await call.describe()).raw_description.pending_workflow_task
    return task.state == PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_STARTED


async def lost_its_task(call: WorkflowHandle[Any, Any]) -> bool:
    """Whether a worker has had a task of it for so long that another poll gets it."""
    types = [event.event_type async for event in call.fetch_history_events()]
    return EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT in types


async def test_nothing_is_counted_for_a_caller_that_is_gone(site: Site, services: dict[str, FakeService]) -> None:
    """Also if both are told to the call at once."""
    service = services["claude"]
    asked = service.count
    await site.ledger.pause_service(PauseService(service=service.name))
    call = await start(site.client, ask(service, "gone"))
    await until(lambda: is_parked(site), "the call waits for its service")
    (worker,) = site.workers
    with frozen(worker.process.pid):
        await call.signal("no_such_signal")
        await until(lambda: has_its_task(call), "the worker's task has this one, and the next task both others")
        reference = CallRef(workflow_id=call.id, run_id=call.result_run_id or "")
        candidate = Candidate(service=service.name, model=MODEL, max_output_tokens=100, price=None)
        to_count = CountFirst(hold_id=f"{reference.run_id}/1", candidate=candidate)
        await call.signal("budget_answer", ParkedAnswer(sequence=1, call=reference, answer=to_count))
        await call.signal("caller_gone")
    result = await call.result()
    assert (result.reason, result.attempts) == ("caller_gone", 0)
    await site.ledger.resume_service(ResumeService(service=service.name))
    assert service.count == asked
    assert (await site.ledger.status()).parked == 0


@pytest.mark.parametrize("how", ["before", "meanwhile"])
async def test_a_call_that_is_given_up_asks_the_ledger_no_more(
    site: Site, services: dict[str, FakeService], how: str
) -> None:
    """Though it would be told to count: before it was, or for its next candidate."""
    service = services["claude"]
    (worker,) = site.workers
    service.hold()
    if how == "before":
        with frozen(worker.process.pid):
            call = await start(site.client, ask(service, "fits-claude"))
            await call.signal("caller_gone")
            await until(lambda: lost_its_task(call), "its first task, which may have only the start, is lost", 30)
    else:
        call = await start(site.client, ask(service, "fits-claude", route=BOTH))
        await until(lambda: service.held, "its tokens are being counted")
        await call.signal("caller_gone")
    try:
        async with asyncio.timeout(30):
            result = await call.result()
    finally:
        service.release()
    assert (result.reason, result.attempts) == ("caller_gone", 0)
    assert await counted(site, result) == int(how == "meanwhile")


async def test_a_bill_above_a_count_is_an_overage_and_raises_the_margin(
    site: Site, services: dict[str, FakeService]
) -> None:
    """With which the next such bill is within its bound."""
    service = services["gpt"]
    service.usage = lambda request: TokenUsage(input_tokens=110_000, output_tokens=5)
    for budget in ("over", "then"):
        result = await try_generate(site.client, ask(service, budget))
        assert result.cost_nanos == 110_000 * 1_000 + 5 * 4_000

    async def alerted() -> list[str]:
        return [alert["text"] for alert in await site.alerts("overage")]

    await until(alerted, "the overage is alerted")
    (text,) = await alerted()
    assert "tokens of input were counted" in text


async def test_doctor_says_whether_the_tokenizer_can_count_here(site: Site, tmp_path: Path) -> None:
    """With what to do where its file is not kept and cannot be fetched."""

    async def found() -> dict[str, Any]:
        ended = await site.command("doctor", "--json")
        checks = json.loads(ended.output)["checks"]
        return next(check for check in checks if check["name"] == "tokenizer o200k_base")

    assert (await found())["ok"]
    kept = site.environment["TIKTOKEN_CACHE_DIR"]
    nowhere = {"TIKTOKEN_CACHE_DIR": str(tmp_path), "HTTPS_PROXY": f"http://{free_address()}"}
    site.environment.update(nowhere)
    try:
        missing = await found()
    finally:
        site.environment["TIKTOKEN_CACHE_DIR"] = kept
        del site.environment["HTTPS_PROXY"]
    assert not missing["ok"]
    assert "copy the folder that TIKTOKEN_CACHE_DIR names" in missing["detail"]
