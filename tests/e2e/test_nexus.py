"""Callers of another namespace, through Nexus endpoints: their budgets, their bills, and what they are told."""

import importlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from counting_server import CountingServer, FakeService, Reply
from disk_storage import THRESHOLD, on_disk
from nexus_agents import Asks, AsksAnything, AsksMuch, AsksWithoutConverter, ReadsWhatIsTooLarge
from nexus_callers import CALLERS_TASK_QUEUE, callers_of, make_endpoint
from nexusrpc import HandlerError
from page_snippets import snippets
from paymaster_process import Databases, Site, configuration, new_namespace, running_site, settled_books, until
from stored_rows import entries_of_call
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError, CancelledError, NexusOperationError

from paymaster import LLMRequest, LLMResult, Outcome
from paymaster.devstack import EmbeddedStack
from paymaster.messages import EndpointRequest, PauseService, ResumeService, Wire
from paymaster.reports.usage import usage_report

pytestmark = pytest.mark.timeout(90)
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    return server.service("nexus")


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, service: FakeService, module_folder: Path
) -> AsyncIterator[Site]:
    budgets = {"acme/content": "1", "acme/press": "1", "acme/poor": "0"}
    services = [service, server.service("other"), server.service("paused")]
    routes = {"writer": services[:1]} | {each.name: [each] for each in services}
    tables = configuration(
        services, routes=routes, budgets={path: {"cap_usd": {"total": cap}} for path, cap in budgets.items()}
    )
    endpoints = {
        "content": {"budget": "acme/content"},
        "press": {"budget": "acme/press", "routes": ["other"]},
        "poor": {"budget": "acme/poor"},
    }
    tables |= {"nexus": {"endpoints": endpoints}}
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        for name in (*endpoints, "unknown"):
            await make_endpoint(site, name)
        yield site


@pytest.fixture(scope="module")
async def callers(site: Site) -> AsyncIterator[Client]:
    async with callers_of(site) as client:
        yield client


@pytest.fixture
async def paused(site: Site) -> AsyncIterator[None]:
    """Calls of the route "paused" wait."""
    await site.ledger.pause_service(PauseService(service="paused"))
    yield
    await site.ledger.resume_service(ResumeService(service="paused"))


async def start(client: Client, endpoint: str, request: LLMRequest) -> WorkflowHandle[Asks, LLMResult]:
    return await client.start_workflow(
        Asks.run, args=[endpoint, request], id=f"asks-{next(NUMBERS)}", task_queue=CALLERS_TASK_QUEUE
    )


async def ask(client: Client, endpoint: str, request: LLMRequest) -> LLMResult:
    return await (await start(client, endpoint, request)).result()


async def error_of(client: Client, endpoint: str, request: Any) -> str:
    """The words in which a request is refused for good."""
    with pytest.raises(WorkflowFailureError) as failed:
        await client.execute_workflow(
            AsksAnything.run, args=[endpoint, request], id=f"asks-{next(NUMBERS)}", task_queue=CALLERS_TASK_QUEUE
        )
    assert isinstance(failed.value.cause, NexusOperationError)
    assert isinstance(failed.value.cause.cause, HandlerError | ApplicationError)
    return failed.value.cause.cause.message


def asks(prompt: str, **more: Any) -> LLMRequest:
    return EndpointRequest(route="nexus", prompt=prompt, **more)


async def test_a_caller_gets_the_endpoints_budget(callers: Client, site: Site) -> None:
    result = await ask(callers, "content", asks("Tides?"))
    assert (result.outcome, result.text, result.cost_nanos) == (Outcome.COMPLETED, "answer to Tides?", 32_000)
    [entry] = await entries_of_call(site.engine, result.call_id)
    assert (entry.budget, entry.cost_nanos) == ("acme/content", 32_000)
    assert result.call_id.startswith("content/")


async def test_a_caller_may_name_a_budget_below_it(callers: Client, site: Site) -> None:
    result = await ask(callers, "content", asks("Tides?", budget="acme/content/writer"))
    [entry] = await entries_of_call(site.engine, result.call_id)
    assert entry.budget == "acme/content/writer"


async def test_a_run_counts_within_its_endpoint(callers: Client, site: Site) -> None:
    """One that a request names, and by the client of `paymaster.nexus` that of the workflow which asks."""
    named = await ask(callers, "content", asks("Tides?", run="pr-17"))
    unnamed = await ask(callers, "content", asks("Tides?"))
    rows = [await entries_of_call(site.engine, result.call_id) for result in (named, unnamed)]
    assert [entry.run for [entry] in rows] == ["content:pr-17", None]
    asker = await callers.start_workflow(
        AsksWithoutConverter.run, args=["content", "Whose?"], id="a run", task_queue=CALLERS_TASK_QUEUE
    )
    assert await asker.result() == "completed: answer to Whose?"
    run = f"content:a_run@{asker.first_execution_run_id}"
    [row] = await usage_report(site.engine, ledger="default", by=("run",), run=run)
    assert (row.run, row.calls) == (run, 1)
    assert "has at most 200 characters" in await error_of(callers, "content", asks("Tides?", run="r" * 193))


