"""The gateway before real SDKs: a process of `paymaster serve`, real sockets, Temporal, a worker and a provider."""

import asyncio
import signal
from collections.abc import AsyncIterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import anthropic
import google.genai
import google.genai.client
import httpx2
import openai
import pytest
from counting_server import CountingServer, Reply
from gateway_process import KEY, GatewayProcess, client_table, running_gateway
from google.genai.types import HttpOptions
from paymaster_process import Databases, Site, configuration, running_site, settled_books, until
from sdk_agents import asked
from sdk_answers import (
    CHAT_CHUNKS,
    GENERATED,
    GENERATED_EVENTS,
    MESSAGE,
    MESSAGE_EVENTS,
    RESPONSE,
    RESPONSE_EVENTS,
    VECTORS,
)
from sqlalchemy import text

from paymaster.devstack import EmbeddedStack
from paymaster.values.money import TokenUsage

pytestmark = pytest.mark.timeout(60)
POOR, SPENT, WAITING, LIMITED = "gw-of-the-poor", "gw-of-the-spent", "gw-of-the-waiting", "gw-of-the-limited"


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    names = ("chat", "responses", "claude", "flash", "failing", "parking")
    names = (*names, "claude-counts", "flash-counts", "responses-count")
    tables = configuration(
        [server.service(name) for name in names],
        budgets={
            "acme": {"cap_usd": {"total": "1"}},
            "poor": {"cap_usd": {"total": "0.000001"}},
            "spent": {"cap_usd": {"day": "0.0026"}},
            "waiting": {"cap_usd": {"day": "0.0026"}},
        },
        only={
            "responses": {"api": "openai-responses"},
            "claude": {"api": "anthropic"},
            "flash": {"api": "gemini"},
            "claude-counts": {"api": "anthropic"},
            "flash-counts": {"api": "gemini"},
            "responses-count": {"api": "openai-responses"},
        },
    )
    tables["gateway"] = {
        "wait_at_most": "2s",
        "clients": {
            "tester": client_table(KEY, "acme"),
            "poor": client_table(POOR, "poor"),
            "spent": client_table(SPENT, "spent"),
            "waiting": client_table(WAITING, "waiting"),
            "limited": client_table(LIMITED, "acme/limited", routes=["chat"], requests_at_once=1),
        },
    }
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


@pytest.fixture(scope="module")
async def gateway(site: Site) -> AsyncIterator[GatewayProcess]:
    async with running_gateway(site) as gateway:
        yield gateway


class Callers:
    """The SDKs before one gateway, whose connections they share."""

    def __init__(self, gateway: GatewayProcess, http: httpx2.AsyncClient) -> None:
        self._url, self._http = gateway.url, http

    def openai(self, key: str = KEY, **options: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self._url}/v1", api_key=key, http_client=self._http, **options)

    def claude(self, key: str = KEY, **options: Any) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(base_url=self._url, api_key=key, http_client=self._http, **options)

    def google(self, key: str = KEY) -> google.genai.client.AsyncClient:
        options = HttpOptions(base_url=self._url, httpx_async_client=self._http)
        return google.genai.Client(vertexai=False, api_key=key, http_options=options).aio


@pytest.fixture(scope="module")
async def callers(gateway: GatewayProcess) -> AsyncIterator[Callers]:
    async with httpx2.AsyncClient(timeout=30) as http:
        yield Callers(gateway, http)


async def test_openais_sdk(callers: Callers, site: Site, server: CountingServer) -> None:
    chat, responses = server.service("chat"), server.service("responses")
    chat.script.extend([Reply(), Reply(stream=CHAT_CHUNKS), Reply(body=VECTORS)])
    responses.script.extend([Reply(body=RESPONSE), Reply(stream=RESPONSE_EVENTS)])
    client = callers.openai()
    whole = await client.chat.completions.create(**asked("chat"))
    assert whole.choices[0].message.content == "answer to Hello"
    chunks = [chunk async for chunk in await client.chat.completions.create(**asked("chat", stream=True))]
    assert [choice.delta.content for chunk in chunks for choice in chunk.choices] == ["aé", None]
    vectors = await client.embeddings.create(model="chat", input=["a", "b"], encoding_format="float")
    assert [each.embedding for each in vectors.data] == [[0.5], [-0.5]]
    response = await client.responses.create(model="responses", input="Hello")
    assert response.output_text == "é"
    events = [event.type async for event in await client.responses.create(model="responses", input="x", stream=True)]
    assert events == ["response.created", "response.completed"]
    await settled_books(site)


async def test_claudes_sdk(callers: Callers, site: Site, server: CountingServer) -> None:
    server.service("claude").script.extend([Reply(body=MESSAGE), Reply(body=MESSAGE), Reply(stream=MESSAGE_EVENTS)])
    client = callers.claude()
    whole = await client.messages.create(**asked("claude", max_tokens=50))
    beta = await client.beta.messages.create(**asked("claude", max_tokens=50))
    assert [message.content[0].model_dump()["text"] for message in (whole, beta)] == ["é", "é"]
    async with client.messages.stream(**asked("claude", max_tokens=50)) as stream:
        assert [text async for text in stream.text_stream] == ["é"]
    await settled_books(site)


