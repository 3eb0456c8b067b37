"""A call that ended without an answer and unbilled is asked anew under its id; any other is found again."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import pytest
from temporalio import workflow
from temporalio.client import WorkflowFailureError
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

import paymaster.client
from paymaster import CallIdReused, LLMRequest, LLMResult, Outcome, try_generate
from paymaster.generations import latest_generation
from paymaster.messages.temporal_names import CALL_SERVICE, CALL_WORKFLOW, CALLS_TASK_QUEUE, generation_of
from paymaster.testing import ScriptedCall, completed, denied, local_temporal, parked, scripted_calls, unavailable

pytestmark = pytest.mark.stack
QUEUE = "agents-of-generations"


@workflow.defn
class AsksAgain:
    """Makes a call as often as it is told, and returns the results."""

    @workflow.run
    async def run(self, request: LLMRequest, times: int) -> list[LLMResult]:
        return [await try_generate(request) for _ in range(times)]


@pytest.fixture(scope="module")
async def temporal() -> AsyncIterator[WorkflowEnvironment]:
    async with local_temporal() as temporal:
        yield temporal


def a_request(call_id: str, prompt: str = "Hello") -> LLMRequest:
    return LLMRequest(route="writer", budget="acme", prompt=prompt, call_id=call_id)


@pytest.mark.parametrize("end", [denied(), unavailable()])
async def test_what_ended_without_an_answer_is_asked_anew(temporal: WorkflowEnvironment, end: ScriptedCall) -> None:
    """In an agent and outside, each finding what the other one had."""
    client, call_id = temporal.client, str(uuid4())
    script = [end, end, end, completed("at last")]
    async with scripted_calls(client, script) as calls, Worker(client, task_queue=QUEUE, workflows=[AsksAgain]):
        first = await paymaster.client.try_generate(client, a_request(call_id))
        results: list[LLMResult] = await client.execute_workflow(
            AsksAgain.run, args=[a_request(call_id), 2], id=str(uuid4()), task_queue=QUEUE
        )
        for _ in range(2):
            results.append(await paymaster.client.try_generate(client, a_request(call_id)))
        results += await client.execute_workflow(
            AsksAgain.run, args=[a_request(call_id), 1], id=str(uuid4()), task_queue=QUEUE
        )
    answered = (Outcome.COMPLETED, f"{call_id}~g4")
    assert first.call_id == call_id
    assert [(result.outcome, result.call_id) for result in results] == [
        (end.result.outcome, f"{call_id}~g2"),
        (end.result.outcome, f"{call_id}~g3"),
        *[answered] * 3,
    ]
    assert len(calls.requests) == 4


async def test_what_may_have_been_billed_is_found_again(temporal: WorkflowEnvironment) -> None:
    client, call_id = temporal.client, str(uuid4())
    async with scripted_calls(client, [unavailable(cost_usd="0.001")]) as calls:
        results = [await paymaster.client.try_generate(client, a_request(call_id)) for _ in range(2)]
    assert [result.call_id for result in results] == [call_id] * 2
    assert len(calls.requests) == 1


@pytest.mark.parametrize("asks", ["agent", "client"])
async def test_what_was_cancelled_unsent_is_asked_anew(temporal: WorkflowEnvironment, asks: str) -> None:
    """By an agent that waits for it meanwhile too."""
    client, call_id = temporal.client, str(uuid4())
    script = [parked(timedelta(days=1)), completed("at last")]
    async with scripted_calls(client, script) as calls, Worker(client, task_queue=QUEUE, workflows=[AsksAgain]):
        first = await paymaster.client.start(client, a_request(call_id))
        agent = await client.start_workflow(
            AsksAgain.run, args=[a_request(call_id), 1], id=str(uuid4()), task_queue=QUEUE
        )
        async with asyncio.timeout(20):
            while not calls.requests:
                await asyncio.sleep(0.01)
        if asks == "client":
            await agent.terminate()
        await first.cancel()
        with pytest.raises(WorkflowFailureError):
            await first.result()
        if asks == "client":
            with pytest.raises(CallIdReused):
                await paymaster.client.start(client, a_request(call_id, "Something else"))
            second = await paymaster.client.try_generate(client, a_request(call_id))
        else:
            [second] = await agent.result()
    assert (second.text, second.call_id) == ("at last", f"{call_id}~g2")


@workflow.defn(name=CALL_WORKFLOW.name, sandboxed=False)
class CallInFlight:
    """Has begun its attempt, which no worker ever takes."""

    @workflow.run
    async def run(self, message: RawValue) -> None:
        await workflow.execute_activity(
            CALL_SERVICE.name, task_queue="nobody", start_to_close_timeout=timedelta(days=1)
        )


async def test_what_was_cancelled_when_it_was_sent_stays_so(temporal: WorkflowEnvironment) -> None:
    client, call_id = temporal.client, str(uuid4())
    async with Worker(client, task_queue=CALLS_TASK_QUEUE, workflows=[CallInFlight]):
        call = await paymaster.client.start(client, a_request(call_id))
        async with asyncio.timeout(20):
            while not (await call.describe()).raw_description.pending_activities:
                await asyncio.sleep(0.01)
        await call.cancel()
        with pytest.raises(WorkflowFailureError):
            await call.result()
    async with scripted_calls(client, []), Worker(client, task_queue=QUEUE, workflows=[AsksAgain]):
        with pytest.raises(WorkflowFailureError):
            await paymaster.client.try_generate(client, a_request(call_id))
        with pytest.raises(WorkflowFailureError) as failure:
            await client.execute_workflow(
                AsksAgain.run, args=[a_request(call_id), 1], id=str(uuid4()), task_queue=QUEUE
            )
    assert isinstance(failure.value.cause, ActivityError)
    assert "was cancelled: ask under another call id" in str(failure.value.cause.cause)


async def test_a_new_generation_asks_for_the_same(temporal: WorkflowEnvironment) -> None:
    client, call_id = temporal.client, str(uuid4())
    async with scripted_calls(client, [denied()]) as calls:
        await paymaster.client.try_generate(client, a_request(call_id))
        with pytest.raises(CallIdReused):
            await paymaster.client.start(client, a_request(call_id, "Something else"))
    assert len(calls.requests) == 1


async def test_who_asks_anew_at_once_has_one_call(temporal: WorkflowEnvironment) -> None:
    client, call_id = temporal.client, str(uuid4())
    async with scripted_calls(client, [denied(), completed("one")]) as calls:
        await paymaster.client.try_generate(client, a_request(call_id))
        together = [paymaster.client.try_generate(client, a_request(call_id)) for _ in range(10)]
        results = await asyncio.gather(*together)
    assert {(result.text, result.call_id) for result in results} == {("one", f"{call_id}~g2")}
    assert len(calls.requests) == 2


async def test_the_newest_of_many_is_found(temporal: WorkflowEnvironment) -> None:
    client, call_id, count = temporal.client, str(uuid4()), 21
    async with scripted_calls(client, [denied()] * count):
        for number in range(1, count + 1):
            result = await paymaster.client.try_generate(client, a_request(call_id))
            assert generation_of(result.call_id, call_id) == number
            for known in {1, number // 2 or 1, number}:
                assert await latest_generation(client, call_id, known=known) == number
