"""Unmodified SDKs over PaymasterTransport: in sandboxed workflows, in activities, and in a program."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import anthropic
import httpx2
import openai
import pytest
from counting_server import CountingServer, Reply
from large_answers import stream
from paymaster_process import Databases, Site, configuration, running_site, settled_books, until
from sandboxed_agents import run_and_replay, sandboxed_agents
from sdk_agents import (
    BUDGET,
    KEY,
    CatchesNothing,
    ChatsInActivity,
    ChatsWith,
    ChatsWithClaude,
    ChatsWithOpenAI,
    Digests,
    asked,
    chat_in_activity,
    sync_client,
)
from sdk_answers import CHAT_CHUNKS, MESSAGE, MESSAGE_EVENTS, RESPONSE, RESPONSE_EVENTS, VECTORS
from temporalio.client import Client, WorkflowFailureError, WorkflowHistory
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from paymaster.devstack import EmbeddedStack
from paymaster.transport import PaymasterTransport, SyncPaymasterTransport

pytestmark = pytest.mark.timeout(40)
QUEUE = "agents-of-sdks"
WORKFLOWS = [ChatsWithOpenAI, ChatsWithClaude, ChatsWith, ChatsInActivity, Digests, CatchesNothing]


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    names = ("chat", "responses", "claude", "failing", "parking", "large")
    services = {name: server.service(name) for name in names}
    tables = configuration(
        list(services.values()),
        routes={name: [service] for name, service in services.items()},
        budgets={
            "acme": {"cap_usd": {"total": "1"}},
            "poor": {"cap_usd": {"total": "0.000001"}},
            "spent": {"cap_usd": {"total": "0.0026"}},
        },
        only={"responses": {"api": "openai-responses"}, "claude": {"api": "anthropic"}},
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


@pytest.fixture(scope="module")
async def plain(site: Site) -> AsyncIterator[Client]:
    async with sandboxed_agents(site, QUEUE, WORKFLOWS, [chat_in_activity]) as client:
        yield client


run = partial(run_and_replay, queue=QUEUE)


async def newest_history(client: Client) -> WorkflowHistory:
    """Of the agents of long answers."""
    agents = [each async for each in client.list_workflows("WorkflowType = 'Digests'")]
    newest = max(agents, key=lambda each: each.start_time)
    return await client.get_workflow_handle(newest.id, run_id=newest.run_id).fetch_history()


async def pieces_read(client: Client) -> int:
    history = await newest_history(client)
    return sum(event.HasField("activity_task_completed_event_attributes") for event in history.events)


async def test_openai_in_a_sandboxed_workflow(plain: Client, site: Site, server: CountingServer) -> None:
    chat, responses = server.service("chat"), server.service("responses")
    chat.script.extend([Reply(), Reply(stream=CHAT_CHUNKS), Reply(body=VECTORS)])
    responses.script.extend([Reply(body=RESPONSE), Reply(stream=RESPONSE_EVENTS)])
    said = await run(plain, ChatsWithOpenAI)
    assert said["chunks"] == ["aé", None]
    assert said["response"] == "é"
    assert said["events"] == ["response.created", "response.completed"]
    assert said["vectors"] == [[0.5], [-0.5]]
    assert said["whole"]
    await settled_books(site)


async def test_claude_in_a_sandboxed_workflow(plain: Client, site: Site, server: CountingServer) -> None:
    server.service("claude").script.extend([Reply(body=MESSAGE), Reply(stream=MESSAGE_EVENTS)])
    said = await run(plain, ChatsWithClaude)
    assert [block["text"] for block in said["whole"]] == ["é"]
    assert (said["texts"], said["stop"]) == (["é"], "end_turn")
    await settled_books(site)


@pytest.mark.parametrize(
    ("model", "budget", "error", "status", "reason"),
    [
        ("chat", "poor", "BadRequestError", 400, "bound_above_cap"),
        ("nowhere", BUDGET, "NotFoundError", 404, "unknown_route"),
        ("chat", "nobody", "PermissionDeniedError", 403, "unknown_budget"),
    ],
)
async def test_a_denied_call_is_the_sdks_own_error(
    plain: Client, model: str, budget: str, error: str, status: int, reason: str
) -> None:
    said = await run(plain, ChatsWith, model, budget)
    assert (said["error"], said["status"], said["body"]["paymaster"]["reason"]) == (error, status, reason)
    assert said["body"]["paymaster"]["call_id"]


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
@pytest.mark.parametrize("with_plugin", [False, True])
async def test_an_sdks_error_that_is_not_caught_fails_the_workflow(
    plain: Client, site: Site, sdk: str, with_plugin: bool
) -> None:
    """Its task would be tried again for ever."""
    queue, runner = (QUEUE, None) if not with_plugin else (f"{QUEUE}-of-plugin", SandboxedWorkflowRunner())
    async with AsyncExitStack() as running:
        if runner is not None:
            worker = Worker(site.client, task_queue=queue, workflows=[CatchesNothing], workflow_runner=runner)
            await running.enter_async_context(worker)
        with pytest.raises(WorkflowFailureError) as failure:
            await plain.execute_workflow(CatchesNothing.run, sdk, id=f"agent-{uuid4()}", task_queue=queue)
    assert isinstance(failure.value.cause, ApplicationError)
    assert failure.value.cause.type == "NotFoundError"


async def test_a_providers_refusal_is_raised_as_it_was(plain: Client, server: CountingServer) -> None:
    refusal = b'{"error":{"message":"no such voice","type":"invalid_request_error","code":"voice","param":"voice"}}'
    server.service("failing").script.append(Reply(400, body=refusal))
    said = await run(plain, ChatsWith, "failing", BUDGET)
    assert (said["error"], said["body"]) == ("BadRequestError", json.loads(refusal)["error"])


async def test_an_activity_that_is_tried_again_pays_once(plain: Client, site: Site, server: CountingServer) -> None:
    """Two equal requests on purpose are two, in each attempt the same two."""
    service = server.service("chat")
    before = service.count
    said = await run(plain, ChatsInActivity, "chat", 2, 2)
    assert len(said) == 2
    assert service.count - before == 2
    assert all(request.authorization == "" for request in service.requests)
    await settled_books(site)


async def test_what_an_sdk_sends_again_is_one_call(plain: Client, site: Site, server: CountingServer) -> None:
    """Elsewhere: a 500 that was not billed is asked anew under the same id; equal requests are two calls."""
    service = server.service("failing")
    before = service.count
    service.script.extend([Reply(429, headers={"retry-after": "0"})] * 3)
    transport = PaymasterTransport(BUDGET, client=plain)
    client = openai.AsyncOpenAI(api_key="sk-x", max_retries=2, http_client=httpx2.AsyncClient(transport=transport))
    ids: list[str] = []
    for _ in range(2):
        answer = await client.chat.completions.with_raw_response.create(**asked("failing"))
        ids.append(answer.headers["x-paymaster-call-id"])
    assert ids[0].endswith("~g2")
    assert "~" not in ids[1]
    assert service.count - before == 5
    await settled_books(site)


async def test_a_key_of_the_caller_is_the_calls_id(plain: Client, server: CountingServer) -> None:
    service, key = server.service("chat"), str(uuid4())
    before = service.count
    client = openai.AsyncOpenAI(
        api_key="sk-x", http_client=httpx2.AsyncClient(transport=PaymasterTransport(BUDGET, client=plain))
    )
    for _ in range(2):
        answer = await client.chat.completions.with_raw_response.create(
            **asked("chat"), extra_headers={"Idempotency-Key": key}
        )
        assert answer.headers["x-paymaster-call-id"] == key
    assert service.count - before == 1
    with pytest.raises(openai.ConflictError):
        await client.chat.completions.create(**asked("chat", seed=1), extra_headers={"Idempotency-Key": key})


async def test_the_synchronous_sdk_in_a_thread(plain: Client, server: CountingServer) -> None:
    client = sync_client(SyncPaymasterTransport(BUDGET, client=plain))
    server.service("chat").script.append(Reply(stream=CHAT_CHUNKS))

    def chat() -> list[str | None]:
        chunks = client.chat.completions.create(**asked("chat", stream=True))
        return [choice.delta.content for chunk in chunks for choice in chunk.choices]

    assert await asyncio.to_thread(chat) == ["aé", None]


async def test_what_is_no_call_is_not_sent(plain: Client) -> None:
    client = openai.AsyncOpenAI(
        api_key="sk-x", http_client=httpx2.AsyncClient(transport=PaymasterTransport(BUDGET, client=plain))
    )
    with pytest.raises(openai.NotFoundError, match="GET /v1/models is no call of an LLM"):
        await client.models.list()
    claude = anthropic.AsyncAnthropic(
        api_key="sk-x", http_client=httpx2.AsyncClient(transport=PaymasterTransport("nobody", client=plain))
    )
    with pytest.raises(anthropic.PermissionDeniedError):
        await claude.messages.create(**asked("claude", max_tokens=9))


@pytest.mark.parametrize("where", ["workflow", "activity"])
async def test_what_is_cancelled_while_parked_leaves_the_queue(
    plain: Client, site: Site, server: CountingServer, where: str
) -> None:
    """No SDK takes the cancellation for a failure that it may send again."""
    service = server.service("parking")
    before = service.count
    service.hold()
    first = asyncio.create_task(run(plain, ChatsWith, "parking", "spent"))
    await until(lambda: service.held == 1, "the first is in flight, and its hold takes what the cap leaves")
    kind, arguments = (ChatsWith, ["parking", "spent"]) if where == "workflow" else (ChatsInActivity, ["parking", 0, 1])
    if where == "activity":
        arguments = [*arguments, "spent"]
    parked = await plain.start_workflow(kind.run, args=arguments, id=f"agent-{uuid4()}", task_queue=QUEUE)

    async def is_parked() -> bool:
        return (await site.ledger.status()).parked == 1

    async def nothing_is_parked() -> bool:
        return (await site.ledger.status()).parked == 0

    await until(is_parked, "the second is parked")
    await parked.cancel()
    with pytest.raises(WorkflowFailureError) as failure:
        await parked.result()
    assert isinstance(failure.value.cause, CancelledError)
    await until(nothing_is_parked, "nothing is parked behind its back")
    service.release()
    await first
    assert service.count - before == 1
    await settled_books(site)


async def test_what_was_cancelled_when_it_was_sent_is_not_paid_twice(
    plain: Client, site: Site, server: CountingServer
) -> None:
    service, key = server.service("parking"), str(uuid4())
    before = service.count
    service.hold()
    transport = PaymasterTransport(BUDGET, client=plain)
    client = openai.AsyncOpenAI(api_key="sk-x", max_retries=0, http_client=httpx2.AsyncClient(transport=transport))

    async def chat() -> None:
        await client.chat.completions.create(**asked("parking"), extra_headers={"Idempotency-Key": key})

    first = asyncio.create_task(chat())
    await until(lambda: service.held == 1, "the call is in flight")
    call = site.client.get_workflow_handle(f"call/{key}")
    await call.cancel()
    service.release()
    for asking in (first, chat()):
        with pytest.raises(openai.APIStatusError, match="call_ended") as failure:
            await asking
        assert failure.value.status_code == 504
    assert service.count - before == 1
    await settled_books(site)


async def test_no_key_of_the_caller_leaves_its_process(plain: Client, site: Site, server: CountingServer) -> None:
    await run(plain, ChatsInActivity, "chat", 0, 1)
    calls = [each async for each in plain.list_workflows("WorkflowType = 'LLMCallWorkflow'")]
    assert calls
    for call in calls:
        history = await plain.get_workflow_handle(call.id, run_id=call.run_id).fetch_history()
        assert KEY not in history.to_json()
    received = [request for name in ("chat", "failing") for request in server.service(name).requests]
    assert not any(KEY in str(value) for request in received for value in request.headers.values())


async def test_an_answer_too_large_for_temporal_is_read_in_pieces(plain: Client, server: CountingServer) -> None:
    text = random.Random(1).randbytes(2_500_000).hex()
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
    answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m-1", "choices": [choice], "usage": usage}
    server.service("large").script.append(Reply(body=json.dumps(answer).encode()))
    assert await run(plain, Digests, "large", False) == sha256(text.encode()).hexdigest()
    assert await pieces_read(plain) > 1


async def test_a_long_stream_is_read_in_tasks_of_their_own(plain: Client, server: CountingServer) -> None:
    """An SDK takes longer for each event than a task of a workflow may last for all of them."""
    reply, body = stream(1_100)
    server.service("large").script.append(reply)
    events = [json.loads(line[6:]) for line in body.decode().split("\n\n") if line.startswith("data: {")]
    text = "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])
    assert await run(plain, Digests, "large", True) == sha256(text.encode()).hexdigest()
    history = await newest_history(plain)
    assert sum(event.HasField("timer_started_event_attributes") for event in history.events) == 3


async def test_without_temporal_it_is_a_connection_error(plain: Client) -> None:
    nowhere = await Client.connect("127.0.0.1:1", lazy=True)
    client = openai.AsyncOpenAI(
        api_key="sk-x",
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=PaymasterTransport(BUDGET, client=nowhere)),
    )
    with pytest.raises(openai.APIConnectionError) as raised:
        await client.chat.completions.create(**asked("chat"))
    assert "Temporal cannot be reached" in str(raised.value.__cause__)