async def test_the_page(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """docs/nexus.md as it is written there."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in snippets("nexus.md").items():
        (tmp_path / name).write_text(code)
    namespace = await new_namespace(site.temporal_address)
    answer = await importlib.import_module("callers").main(site.temporal_address, namespace)
    assert answer == "answer to A sentence about tides."


@pytest.mark.parametrize("budget", ["acme/press", "acme", "acme/contents", "/acme/content"])
async def test_no_other_budget_is_given(callers: Client, service: FakeService, budget: str) -> None:
    before = service.count
    refusal = await error_of(callers, "content", {"route": "nexus", "budget": budget, "prompt": "x"})
    assert refusal == (
        "the endpoint 'content' gives the budget 'acme/content' and those below it, "
        f"not '{budget}': name one of these, or none"
    )
    assert service.count == before


@pytest.mark.parametrize(
    ("endpoint", "request_", "refusal"),
    [
        ("press", {"route": "nexus", "prompt": "x"}, "the endpoint 'press' gives the routes other, not 'nexus'"),
        (
            "unknown",
            {"route": "nexus", "prompt": "x"},
            "Paymaster has no endpoint 'unknown': add [nexus.endpoints.unknown]",
        ),
        ("content", {"prompt": "x"}, "this is no EndpointRequest: route: Field required"),
        (
            "content",
            {"route": "nexus", "prompt": "x", "colour": "red"},
            "this is no EndpointRequest: colour: Extra inputs are not permitted",
        ),
        ("content", [1, 2], "this is no EndpointRequest: the request: Input should be an object"),
        ("content", b"\x00", "this is no EndpointRequest: bytes instead of JSON"),
        ("content", None, "this is no EndpointRequest: NoneType instead of JSON"),
    ],
)
async def test_bad_input_is_refused_in_words(callers: Client, endpoint: str, request_: Any, refusal: str) -> None:
    assert await error_of(callers, endpoint, request_) == refusal


async def test_a_denied_call_is_a_result(callers: Client) -> None:
    result = await ask(callers, "poor", asks("x", on_exhausted="fail"))
    assert (result.outcome, result.reason) == (Outcome.DENIED, "bound_above_cap")
    result = await ask(callers, "content", asks("x", metadata={"notes": "x" * 20_000}))
    assert (result.outcome, result.reason) == (Outcome.DENIED, "metadata_too_large")


async def test_a_wire_call_through_an_endpoint(callers: Client) -> None:
    wire = Wire(dialect="openai", body=b'{"model": "nexus", "messages": [{"role": "user", "content": "Tides?"}]}')
    result = await ask(callers, "content", EndpointRequest(route="nexus", wire=wire))
    assert result.wire is not None
    assert b'"answer to Tides?"' in result.wire.body


async def test_an_answer_that_is_too_large_is_read_in_pieces(callers: Client, server: CountingServer) -> None:
    """By whoever has its result, and nobody else."""
    service = server.service("other")
    service.text = lambda request: "é" * 1_000_000
    reason, size, guess = await callers.execute_workflow(
        ReadsWhatIsTooLarge.run,
        args=["press", EndpointRequest(route="other", prompt="x")],
        id="reads",
        task_queue=CALLERS_TASK_QUEUE,
    )
    service.text = lambda request: "short"
    assert (reason, int(size) > 2_000_000) == ("answer_too_large", True)
    assert guess.startswith("the stored answer is gone")


async def test_a_wire_call_as_other_languages_write_it(callers: Client) -> None:
    """Its body is the JSON as one text."""
    body = '{"model": "nexus", "messages": [{"role": "user", "content": "Waves?"}]}'
    request = {"route": "nexus", "wire": {"dialect": "openai", "body": body}}
    result = await callers.execute_workflow(
        AsksAnything.run, args=["content", request], id="as-text", task_queue=CALLERS_TASK_QUEUE
    )
    assert result.text == "answer to Waves?"


async def test_what_only_the_callers_storage_has_is_refused(site: Site, tmp_path: Path) -> None:
    """A caller's client may put away what is large; these workers have no such storage."""
    converter = replace(pydantic_data_converter, external_storage=on_disk(tmp_path))
    async with callers_of(site, converter) as client:
        refusal = await error_of(client, "content", {"route": "nexus", "prompt": "x" * THRESHOLD})
    assert "which this worker does not have: set [payloads] storage" in refusal


async def test_any_data_converter_will_do(site: Site) -> None:
    async with callers_of(site, DataConverter.default) as client:
        answer = await client.execute_workflow(
            AsksWithoutConverter.run, args=["content", "Tides?"], id="converter", task_queue=CALLERS_TASK_QUEUE
        )
    assert answer == "completed: answer to Tides?"


async def test_an_agent_may_ask_more_than_temporal_takes_at_once(callers: Client) -> None:
    asked = await callers.start_workflow(
        AsksMuch.run, args=["content", "nexus", 40], id="much", task_queue=CALLERS_TASK_QUEUE
    )
    assert await asked.result() == 40
    events = (await asked.fetch_history()).events
    assert not any(event.HasField("workflow_task_failed_event_attributes") for event in events)


async def test_one_call_id_is_one_call_and_one_bill(
    callers: Client, site: Site, service: FakeService, server: CountingServer, paused: None
) -> None:
    """While it runs and when it has ended; and each endpoint has call ids of its own."""
    request, paused_service = EndpointRequest(route="paused", prompt="Once", call_id="once"), server.service("paused")
    both = [await start(callers, "content", request), await start(callers, "content", request)]
    for caller in both:
        await until(partial(has_begun, caller), "its operation has begun")
    await until(partial(parked, site), "its call is parked")
    assert await parked(site) == ["call/content/once"]
    await site.ledger.resume_service(ResumeService(service="paused"))
    first, second = [await caller.result() for caller in both]
    assert first == second == await ask(callers, "content", request)
    assert (first.text, paused_service.count) == ("answer to Once", 1)
    [entry] = await entries_of_call(site.engine, "content/once")
    assert entry.cost_nanos == first.cost_nanos
    other = await ask(callers, "press", request.model_copy(update={"route": "other"}))
    assert other.call_id == "press/once"


async def test_a_call_id_that_was_used_for_something_else(callers: Client) -> None:
    await ask(callers, "content", asks("This", call_id="reused"))
    refusal = await error_of(callers, "content", {"route": "nexus", "prompt": "That", "call_id": "reused"})
    assert refusal == "call id 'reused' was used before with other content; the same id means the same call"


async def test_a_call_without_an_answer_is_asked_anew(callers: Client, server: CountingServer) -> None:
    server.service("other").script.append(Reply(400))
    request = EndpointRequest(route="other", prompt="Anew", call_id="anew")
    first, second = [await ask(callers, "press", request) for _ in range(2)]
    assert (first.outcome, first.call_id) == (Outcome.UNAVAILABLE, "press/anew")
    assert (second.outcome, second.call_id) == (Outcome.COMPLETED, "press/anew~g2")
    assert await ask(callers, "press", request) == second


async def test_cancelling_the_operation_cancels_the_call(callers: Client, site: Site, paused: None) -> None:
    caller = await start(callers, "content", EndpointRequest(route="paused", prompt="x", call_id="cancelled"))
    await until(partial(parked, site), "the call is parked")
    await caller.cancel()
    with pytest.raises(WorkflowFailureError) as failed:
        await caller.result()
    assert isinstance(failed.value.cause, CancelledError)
    call = await site.client.get_workflow_handle("call/content/cancelled").describe()
    assert (call.status, await parked(site)) == (WorkflowExecutionStatus.CANCELED, [])
    again = await start(callers, "content", EndpointRequest(route="paused", prompt="x", call_id="cancelled"))
    await until(partial(parked, site), "nothing was sent, so it is asked anew")
    await site.ledger.resume_service(ResumeService(service="paused"))
    assert (await again.result()).call_id == "content/cancelled~g2"


async def test_a_call_that_was_cancelled_when_it_was_sent_is_refused(
    callers: Client, site: Site, server: CountingServer
) -> None:
    other = server.service("other")
    other.hold()
    caller = await start(callers, "content", EndpointRequest(route="other", prompt="x", call_id="sent"))
    await until(lambda: other.held, "the call is in flight")
    await caller.cancel()
    call = site.client.get_workflow_handle("call/content/sent")
    await until(partial(cancel_requested, call), "the call is told")
    other.release()
    with pytest.raises(WorkflowFailureError):
        await caller.result()
    refusal = await error_of(callers, "content", {"route": "other", "prompt": "x", "call_id": "sent"})
    assert refusal == "the call 'content/sent' was cancelled: ask under another call id"


async def test_the_books_agree(callers: Client, site: Site, service: FakeService, server: CountingServer) -> None:
    await settled_books(site, service, server.service("other"), server.service("paused"))


async def parked(site: Site) -> list[str]:
    return [call.workflow_id for call in (await site.ledger.status()).waiting]


async def cancel_requested(call: WorkflowHandle[Any, Any]) -> bool:
    events = (await call.fetch_history()).events
    return any(event.HasField("workflow_execution_cancel_requested_event_attributes") for event in events)


async def has_begun(caller: WorkflowHandle[Asks, LLMResult]) -> bool:
    events = (await caller.fetch_history()).events
    return any(event.HasField("nexus_operation_started_event_attributes") for event in events)
