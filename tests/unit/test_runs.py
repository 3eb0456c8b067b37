"""`run_budget`: what is within has it, and nothing else has, in programs, workflows and activities."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError
from run_agents import ACTIVITIES, PLACES, WORKFLOWS, BudgetedAgent, RunAgent, asked
from temporalio import workflow
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

import paymaster
from paymaster import LLMRequest, LLMResult, Outcome, PaymasterError, RunLimits, run_budget
from paymaster.client import generate
from paymaster.messages import CALLS_TASK_QUEUE, Asker, RunPart
from paymaster.messages.temporal_names import CALL_WORKFLOW
from paymaster.runs import current_scope, in_current_run
from paymaster.security.payloads import ASKER, as_raw, asker_of, from_asker, read_raw
from paymaster.testing import completed, local_temporal, scripted_calls

HALF, TENTH = RunLimits(usd="0.50"), RunLimits(usd="0.10")


def named(**fields: Any) -> LLMRequest:
    return asked("x").model_copy(update=fields)


# ---------------------------------------------------------------- in a program


def test_a_request_within_has_the_run_and_its_limits() -> None:
    with run_budget("0.50", calls=20, lasts="2h"):
        found = in_current_run(asked("x"))
    assert found.run_limits == RunLimits(usd="0.50", calls=20, lasts="2h")
    assert found.run_parts == ()
    assert found.run
    assert in_current_run(asked("x")) == asked("x")


def test_each_of_a_programs_budgets_is_a_run() -> None:
    runs = set[str | None]()
    for _ in range(2):
        with run_budget("0.50"):
            runs |= {in_current_run(asked(prompt)).run for prompt in "ab"}
    assert len(runs) == 2


def test_parts_are_within_one_another() -> None:
    with run_budget(Decimal("0.5"), run="pr-17"), run_budget("0.10", name="researcher"):
        with run_budget(calls=3, name="critic"):
            inner = in_current_run(asked("x"))
        outer = in_current_run(asked("x"))
    researcher, critic = (RunPart(name="researcher", limits=TENTH), RunPart(name="critic", limits=RunLimits(calls=3)))
    assert (outer.run, outer.run_limits, outer.run_parts) == ("pr-17", HALF, (researcher,))
    assert (inner.run, inner.run_limits, inner.run_parts) == ("pr-17", HALF, (researcher, critic))


def test_another_run_begins_anew() -> None:
    with run_budget("0.50"), run_budget("0.10", name="researcher"), run_budget(run="pr-18"):
        found = in_current_run(asked("x"))
    assert (found.run, found.run_limits, found.run_parts) == ("pr-18", None, ())


def test_what_a_request_says_of_its_run_stands() -> None:
    part = RunPart(name="critic", limits=TENTH)
    with run_budget("0.50", run="pr-17"):
        assert in_current_run(named(run="other")) == named(run="other")
        assert in_current_run(named(run_limits=TENTH)).run_limits == TENTH
        found = in_current_run(named(run="pr-17", run_parts=(part,)))
    assert (found.run_limits, found.run_parts) == (HALF, (part,))


def test_a_run_has_one_budget() -> None:
    """To say it once more changes nothing."""
    with run_budget("0.50"), run_budget("0.5"):
        with pytest.raises(PaymasterError, match="as a part"), run_budget("0.10"):
            pass
        with (
            run_budget("0.10", name="researcher"),
            pytest.raises(PaymasterError, match=r'name="researcher"'),
            run_budget("0.20"),
        ):
            pass
        assert in_current_run(asked("x")).run_limits == HALF


@pytest.mark.parametrize(
    "wrong", [{}, {"name": "a"}, {"usd": 0.5}, {"usd": "1", "run": "a/b"}, {"usd": "1", "name": "a b"}], ids=str
)
def test_a_budget_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, ValueError)):
        run_budget(**wrong)


async def test_tasks_and_threads_within_have_it_and_others_have_not() -> None:
    """Two at once in one loop, and a thread of neither."""
    inside = asyncio.Barrier(2)

    async def agent(usd: str) -> list[RunLimits | None]:
        with run_budget(usd):
            await inside.wait()
            in_task = await asyncio.create_task(asyncio.to_thread(in_current_run, asked("x")))
            await inside.wait()
        return [in_task.run_limits, in_current_run(asked("x")).run_limits]

    assert await asyncio.gather(agent("0.50"), agent("0.10")) == [[HALF, None], [TENTH, None]]
    with run_budget("0.50"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(current_scope).result() is None


# ---------------------------------------------------------------- in workflows and activities


@pytest.fixture(scope="module")
async def temporal() -> AsyncIterator[WorkflowEnvironment]:
    async with local_temporal() as temporal:
        yield temporal


async def asked_by_two(client: Client, places: tuple[str, ...], *, plugin: bool) -> dict[str, LLMRequest]:
    """What two agents in one worker ask for, who are within their budgets at the same time. By prompt."""
    queue = f"runs-{uuid4()}"
    plain = await Client.connect(client.service_client.config.target_host, namespace=client.namespace)
    with ThreadPoolExecutor(4) as threads:
        worker = Worker(
            client if plugin else plain,
            task_queue=queue,
            workflows=WORKFLOWS,
            activities=ACTIVITIES,
            activity_executor=threads,
            workflow_runner=paymaster.sandbox(),
        )
        async with scripted_calls(client, lambda request: completed()) as calls, worker:
            agents = [
                await client.start_workflow(
                    BudgetedAgent.run, args=[places, name, usd, "writer", True], id=name, task_queue=queue
                )
                for name, usd in ((f"a-{queue}", "0.50"), (f"b-{queue}", "0.10"))
            ]
            for _ in range(2):
                for agent in agents:
                    await agent.signal(BudgetedAgent.go_on)
            await asyncio.gather(*(agent.result() for agent in agents))
    return {request.prompt or "": request for request in calls.requests}


def check_scopes(found: dict[str, LLMRequest], places: tuple[str, ...]) -> None:
    assert len(found) == 2 * (2 * 2 * len(places) + 1)
    for prompt, request in found.items():
        name, _, scope, *_ = prompt.split("/")
        limits = {"a": HALF, "b": TENTH}[name[0]]
        assert request.run is None
        assert request.run_limits == (None if scope == "outside" else limits), prompt
        assert request.run_parts == ((RunPart(name=name, limits=limits),) if scope == "part" else ()), prompt


@pytest.mark.stack
async def test_workflows_in_one_worker_have_each_their_own(temporal: WorkflowEnvironment) -> None:
    """Without the plugin what is said in a workflow is said to its own calls."""
    places = ("own", "task")
    check_scopes(await asked_by_two(temporal.client, places, plugin=False), places)


@pytest.mark.stack
async def test_activities_and_children_have_that_of_their_agent(temporal: WorkflowEnvironment) -> None:
    """With the plugin, as a header."""
    places = tuple(place for place in PLACES if place not in ("transport", "thread"))
    check_scopes(await asked_by_two(temporal.client, places, plugin=True), places)


@pytest.mark.stack
async def test_a_program_says_it_to_its_calls(temporal: WorkflowEnvironment) -> None:
    async with scripted_calls(temporal.client, lambda request: completed()) as calls:
        with run_budget("0.50", run="nightly"):
            await generate(temporal.client, asked("x").model_copy(update={"call_id": None}))
    assert [(request.run, request.run_limits) for request in calls.requests] == [("nightly", HALF)]


# ---------------------------------------------------------------- who asks


ASKERS: dict[str, Asker] = {}
"""What calls were told of who asks for them, by prompt."""


@workflow.defn(name=CALL_WORKFLOW.name, sandboxed=False)
class SaysWhoAsks:
    @workflow.run
    async def run(self, message: RawValue) -> RawValue:
        request = read_raw(message, LLMRequest)
        ASKERS[request.prompt or ""] = asker_of(message)
        return as_raw(LLMResult(outcome=Outcome.COMPLETED, call_id="", request_digest=request.digest()))


@pytest.mark.stack
async def test_an_agents_own_calls_need_no_look_up(temporal: WorkflowEnvironment) -> None:
    """They are told the run; a sub-agent's see their root, and an activity's are told its workflow."""
    client, queue = temporal.client, str(uuid4())
    agents = Worker(client, task_queue=queue, workflows=WORKFLOWS, activities=ACTIVITIES[:1])
    calls = Worker(client, task_queue=CALLS_TASK_QUEUE, workflows=[SaysWhoAsks])
    places = ("own", "child", "activity")
    async with agents, calls:
        agent = await client.start_workflow(
            RunAgent.run, args=[places, queue, "writer", 2], id=f"agent-{queue}", task_queue=queue
        )
        await agent.result()
    run = f"agent-{queue}@{agent.first_execution_run_id}"
    for times in (1, 2):
        assert ASKERS[f"{queue}/{times}/own"] == Asker(run=run)
        assert ASKERS[f"{queue}/{times}/child/own"] == Asker()
        asker = ASKERS[f"{queue}/{times}/activity"]
        assert asker.run is None
        assert asker.workflow is not None
        assert asker.workflow.workflow_id == agent.id


@pytest.mark.parametrize("forged", [b"", b"{", b'{"run": "a/b"}', b'{"run": "' + b"a" * 10_000 + b'"}', b"[]"])
def test_a_forged_asker_is_nobody(forged: bytes) -> None:
    message = from_asker(asked("x"), "", Asker(run="pr-17"))
    assert asker_of(message) == Asker(run="pr-17")
    message.payload.metadata[ASKER] = forged
    assert asker_of(message) == Asker()
