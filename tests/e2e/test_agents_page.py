"""docs/agents.md: each of its agents runs as it is written there, on a Paymaster of its own."""

import asyncio
import importlib
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from counting_server import CountingServer, FakeService, Reply
from large_answers import stream
from page_snippets import snippets
from paymaster_process import MODEL, PRICE, Databases, Site, configuration, running_site, until
from stored_rows import entries_of_call
from temporalio.worker import Worker

from paymaster import LLMRequest
from paymaster.devstack import EmbeddedStack
from paymaster.messages import RaiseCap, WaitingCall, Wire, call_id_of
from paymaster.values.money import TokenUsage

pytestmark = pytest.mark.timeout(120)

NUMBERS = itertools.count(1)
AGENTS = {
    "writer": ["Writer"],
    "sections": ["Sections"],
    "weather": ["Weather"],
    "picture": ["Picture"],
    "likely": ["Likely"],
    "report": ["Report"],
    "review": ["Review"],
    "patient": ["Patient", "Impatient"],
    "once": ["Once"],
    "hurried": ["Hurried"],
}
"""The workflows of each snippet. `program` has none."""


@pytest.fixture(scope="module")
def page() -> dict[str, str]:
    """Module → code of each snippet."""
    return {file.removesuffix(".py"): code for file, code in snippets("agents.md").items()}


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    return server.service("writer")


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, service: FakeService, module_folder: Path
) -> AsyncIterator[Site]:
    free = {"max_output_tokens": 100, "price": {"input": "0", "output": "0"}}
    sees = {"max_output_tokens": 100, "price": PRICE, "image_tokens_max": 1_000}
    tables = configuration(
        [service, server.service("cheap")],
        only={"writer": {"models": {MODEL: sees}}, "cheap": {"models": {MODEL: free}}},
        budgets={"acme/content": {"cap_usd": {"total": "1"}}, "acme/tight": {"cap_usd": {"total": "0.003"}}},
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


@pytest.fixture(scope="module")
async def agents(
    site: Site, page: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, Any]]:
    """The page's modules by name, their workflows running."""
    folder = tmp_path_factory.mktemp("agents")
    for name, code in page.items():
        (folder / f"{name}.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        modules = {name: importlib.import_module(name) for name in page}
        workflows = [getattr(modules[name], agent) for name, agents in AGENTS.items() for agent in agents]
        async with Worker(site.client, task_queue="page", workflows=workflows):
            yield modules


@pytest.fixture
async def run(site: Site, agents: dict[str, Any], service: FakeService) -> Any:
    """Runs an agent of the page and gives what it returns. The service answers as usual at first."""
    service.text = lambda request: f"answer to {request.prompt}"
    service.usage = lambda request: TokenUsage(input_tokens=12, output_tokens=5)

    async def run(module: str, agent: str, argument: object) -> Any:
        workflow = getattr(agents[module], agent)
        return await site.client.execute_workflow(
            workflow.run, argument, id=f"{agent}-{next(NUMBERS)}", task_queue="page"
        )

    return run


def test_every_snippet_is_run(page: dict[str, str]) -> None:
    assert page.keys() == {*AGENTS, "program"}


async def test_the_program(site: Site, agents: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", site.temporal_address)
    monkeypatch.setenv("TEMPORAL_NAMESPACE", site.namespace)
    sentence, answer = await agents["program"].main()
    assert sentence == f"answer to A sentence about tides. ($0.000032000 by {MODEL}-2026-01-01)"
    assert answer == "answer to What are tides?"


async def test_sections(run: Any, service: FakeService) -> None:
    service.reply = lambda request: Reply(400) if request.prompt == "Waves" else Reply()
    assert await run("sections", "Sections", ["Tides", "Waves"]) == ["answer to Tides", "(left out: invalid_request)"]
    service.reply = lambda request: Reply()


async def test_tools(run: Any, service: FakeService) -> None:
    function = {"name": "forecast", "arguments": '{"city": "Oslo"}'}
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": function}],
    }
    body = {
        "id": "1",
        "object": "chat.completion",
        "model": MODEL,
        "choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17},
    }
    service.script.append(Reply(body=json.dumps(body).encode()))
    assert await run("weather", "Weather", "Will it rain?") == "answer to sunny in Oslo"


async def test_an_image(run: Any, service: FakeService) -> None:
    service.text = lambda request: f"{len(request.body['messages'][-1]['content'])} parts"
    assert await run("picture", "Picture", b"\x89PNG") == "2 parts"


async def test_a_call_in_the_providers_own_format(run: Any, service: FakeService) -> None:
    assert await run("likely", "Likely", "Snow") == ["answer to Snow"]
    assert (service.requests[-1].body["n"], service.requests[-1].body["logprobs"]) == (2, True)


async def test_an_answer_that_is_stored(run: Any, service: FakeService) -> None:
    reply, body = stream(30_000)
    service.script.append(reply)
    asked = json.dumps({"model": "writer", "messages": [{"role": "user", "content": "x"}], "stream": True}).encode()
    request = LLMRequest(route="writer", budget="acme/content", wire=Wire(dialect="openai", body=asked))
    assert await run("report", "Report", request) == len(body)


async def test_structured_output(run: Any, service: FakeService) -> None:
    """The first answer does not fit, and is repaired."""
    service.text = lambda request: '{"good": true, "why": "short"}' if "does not fit" in request.prompt else "Yes."
    before = service.count
    assert await run("review", "Review", "A haiku") == "short"
    assert service.count == before + 2


async def test_the_money_is_used_up(run: Any, site: Site, service: FakeService) -> None:
    """One agent turns to the cheap route at once; another one waits until the cap is raised."""
    service.usage = lambda request: TokenUsage(input_tokens=2_500, output_tokens=5)
    assert await run("patient", "Patient", "first") == "answer to first"
    assert await run("patient", "Impatient", "second") == "cheap: answer to second"

    waiting = asyncio.create_task(run("patient", "Patient", "third"))
    await until(lambda: parked_calls(site), "the call is parked")
    (parked,) = await parked_calls(site)
    await site.ledger.raise_cap(RaiseCap(account="budget:acme/tight", window="total", by="1", reason="a test"))
    assert await waiting == "answer to third"
    (entry,) = await entries_of_call(site.engine, call_id_of(parked.workflow_id))
    assert entry.metadata == {"team": "tides"}


async def parked_calls(site: Site) -> Sequence[WaitingCall]:
    return (await site.ledger.status()).waiting


async def test_the_same_call_id_is_paid_once(run: Any, site: Site, service: FakeService) -> None:
    before = service.count
    assert await run("once", "Once", "tides") == "answer to Outline tides"
    assert await run("once", "Once", "tides") == "answer to Outline tides"
    assert service.count == before + 1


async def test_a_call_that_is_cancelled(run: Any, site: Site, service: FakeService) -> None:
    """Its request was sent: the agent goes on, and the call pays for the answer that comes later."""
    count, before = service.count, await site.balance("budget:acme/content")
    service.hold()
    agent = asyncio.create_task(run("hurried", "Hurried", 1.0))
    await until(lambda: service.count > count, "the request is sent")
    assert await agent == "not in time"
    service.release()
    await until(lambda: no_holds(site), "no hold is left behind", 60)
    assert (await site.balance("budget:acme/content")).posted_nanos == before.posted_nanos + 12 * 1_000 + 5 * 4_000


async def no_holds(site: Site) -> bool:
    return (await site.ledger.status()).holds == 0


async def test_a_call_in_time(run: Any) -> None:
    assert await run("hurried", "Hurried", 30.0) == "answer to Think long."