async def test_googles_sdk(callers: Callers, site: Site, server: CountingServer) -> None:
    server.service("flash").script.extend([Reply(body=GENERATED), Reply(stream=GENERATED_EVENTS)])
    models = callers.google().models
    assert (await models.generate_content(model="flash", contents="Hello")).text == "é"
    pieces = [piece.text async for piece in await models.generate_content_stream(model="flash/model-1", contents="x")]
    assert pieces == ["a", "é"]
    await settled_books(site)


async def test_tokens_are_counted(callers: Callers, server: CountingServer) -> None:
    """By the provider's free counter, whatever the configuration says of bounds; where there is none, in words."""
    server.service("claude-counts").script.append(Reply(body=b'{"input_tokens": 12}'))
    server.service("flash-counts").script.append(Reply(body=b'{"totalTokens": 13}'))
    server.service("responses-count").script.append(Reply(body=b'{"input_tokens": 14}'))
    claudes = await callers.claude().messages.count_tokens(**asked("claude-counts"))
    googles = await callers.google().models.count_tokens(model="flash-counts", contents="Hello")
    openais = await callers.openai().responses.input_tokens.count(model="responses-count", input="Hello")
    assert (claudes.input_tokens, googles.total_tokens, openais.input_tokens) == (12, 13, 14)
    with pytest.raises(anthropic.NotFoundError, match="not_counted: chat/model-1: nobody counts for this service"):
        await callers.claude().messages.count_tokens(**asked("chat"))


# ------------------------------------------------------------ errors


async def raised(client: openai.AsyncOpenAI, model: str = "chat", **options: Any) -> openai.APIStatusError:
    """What its SDK makes of a refusal."""
    with pytest.raises(openai.APIStatusError) as failure:
        await client.chat.completions.create(**asked(model, **options))
    return failure.value


@pytest.mark.parametrize(
    ("key", "model", "headers", "error", "reason"),
    [
        ("gw-nobody", "chat", {}, openai.AuthenticationError, "unknown_key"),
        (POOR, "chat", {}, openai.BadRequestError, "bound_above_cap"),
        (KEY, "nowhere", {}, openai.NotFoundError, "unknown_route"),
        (LIMITED, "failing", {}, openai.PermissionDeniedError, "not_allowed"),
        (LIMITED, "chat", {"x-paymaster-budget": "acme"}, openai.PermissionDeniedError, "not_allowed"),
    ],
)
async def test_what_is_refused_for_good(
    callers: Callers,
    gateway: GatewayProcess,
    server: CountingServer,
    key: str,
    model: str,
    headers: dict[str, str],
    error: type[openai.APIStatusError],
    reason: str,
) -> None:
    before = len(gateway.log().splitlines())
    found = await raised(callers.openai(key), model, extra_headers=headers)
    assert isinstance(found, error)
    assert found.response.json()["error"]["paymaster"]["reason"] == reason
    await until(lambda: len(gateway.log().splitlines()) > before, "it is logged")
    assert len(gateway.log().splitlines()) == before + 1, "no SDK sends it again"
    assert key not in gateway.log()


async def test_failures_of_providers(callers: Callers, site: Site, server: CountingServer) -> None:
    """Their refusals as they were; what may be billed is not sent again."""
    service = server.service("failing")
    refusal = b'{"error":{"message":"no such voice","type":"invalid_request_error","code":"voice","param":"voice"}}'
    service.script.append(Reply(400, body=refusal))
    found = await raised(callers.openai(), "failing")
    assert (type(found), found.response.content) == (openai.BadRequestError, refusal)
    service.script.extend([Reply(500)] * 3)
    found = await raised(callers.openai(max_retries=0), "failing")
    assert (type(found), found.body) == (
        openai.InternalServerError,
        {"message": "scripted", "type": "scripted", "code": None},
    )
    before = service.count
    service.script.extend([Reply(cut=True)] * 9)
    found = await raised(callers.openai(max_retries=2), "failing")
    service.script.clear()
    assert found.status_code == 504
    assert service.count - before == int(found.response.headers["x-paymaster-attempts"]), "it is one call"
    assert found.response.json()["error"]["paymaster"]["call_id"] == found.request_id
    await settled_books(site)


