"""Calls in a provider's own format, through real workflows and sockets: passed on and given back as they are."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from counting_server import CountingServer, Reply
from paymaster_process import MODEL, PRICE, Databases, Site, configuration, running_site, settled_books

from paymaster import LLMRequest, LLMResult, Outcome
from paymaster.client import try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import Wire

pytestmark = pytest.mark.timeout(60)
BODY = (
    b'{"messages": [ {"content": "\\u00e9t\\u00e9", "role": "user"} ],\n "temperature":1.00,'
    b' "seed": 12345678901234567890, "max_completion_tokens" : 400, "model": "%s"}'
)
ANSWER = (
    b'{"id":"x", "model":"m-1", "choices":[ {"index":0,"message":{"role":"assistant","content":"\\u00e9", "odd":1.10},'
    b'"finish_reason":"stop"} ], "usage":{"prompt_tokens":12,"completion_tokens":5}}'
)
ANSWER_NANOS = 12 * 1_000 + 5 * 4_000
CHUNKS = [
    'data: {"model":"m-1","choices":[{"index":0,"delta":{"content":"a\\u00e9"}}],"usage":null}\n\n',
    ": ping\n\n",
    'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\r\n\r\n',
    'data: {"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":5}}\n\n',
    "data: [DONE]\n\n",
]


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    names = ("plain", "first", "second", "claude", "open")
    services = {name: server.service(name) for name in names}
    tables = configuration(
        list(services.values()),
        routes={
            "plain": [services["plain"]],
            "both": [services["first"], services["second"]],
            "other": [services["claude"], services["second"]],
            "open": [services["open"]],
        },
        budgets={"acme": {"cap_usd": {"total": "1"}}, "poor": {"cap_usd": {"total": "0.003"}}},
        only={
            "claude": {"api": "anthropic"},
            "open": {"allow": ["service_tier"]},
            "plain": {"models": {MODEL: {"max_output_tokens": 100, "price": PRICE}}},
        },
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


async def call(
    site: Site, route: str, body: bytes | dict[str, Any], budget: str = "acme/writer", **headers: str
) -> LLMResult:
    text = body if isinstance(body, bytes) else json.dumps({"messages": [{"role": "user", "content": "x"}]} | body)
    wire = Wire(dialect="openai", body=text if isinstance(text, bytes) else text.encode(), headers=headers)
    return await try_generate(site.client, LLMRequest(route=route, budget=budget, wire=wire))


async def test_all_bytes_but_the_model_and_the_cap_reach_the_provider(site: Site, server: CountingServer) -> None:
    service = server.service("plain")
    service.script.append(Reply(body=ANSWER, headers={"x-ratelimit-remaining-tokens": "7", "set-cookie": "secret"}))
    result = await call(site, "plain", BODY % b"plain", **{"OpenAI-Beta": "b", "Authorization": "Bearer the caller's"})
    request = service.requests[-1]
    sent = BODY.replace(b" : 400", b" : 100").replace(b"max_completion_tokens", b"max_tokens") % MODEL.encode()
    assert request.content == sent
    assert (request.headers["openai-beta"], request.authorization) == ("b", "")
    assert result.wire is not None
    assert (result.wire.status, result.wire.body) == (200, ANSWER)
    assert result.wire.headers["x-ratelimit-remaining-tokens"] == "7"
    assert "set-cookie" not in result.wire.headers
    assert (result.outcome, result.text, result.cost_nanos) == (Outcome.COMPLETED, "é", ANSWER_NANOS)
    await settled_books(site)


async def test_a_stream_comes_back_as_it_was_asked_for(site: Site, server: CountingServer) -> None:
    service = server.service("plain")
    for options in ({}, {"stream_options": {"include_usage": True}}):
        service.script.append(Reply(stream=CHUNKS))
        result = await call(site, "plain", {"model": "plain", "stream": True} | options)
        assert service.requests[-1].body["stream_options"] == {"include_usage": True}
        chunks = CHUNKS if options else [each for each in CHUNKS if '"prompt_tokens"' not in each]
        assert result.wire is not None
        assert result.wire.body.decode() == "".join(chunks)
        assert result.wire.headers["content-type"] == "text/event-stream"
        assert (result.text, result.cost_nanos) == ("aé", ANSWER_NANOS)


async def test_several_outputs_are_held_and_each_has_the_cap(site: Site, server: CountingServer) -> None:
    result = await call(site, "plain", {"model": "plain", "n": 3, "max_tokens": 90})
    assert result.outcome is Outcome.COMPLETED
    assert server.service("plain").requests[-1].body["max_tokens"] == 90
    assert (await call(site, "plain", {"model": "plain", "n": 1}, budget="poor")).outcome is Outcome.COMPLETED
    result = await call(site, "plain", {"model": "plain", "n": 10}, budget="poor")
    assert (result.outcome, result.reason) == (Outcome.DENIED, "bound_above_cap")


async def test_what_the_last_service_refused_with_comes_back(site: Site, server: CountingServer) -> None:
    refusals = [b'{"error": {"message": "first", "odd": 1.0}}', b'{"error":{"message":"second"}}']
    for name, refusal in zip(("first", "second"), refusals, strict=True):
        server.service(name).script.append(Reply(400, body=refusal))
    result = await call(site, "both", {"model": "both"})
    assert (result.outcome, result.attempts) == (Outcome.UNAVAILABLE, 2)
    assert result.wire is not None
    assert (result.wire.status, result.wire.body) == (400, refusals[1])


async def test_a_refused_call_falls_back(site: Site, server: CountingServer) -> None:
    server.service("first").script.append(Reply(400))
    result = await call(site, "both", {"model": "both"})
    assert (result.outcome, result.service, result.fell_back) == (Outcome.COMPLETED, "second", True)
    result = await call(site, f"second/{MODEL}", {"model": "both"})
    assert (result.outcome, result.service) == (Outcome.COMPLETED, "second")


async def test_what_has_no_bound_is_refused_by_its_name(site: Site, server: CountingServer) -> None:
    asked = {"service_tier": "priority", "model": "open"}
    result = await call(site, "plain", asked)
    assert (result.outcome, result.attempts) == (Outcome.DENIED, 0)
    assert 'add allow = ["service_tier"] under [services.plain]' in str(result.detail)
    assert (await call(site, "open", asked)).outcome is Outcome.COMPLETED


async def test_a_service_of_another_format_is_passed_over(site: Site, server: CountingServer) -> None:
    """With a key that only one format knows."""
    result = await call(site, "other", {"model": "other", "logprobs": True})
    assert (result.outcome, result.service) == (Outcome.COMPLETED, "second")
    assert server.service("claude").count == 0
    result = await call(site, f"claude/{MODEL}", {"model": "other", "logprobs": True})
    assert (result.outcome, result.reason) == (Outcome.DENIED, "no_bound")
    assert 'api = "anthropic" does not speak, and logprobs cannot' in str(result.detail)


async def test_a_body_that_is_none_is_denied_in_words(site: Site) -> None:
    result = await call(site, "plain", b'{"model":"a","model":"b"}')
    assert (result.outcome, result.reason) == (Outcome.DENIED, "bad_body")
    assert "'model' stands there twice" in str(result.detail)
