"""Which call a request of an SDK is, and what becomes of it at each moment: one request, one bill."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import RetryPolicy
from temporalio.exceptions import CancelledError
from temporalio.testing import ActivityEnvironment, WorkflowEnvironment
from temporalio.worker import Worker

import paymaster.client
from paymaster import LLMRequest, LLMResult, Outcome
from paymaster.messages.wire import WireAnswer
from paymaster.testing import ScriptedCall, local_temporal, parked, scripted_calls
from paymaster.transport import PaymasterTransport, SyncPaymasterTransport

pytestmark = pytest.mark.stack
URL = "https://anywhere.invalid/v1/chat/completions"
BODY = {"model": "writer", "messages": []}


@pytest.fixture(scope="module")
async def temporal() -> AsyncIterator[WorkflowEnvironment]:
    async with local_temporal() as temporal:
        yield temporal


def answered(**headers: str) -> ScriptedCall:
    wire = WireAnswer(status=200, headers=headers, body=b"{}")
    return ScriptedCall(result=LLMResult(outcome=Outcome.COMPLETED, call_id="", wire=wire))


async def ask(client: Client, **headers: Any) -> httpx2.Response:
    async with httpx2.AsyncClient(transport=PaymasterTransport("acme", client=client)) as http:
        return await http.post(URL, json=BODY, headers={name.replace("_", "-"): each for name, each in headers.items()})


async def test_an_answer_is_not_lost_for_an_odd_header(temporal: WorkflowEnvironment) -> None:
    """An SDK would take it for a lost connection, and pay for another."""
    async with scripted_calls(temporal.client, [answered(**{"x-request-id": "é"})]):
        found = await ask(temporal.client)
    assert (found.status_code, found.headers["x-request-id"]) == (200, "é")


async def test_a_key_that_no_header_brings_back_is_hashed(temporal: WorkflowEnvironment) -> None:
    async with scripted_calls(temporal.client, [answered()]) as calls:
        found = [await ask(temporal.client, idempotency_key="é".encode()) for _ in range(2)]
    assert {each.headers["x-paymaster-call-id"][:4] for each in found} == {"key-"}
    assert len(calls.requests) == 1


async def test_an_activity_that_was_reset_finds_its_calls_again(temporal: WorkflowEnvironment) -> None:
    """Its attempts are counted from 1 again, in the same process."""
    ids = list[str]()
    async with scripted_calls(temporal.client, [answered()] * 4):
        for token in (b"first", b"reset"):
            environment = ActivityEnvironment(temporal.client)
            environment.info = replace(environment.info, task_token=token, activity_id="was-reset")
            for _ in range(2):
                found = await environment.run(ask, temporal.client)
                ids.append(found.headers["x-paymaster-call-id"])
    assert ids[:2] == ids[2:]
    assert ids[0] != ids[1]


@activity.defn
async def fails_behind_its_calls() -> list[str]:
    """The ids of two equal calls, at the third attempt."""
    found = [await ask(activity.client()) for _ in range(2)]
    if activity.info().attempt < 3:
        raise RuntimeError("the attempt fails behind its calls")
    return [each.headers["x-paymaster-call-id"] for each in found]


@workflow.defn(sandboxed=False)
class GivesOneIdTwice:
    @workflow.run
    async def run(self) -> list[list[str]]:
        return [
            await workflow.execute_activity(
                fails_behind_its_calls,
                activity_id="the-only-id",
                start_to_close_timeout=timedelta(seconds=20),
                retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=3),
            )
            for _ in range(2)
        ]


async def test_activities_with_one_id_share_no_calls(temporal: WorkflowEnvironment) -> None:
    """The attempts of each do."""
    client, queue = temporal.client, "gives-one-id-twice"
    worker = Worker(client, task_queue=queue, workflows=[GivesOneIdTwice], activities=[fails_behind_its_calls])
    async with scripted_calls(client, [answered()] * 4) as calls, worker:
        found = await client.execute_workflow(GivesOneIdTwice.run, id=str(uuid4()), task_queue=queue)
    assert {each for ids in found for each in ids} == {request.call_id for request in calls.requests}
    assert len(calls.requests) == 4


async def test_each_run_of_an_activity_without_workflow_has_its_own(temporal: WorkflowEnvironment) -> None:
    ids = set[str]()
    async with scripted_calls(temporal.client, [answered()] * 2):
        for attempt, run_id in enumerate(("run-1", "run-2"), 1):
            environment = ActivityEnvironment(temporal.client)
            of_none: dict[str, Any] = {"workflow_id": None, "workflow_run_id": None, "activity_run_id": run_id}
            environment.info = replace(environment.info, activity_id="alone", attempt=attempt, **of_none)
            ids.add((await environment.run(ask, temporal.client)).headers["x-paymaster-call-id"])
    assert len(ids) == 2


async def test_what_is_cancelled_while_it_starts_is_cancelled(
    temporal: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started, told = paymaster.client.start, asyncio.Event(), asyncio.Event()
    handles = list[WorkflowHandle[object, LLMResult]]()

    async def starts_slowly(
        client: Client, request: LLMRequest, *, id_is_drawn: bool
    ) -> WorkflowHandle[object, LLMResult]:
        handles.append(await start(client, request, id_is_drawn=id_is_drawn))
        started.set()
        await told.wait()
        return handles[0]

    monkeypatch.setattr(paymaster.client, "start", starts_slowly)
    async with scripted_calls(temporal.client, [parked(timedelta(days=1))]):
        asking = asyncio.create_task(ask(temporal.client))
        await started.wait()
        asking.cancel()
        await asyncio.sleep(0)
        told.set()
        with pytest.raises(asyncio.CancelledError):
            await asking
        with pytest.raises(Exception, match="execution failed"):
            await handles[0].result()
    assert (await handles[0].describe()).status is WorkflowExecutionStatus.CANCELED


async def test_a_cancelled_activity_in_a_thread_does_not_wait(temporal: WorkflowEnvironment) -> None:
    environment, key = ActivityEnvironment(), str(uuid4())
    environment.info = replace(environment.info, activity_id=key)
    transport = SyncPaymasterTransport("acme", client=temporal.client)

    def asks() -> None:
        with httpx2.Client(transport=transport) as http:
            http.post(URL, json=BODY, headers={"idempotency-key": key})

    async with scripted_calls(temporal.client, [parked(timedelta(days=1))]) as calls:
        running = asyncio.create_task(asyncio.to_thread(environment.run, asks))
        async with asyncio.timeout(20):
            while not calls.requests:
                await asyncio.sleep(0.01)
            environment.cancel()
            with pytest.raises(CancelledError):
                await running
        await temporal.client.get_workflow_handle(f"call/{key}").terminate()