async def test_money_that_is_held_and_money_that_is_gone(callers: Callers, site: Site, server: CountingServer) -> None:
    """On hold it is waited for, and the call withdrawn; gone it is 402 at once, until the window ends."""
    service, client = server.service("parking"), callers.openai(SPENT, max_retries=0)
    service.usage = lambda request: TokenUsage(input_tokens=1_000, output_tokens=400)
    service.hold()
    first = asyncio.create_task(client.chat.completions.create(**asked("parking")))
    await until(lambda: service.held == 1, "the first is in flight, and its hold takes what the cap leaves")
    found = await raised(client, "parking")
    assert (type(found), found.response.headers["retry-after"]) == (openai.RateLimitError, "2")
    assert (await site.ledger.status()).parked == 0
    service.release()
    answer = await first
    assert answer.choices[0].message.content == "answer to Hello"
    found = await raised(callers.openai(SPENT, max_retries=2), "parking")
    assert found.status_code == 402
    said = found.response.json()["error"]["paymaster"]
    assert parsedate_to_datetime(found.response.headers["retry-after"]) == datetime.fromisoformat(said["resets_at"])
    await settled_books(site)


async def test_a_caller_that_goes_withdraws_its_call(callers: Callers, site: Site, server: CountingServer) -> None:
    service, client = server.service("parking"), callers.openai(WAITING, max_retries=0)
    before = service.count
    service.hold()
    first = asyncio.create_task(client.chat.completions.create(**asked("parking")))
    await until(lambda: service.held == 1, "the first is in flight")

    async def parked() -> int:
        return (await site.ledger.status()).parked

    second = asyncio.create_task(client.chat.completions.create(**asked("parking")))
    await until(parked, "the second is parked")
    second.cancel()

    async def nothing_parked() -> bool:
        return await parked() == 0

    await until(nothing_parked, "nothing is parked behind its back")
    service.release()
    await first
    assert service.count - before == 1
    await settled_books(site)


async def test_no_more_at_once_than_a_client_may(callers: Callers, site: Site, server: CountingServer) -> None:
    service, client = server.service("chat"), callers.openai(LIMITED, max_retries=0)
    service.hold()
    first = asyncio.create_task(client.chat.completions.create(**asked("chat")))
    await until(lambda: service.held == 1, "the first is in flight")
    found = await raised(client)
    assert isinstance(found, openai.RateLimitError)
    assert found.response.json()["error"]["paymaster"]["reason"] == "too_many_at_once"
    service.release()
    await first
    await settled_books(site)


async def test_a_key_of_the_caller_pays_once(callers: Callers, server: CountingServer) -> None:
    """And is another call for each client."""
    service, before = server.service("chat"), server.service("chat").count
    for key in (KEY, KEY, LIMITED):
        await callers.openai(key).chat.completions.create(**asked("chat"), extra_headers={"Idempotency-Key": "1"})
    assert service.count - before == 2
    found = await raised(callers.openai(), seed=1, extra_headers={"Idempotency-Key": "1"})
    assert isinstance(found, openai.ConflictError)


async def test_what_became_of_a_call_is_in_the_headers(callers: Callers, site: Site) -> None:
    answer = await callers.openai().chat.completions.with_raw_response.create(
        **asked("chat"), extra_headers={"x-paymaster-budget": "acme/alice", "x-paymaster-run": "pr-17"}
    )
    said = {name: answer.headers[f"x-paymaster-{name}"] for name in ("call-id", "service", "attempts", "cost-usd")}
    assert (said["service"], said["attempts"], said["cost-usd"]) == ("chat", "1", "0.000032000")
    assert 0 < float(answer.headers["x-paymaster-budget-left-usd"]) < 1
    async with site.engine.connect() as connection:
        rows = await connection.execute(
            text("SELECT budget, run, metadata FROM usage_entries WHERE call_id = :id"), {"id": said["call-id"]}
        )
        row = rows.mappings().one()
    assert (row["budget"], row["run"], row["metadata"]["client"]) == ("acme/alice", "tester:pr-17", "tester")


async def test_lists_of_models(callers: Callers) -> None:
    assert "chat/model-1" in [model.id async for model in callers.openai().models.list()]
    assert [model.id async for model in callers.openai(LIMITED).models.list()] == ["chat"]
    assert (await callers.openai().models.retrieve("chat/model-1")).id == "chat/model-1"
    assert "claude" in [model.id async for model in callers.claude().models.list()]
    assert "models/flash" in [model.name async for model in await callers.google().models.list()]


async def test_it_stops_when_it_is_told_to(site: Site, server: CountingServer) -> None:
    """Requests in flight get their answers. A SIGHUP is no word to stop."""
    service = server.service("chat")
    async with running_gateway(site, name="stopped") as gateway, httpx2.AsyncClient(timeout=30) as http:
        service.hold()
        asking = asyncio.create_task(Callers(gateway, http).openai().chat.completions.create(**asked("chat")))
        await until(lambda: service.held == 1, "it is in flight")
        gateway.process.send_signal(signal.SIGHUP)
        await until(lambda: "SIGHUP: it goes on" in gateway.log(), "it says what is read again")
        assert await Callers(gateway, http).openai().models.retrieve("chat/model-1")
        gateway.process.send_signal(signal.SIGTERM)
        await until(lambda: "stopping" in gateway.log(), "it stops")
        service.release()
        assert (await asking).choices[0].message.content == "answer to Hello"
        assert await gateway.process.wait(10) == 0
