"""Unmodified agents of frameworks in sandboxed workflows, parked in the middle until their cap is raised."""

import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from agents import Span, Trace, TracingProcessor, set_trace_processors
from counting_server import CountingServer, Reply
from framework_agents import (
    WORKFLOWS,
    AgentOfLangGraph,
    AgentOfOpenAI,
    AgentOfPydanticAI,
    ChatsInRetriedActivity,
    ClaudeThinks,
    TracedAgent,
    chat_in_activity,
)
from framework_answers import USAGE, chat, claude, response
from paymaster_process import MODEL, PRICE, ROOT, Databases, Site, configuration, running_site, settled_books, until
from sandboxed_agents import run_and_replay, sandboxed_agents
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Replayer

import paymaster
from paymaster.devstack import EmbeddedStack
from paymaster.devstack.process import GuardedProcess
from paymaster.messages import RaiseCap, WaitingCall

pytestmark = pytest.mark.timeout(60)
QUEUE = "agents-of-frameworks"
WORKER = ROOT / "tests/support/worker_of_frameworks.py"
FORMATS = {"chat": "openai", "responses": "openai-responses", "claude": "anthropic"}
CAP = "0.015"
"""One request of an agent fits under it, and behind its answer no other one."""
COST_NANOS = USAGE.input_tokens * 1_000 + USAGE.output_tokens * 4_000
"""Of each answer."""
USED = {
    "input_tokens": USAGE.input_tokens,
    "output_tokens": USAGE.output_tokens,
    "total_tokens": USAGE.input_tokens + USAGE.output_tokens,
    "input_token_details": {"cache_read": 0, "cache_creation": 0},
    "output_token_details": {"reasoning": 0},
}
OSLO = {"city": "Oslo"}
"""With which the agents' tools are called."""


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    models = {MODEL: {"max_output_tokens": 2_000, "price": PRICE}}
    for name in FORMATS:
        server.service(f"framework-{name}").usage = lambda request: USAGE
    tables = configuration(
        [server.service(f"framework-{name}") for name in FORMATS],
        routes={name: [server.service(f"framework-{name}")] for name in FORMATS},
        budgets={
            "acme": {"cap_usd": {"total": "100"}},
            "acme/activity": {"cap_usd": {"total": "1"}},
            **{f"acme/{case}": {"cap_usd": {"total": CAP}} for case in CASES},
        },
        service={"models": models},
        only={f"framework-{name}": {"api": api} for name, api in FORMATS.items()},
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


@pytest.fixture(scope="module")
async def plain(site: Site) -> AsyncIterator[Client]:
    async with sandboxed_agents(site, QUEUE, WORKFLOWS, [chat_in_activity]) as client:
        yield client


CASES: dict[str, tuple[Any, str, Sequence[Any], Sequence[Reply], Any]] = {
    "pydantic-ai-chat": (
        AgentOfPydanticAI,
        "chat",
        ["openai"],
        [chat(("degrees_in", OSLO)), chat(("final_result", {**OSLO, "degrees": 7}))],
        {**OSLO, "degrees": 7},
    ),
    "pydantic-ai-responses": (
        AgentOfPydanticAI,
        "responses",
        ["openai-responses"],
        [response(("degrees_in", OSLO)), response(("final_result", {**OSLO, "degrees": 7}))],
        {**OSLO, "degrees": 7},
    ),
    "pydantic-ai-claude": (
        AgentOfPydanticAI,
        "claude",
        ["anthropic"],
        [claude(("degrees_in", OSLO)), claude(("final_result", {**OSLO, "degrees": 7}))],
        {**OSLO, "degrees": 7},
    ),
    "openai-agents-chat": (
        AgentOfOpenAI,
        "chat",
        [False],
        [chat(("degrees_in", OSLO)), chat(("transfer_to_wind", {})), chat(("wind_in", OSLO)), chat("7, light")],
        "wind: 7, light",
    ),
    "openai-agents-responses": (
        AgentOfOpenAI,
        "responses",
        [True],
        [
            response(("degrees_in", OSLO)),
            response(("transfer_to_wind", {})),
            response(("wind_in", OSLO)),
            response("7, light"),
        ],
        "wind: 7, light",
    ),
    "langgraph-chat": (
        AgentOfLangGraph,
        "chat",
        [],
        [chat(("degrees_in", OSLO)), chat("7"), chat(("Forecast", {**OSLO, "degrees": 7}))],
        {"said": "7", "usage": USED, **OSLO, "degrees": 7},
    ),
    "langgraph-claude-thinks": (
        AgentOfLangGraph,
        "claude",
        [],
        [
            claude(("degrees_in", OSLO), thought="where is Oslo"),
            claude("7", thought="found"),
            claude(("Forecast", {**OSLO, "degrees": 7})),
        ],
        {"said": "7", "usage": USED, **OSLO, "degrees": 7},
    ),
    "claude-thinks": (
        ClaudeThinks,
        "claude",
        [],
        [claude(("degrees_in", OSLO), thought="where is Oslo"), claude("7", thought="found")],
        "7",
    ),
}
KILLED = {"killed-openai-agents": "openai-agents-responses", "killed-langgraph": "langgraph-chat"}
"""The cases of agents whose worker is killed, and which cases they are otherwise."""
CASES.update({killed: CASES[case] for killed, case in KILLED.items()})


async def parked_call(site: Site) -> WaitingCall:
    found: Sequence[WaitingCall] = []

    async def one_is_parked() -> bool:
        nonlocal found
        found = (await site.ledger.status()).waiting
        return len(found) == 1

    await until(one_is_parked, "a call of the agent is parked")
    return found[0]


async def raise_cap(site: Site, budget: str) -> None:
    await site.ledger.raise_cap(RaiseCap(account=f"budget:{budget}", window="total", by="1", reason="it is worth it"))


async def replays(handle: WorkflowHandle[Any, Any]) -> None:
    replayer = Replayer(workflows=WORKFLOWS, workflow_runner=paymaster.sandbox())
    await replayer.replay_workflow(await handle.fetch_history())


@pytest.mark.parametrize("case", [case for case in CASES if case not in KILLED])
async def test_an_agent_is_parked_and_ends(plain: Client, site: Site, server: CountingServer, case: str) -> None:
    """Each of its requests is billed once, and its history replays in the sandbox."""
    workflow, model, more, replies, right = CASES[case]
    service, budget = server.service(f"framework-{model}"), f"acme/{case}"
    before = service.count
    service.script.extend(replies)
    handle = await plain.start_workflow(
        workflow.run, args=[model, budget, *more], id=f"agent-{uuid4()}", task_queue=QUEUE
    )
    await parked_call(site)
    assert 0 < service.count - before < len(replies), "parked in the middle"
    await raise_cap(site, budget)
    assert await handle.result() == right
    assert service.count - before == len(replies)
    if "thinks" in case:
        thought = service.requests[before + 1].body["messages"][1]["content"][0]
        assert thought == {"type": "thinking", "thinking": "where is Oslo", "signature": "signed where is Oslo"}
    assert (await site.balance(f"budget:{budget}")).posted_nanos == len(replies) * COST_NANOS
    await settled_books(site, service)
    await replays(handle)


@asynccontextmanager
async def worker_process(site: Site, queue: str, log_file: Path) -> AsyncGenerator[GuardedProcess]:
    """A worker of the agents in a process of its own, which takes work."""
    command = [sys.executable, WORKER, site.temporal_address, site.namespace, queue]
    path = os.pathsep.join([str(ROOT), str(WORKER.parent)])
    async with GuardedProcess(command, env={**site.environment, "PYTHONPATH": path}, log_file=log_file) as process:
        await until(lambda: "worker ready" in log_file.read_text(), "the worker of the agents is ready")
        yield process


@pytest.mark.parametrize("case", KILLED)
async def test_its_worker_is_killed_while_it_is_parked(
    site: Site, server: CountingServer, case: str, tmp_path: Path
) -> None:
    """The next worker goes on where it was: nothing is asked again."""
    workflow, model, more, replies, right = CASES[case]
    service, budget, queue = server.service(f"framework-{model}"), f"acme/{case}", f"agents-{case}"
    before = service.count
    service.script.extend(replies)
    async with worker_process(site, queue, tmp_path / "first.log") as worker:
        handle = await site.client.start_workflow(
            workflow.run, args=[model, budget, *more], id=f"agent-{uuid4()}", task_queue=queue
        )
        await parked_call(site)
        asked = service.count - before
        worker.kill()
        await worker.wait(timeout=10)
    async with worker_process(site, queue, tmp_path / "second.log"):
        await raise_cap(site, budget)
        assert await handle.result() == right
    assert 0 < asked < service.count - before == len(replies)
    assert (await site.balance(f"budget:{budget}")).posted_nanos == len(replies) * COST_NANOS
    await settled_books(site, service)


async def test_langchains_model_in_a_retried_activity_pays_once(
    plain: Client, site: Site, server: CountingServer
) -> None:
    """Two equal questions on purpose are two, in each attempt the same two."""
    service = server.service("framework-chat")
    before = service.count
    service.script.extend([chat("7"), chat("8")])
    assert await run_and_replay(plain, ChatsInRetriedActivity, "chat", "acme/activity", 2, queue=QUEUE) == "7, 8"
    assert service.count - before == 2
    assert (await site.balance("budget:acme/activity")).posted_nanos == 2 * COST_NANOS
    await settled_books(site, service)


class Traced(TracingProcessor):
    """What the SDK would send to OpenAI."""

    def __init__(self) -> None:
        self.found: list[object] = []

    def on_trace_start(self, trace: Trace) -> None:
        self.found.append(trace)

    def on_trace_end(self, trace: Trace) -> None:
        self.found.append(trace)

    def on_span_start(self, span: Span[Any]) -> None:
        self.found.append(span)

    def on_span_end(self, span: Span[Any]) -> None:
        self.found.append(span)

    def shutdown(self) -> None:
        pass

    def force_flush(self) -> None:
        pass


async def test_the_sdk_traces_no_workflow(plain: Client, server: CountingServer) -> None:
    """Where the models are not made in the workflow, the run has to say it."""
    traced = Traced()
    set_trace_processors([traced])

    async def run(workflow: Any, *arguments: Any) -> str:
        return await plain.execute_workflow(workflow.run, args=arguments, id=f"agent-{uuid4()}", task_queue=QUEUE)

    service = server.service("framework-responses")
    service.script.append(response("hello"))
    assert await run(AgentOfOpenAI, "responses", "acme", True) == "first: hello"
    service.script.append(response("hello"))
    assert await run(TracedAgent, "responses", False) == "hello"
    assert traced.found == []
    assert "make PaymasterModels in the workflow" in await run(TracedAgent, "responses", True)
