"""Google's SDK over Paymaster: in sandboxed workflows, in activities, and in a program."""

import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from counting_server import CountingServer, Reply
from gemini_agents import BUDGET, AsksGemini, AsksGeminiInActivity, ChatsWithGemini, ask_gemini
from paymaster_process import MODEL, Databases, Site, configuration, running_site, settled_books
from sandboxed_agents import run_and_replay, sandboxed_agents
from sdk_answers import GEMINI_VECTORS, GENERATED, GENERATED_EVENTS
from temporalio.client import Client

from paymaster.devstack import EmbeddedStack
from paymaster.integrations import google_genai
from paymaster.transport import PaymasterTransport

pytestmark = pytest.mark.timeout(40)
QUEUE = "agents-of-gemini"
WORKFLOWS = [ChatsWithGemini, AsksGemini, AsksGeminiInActivity]


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    service = server.service("gemini-sdk")
    service.reply = lambda request: Reply(body=GENERATED)
    tables = configuration(
        [service],
        routes={"flash": [service], service.name: [service]},
        budgets={"acme": {"cap_usd": {"total": "1"}}, "poor": {"cap_usd": {"total": "0.000001"}}},
        service={"api": "gemini"},
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


@pytest.fixture(scope="module")
async def plain(site: Site) -> AsyncIterator[Client]:
    async with sandboxed_agents(site, QUEUE, WORKFLOWS, [ask_gemini]) as client:
        yield client


run = partial(run_and_replay, queue=QUEUE)


@pytest.mark.parametrize("model", ["flash", "models/flash", f"gemini-sdk/{MODEL}"])
async def test_gemini_in_a_sandboxed_workflow(plain: Client, site: Site, server: CountingServer, model: str) -> None:
    """By a route, and by a service's model."""
    service = server.service("gemini-sdk")
    service.script.extend([Reply(body=GENERATED), Reply(stream=GENERATED_EVENTS), Reply(body=GEMINI_VECTORS)])
    said = await run(plain, ChatsWithGemini, model)
    assert said == {"whole": "é", "texts": ["a", "é"], "vectors": [[0.5], [-0.5]]}
    sent = [request.path.partition("/models/")[2] for request in service.requests[-3:]]
    methods = ("generateContent", "streamGenerateContent?alt=sse", "batchEmbedContents")
    assert sent == [f"{MODEL}:{method}" for method in methods]
    await settled_books(site)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("model", "budget", "status", "reason"),
    [
        ("flash", "poor", 400, "bound_above_cap"),
        ("nowhere", BUDGET, 404, "unknown_route"),
        ("flash", "nobody", 403, "unknown_budget"),
    ],
)
async def test_a_denied_call_is_googles_own_error(
    plain: Client, model: str, budget: str, status: int, reason: str, streamed: bool
) -> None:
    said = await run(plain, AsksGemini, model, budget, streamed)
    assert (said["error"], said["status"], said["body"]["paymaster"]["reason"]) == ("ClientError", status, reason)


async def test_googles_refusals_are_raised_as_they_were(plain: Client, site: Site, server: CountingServer) -> None:
    service = server.service("gemini-sdk")
    refusal = b'{"error":{"code":400,"message":"no such voice","status":"INVALID_ARGUMENT"}}'
    service.script.append(Reply(400, body=refusal))
    said = await run(plain, AsksGemini, "flash", BUDGET, False)
    assert (said["error"], said["body"]) == ("ClientError", json.loads(refusal))
    before = service.count
    failure = b'{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}'
    service.script.extend([Reply(503, body=failure)] * 3)
    said = await run(plain, AsksGemini, "flash", BUDGET, False)
    assert (said["error"], said["status"]) == ("ServerError", 503)
    assert service.count - before == 3, "the worker's retries and none of the SDK's"
    await settled_books(site)


async def test_an_activity_that_is_tried_again_asks_gemini_once(
    plain: Client, site: Site, server: CountingServer
) -> None:
    service = server.service("gemini-sdk")
    before = service.count
    assert await run(plain, AsksGeminiInActivity, "flash", 2) == "é"
    assert service.count - before == 1
    await settled_books(site)


async def test_no_key_of_a_program_is_sent(
    plain: Client, server: CountingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "the-key-of-the-caller")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    client = google_genai.Client(transport=PaymasterTransport(BUDGET, client=plain))
    answer = await client.aio.models.generate_content(model="flash", contents="Hello")
    assert answer.text == "é"
    assert "the-key-of-the-caller" not in str(server.service("gemini-sdk").requests[-1].headers)
    with pytest.raises(RuntimeError, match=r"use client\.aio\.models"):
        client.models.generate_content(model="flash", contents="Hello")
