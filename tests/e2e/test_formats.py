"""Streams, other wire formats, tools and refusals, over real sockets through real workflows."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aws_frames import exception, frames
from aws_signatures import is_signed
from counting_server import CountingServer, Reply
from google_token_server import GoogleTokenServer
from paymaster_process import MODEL, PRICE, Databases, Site, configuration, running_site, settled_books, until
from pydantic import BaseModel
from sqlalchemy import text
from stored_rows import entries_of_call

from paymaster import LLMRequest, LLMResult, Outcome, OutputInvalid
from paymaster.client import generate, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import ChatMessage, Document, Image, Tool, ToolCall
from paymaster.values.money import TokenUsage

pytestmark = pytest.mark.timeout(60)
ROUTES = (
    "streamed",
    "stalled",
    "dripping",
    "early",
    "torn",
    "claude",
    "converse",
    "vertex-claude",
    "vertex-gemini",
    "busy",
    "tools",
    "filter",
    "strict",
    "picture",
    "reads",
    "broke",
    "typed",
    "thinks",
)
STREAMED = {"stream": True, "idle_timeout": "500ms", "timeout": "2s", "max_unconfirmed": 0}
DOCUMENT_TOKENS = 9_000
ANSWER_NANOS = 12 * 1_000 + 5 * 4_000  # the usage below at the usual price

Row = tuple[str, str, str | None, int | None, int]


def data(*events: Any) -> list[str]:
    return [f"data: {json.dumps(event)}\n\n" for event in events]


DONE = "data: [DONE]\n\n"
WORDS = data(
    {"model": "m", "choices": [{"index": 0, "delta": {"content": "answer "}}]},
    {"choices": [{"index": 0, "delta": {"content": "in pieces"}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 5}},
)
START = data({"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 12, "output_tokens": 1}}})
CLAUDE_SAYS = [
    *START,
    *data(
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "answer "}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "in pieces"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ),
]

AWS = {"key_id": "AKIAEXAMPLE0KEY0ID00", "secret": "wJalrXUtnFEMI/K7MDENG+bPxRfiCY0EXAMPLE0K", "region": "us-east-1"}
CONVERSE_USAGE = {"usage": {"inputTokens": 12, "outputTokens": 5, "totalTokens": 17}}
CONVERSE_SAYS = frames(
    [
        ("messageStart", {"role": "assistant"}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "answer "}}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "in pieces"}}),
        ("messageStop", {"stopReason": "end_turn"}),
        ("metadata", CONVERSE_USAGE),
    ]
)


def converse(stream: list[bytes]) -> Reply:
    return Reply(stream=list[str | bytes | float](stream), stream_type="application/vnd.amazon.eventstream")


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    """Each test has a route of its own, with a first and a second service."""
    routes = {name: [server.service(f"{name}-1"), server.service(f"{name}-2")] for name in ROUTES}
    services = [service for pair in routes.values() for service in pair]
    only: dict[str, dict[str, object]] = {
        f"{name}-1": dict(STREAMED) for name in ("streamed", "stalled", "dripping", "early", "torn", "claude", "busy")
    }
    only["claude-1"]["api"] = only["busy-1"]["api"] = "anthropic"
    signed: dict[str, object] = {"api": "bedrock", "auth": "aws", "region": "us-east-1", "key": "aws-key"}
    only["converse-1"], only["converse-2"] = signed | {"max_unconfirmed": 0}, signed | {"stream": False}
    google: dict[str, object] = {"auth": "google", "key": "google-key"}
    only["vertex-claude-1"] = google | {"api": "vertex-claude"}
    only["vertex-gemini-1"] = google | {"api": "vertex-gemini"}
    only["strict-1"] = {"api": "anthropic"}
    reads = {"max_output_tokens": 100, "price": PRICE, "document_tokens_max": DOCUMENT_TOKENS}
    only["reads-1"] = {"api": "anthropic", "models": {MODEL: reads}}
    only["filter-1"] = {"fall_back_when_filtered": True}
    tables = configuration(services, routes=routes, budgets={"acme": {"cap_usd": {"total": "1"}}}, only=only)
    url = await databases.create()
    async with GoogleTokenServer() as token_server:
        keys = {"AWS_KEY": f"{AWS['key_id']}:{AWS['secret']}", "GOOGLE_KEY": token_server.file}
        environment = {f"PAYMASTER_KEY_{name}": value for name, value in keys.items()}
        async with running_site(stack.temporal_address, url, module_folder, tables, environment=environment) as site:
            yield site


async def run(
    site: Site, server: CountingServer, route: str, replies: Sequence[Reply], **fields: Any
) -> tuple[LLMResult, list[Row]]:
    """The result, and what is stored: service, state, error class, status and cost of each attempt."""
    first, second = server.service(f"{route}-1"), server.service(f"{route}-2")
    first.script.extend(replies)
    asked = {"route": route, "budget": "acme/writer", "prompt": "Hello", "max_output_tokens": 50} | fields
    result = await try_generate(site.client, LLMRequest.model_validate(asked))
    entries = await entries_of_call(site.engine, result.call_id)
    await settled_books(site, first, second)
    assert sum(entry.cost_nanos for entry in entries) == result.cost_nanos
    for entry in entries:
        assert entry.paid_for is not None
        assert sum(line.cost_nanos for line in entry.paid_for) == entry.cost_nanos
    rows = [
        (entry.service.rpartition("-")[2], entry.state, entry.error_class, entry.http_status, entry.cost_nanos)
        for entry in entries
    ]
    return result, rows


async def test_what_a_model_thought_goes_back_with_its_message(site: Site, server: CountingServer) -> None:
    """And is nowhere but in the messages: not in rows, not in logs."""
    thought = "a thought of its own"
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    answer = {
        "choices": [{"message": {"content": None, "reasoning_content": thought, "tool_calls": [call]}}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 5},
    }
    tools = (Tool(name="weather"),)
    asked = (ChatMessage(role="user", content="What is the weather?"),)
    first, _ = await run(
        site, server, "thinks", [Reply(body=json.dumps(answer).encode())], prompt=None, messages=asked, tools=tools
    )
    told = (*asked, first.message(), ChatMessage(role="tool", content="sunny", tool_call_id="c1"))
    second, _ = await run(site, server, "thinks", [], prompt=None, messages=told, tools=tools)
    assert second.outcome is Outcome.COMPLETED
    said = server.service("thinks-1").requests[-1].body["messages"][1]
    assert said == {"role": "assistant", "content": None, "reasoning_content": thought, "tool_calls": [call]}
    assert thought not in site.logs()
    async with site.engine.connect() as connection:
        rows = await connection.scalars(text("SELECT to_jsonb(t)::text FROM usage_entries AS t"))
        assert thought not in "".join(rows.all())


SECOND: Row = ("2", "final", None, 200, ANSWER_NANOS)


@pytest.mark.parametrize("last", [[WORDS[2], DONE], [WORDS[2].rstrip()]], ids=["with its last event", "without"])
async def test_a_streamed_answer_is_the_answer(site: Site, server: CountingServer, last: list[str]) -> None:
    """It may take longer than the idle timeout, as long as no silence does; what is billed is in its last event."""
    pieces: list[str | float] = [WORDS[0], 0.3, WORDS[1], 0.3, *last]
    result, rows = await run(site, server, "streamed", [Reply(stream=pieces)])
    assert (result.outcome, result.text, result.finish_reason) == (Outcome.COMPLETED, "answer in pieces", "stop")
    assert rows == [("1", "final", None, 200, ANSWER_NANOS)]
    body = server.service("streamed-1").requests[-1].body
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})


@pytest.mark.parametrize(
    ("route", "pieces", "cut", "error_class", "status"),
    [
        ("stalled", [WORDS[0], 5.0], True, "timeout", None),
        ("dripping", [piece for _ in range(10) for piece in (": wait\n\n", 0.4)], True, "timeout", None),
        ("early", WORDS[:2], False, "malformed_answer", 200),
        ("torn", WORDS, True, "connection_lost", None),
    ],
)
async def test_a_stream_that_does_not_reach_its_end_is_charged_at_its_bound(
    site: Site,
    server: CountingServer,
    route: str,
    pieces: list[str | float],
    cut: bool,
    error_class: str,
    status: int | None,
) -> None:
    """Silent for longer than the idle timeout, longer than the timeout in all, ended in good order but too early, or
    cut off: nobody knows what it is billed with, whatever it said so far."""
    result, rows = await run(site, server, route, [Reply(stream=pieces, cut=cut)])
    request = LLMRequest(route=route, budget="acme/writer", prompt="Hello", max_output_tokens=50)
    bound = site.bound_nanos(server.service(f"{route}-1"), request)
    assert result.text == "answer to Hello"
    assert rows == [("1", "unconfirmed", error_class, status, bound), SECOND]


async def test_an_anthropic_service_is_called_in_its_own_format(site: Site, server: CountingServer) -> None:
    result, rows = await run(site, server, "claude", [Reply(stream=CLAUDE_SAYS)], system="Be brief")
    assert (result.text, result.finish_reason, result.cost_nanos) == ("answer in pieces", "end_turn", ANSWER_NANOS)
    assert rows == [("1", "final", None, 200, ANSWER_NANOS)]
    body = server.service("claude-1").requests[-1].body
    assert (body["system"], body["max_tokens"]) == ("Be brief", 50)


async def test_what_was_cached_and_thought_is_paid_kind_by_kind(site: Site, server: CountingServer) -> None:
    """From the service's own counts to the report, where all kinds together are what the rows cost."""
    usage = {
        "prompt_tokens": 12,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 7},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    said = {"choices": [{"message": {"content": "answer"}, "finish_reason": "stop"}], "usage": usage}
    result, _ = await run(site, server, "thinks", [Reply(body=json.dumps(said).encode())])
    (entry,) = await entries_of_call(site.engine, result.call_id)
    assert [(line.kind, line.quantity, line.cost_nanos) for line in entry.paid_for or ()] == [
        ("input", 5, 5_000),
        ("cached_input", 7, 7_000),
        ("output", 3, 12_000),
        ("reasoning", 2, 8_000),
    ]
    report = await site.document("usage", "--by", "kind")
    total = await site.document("usage", "--by", "service")
    assert report["total"]["cost_usd"] == total["total"]["cost_usd"]
    assert sum(Decimal(row["cost_usd"]) for row in report["rows"]) == Decimal(report["total"]["cost_usd"])
    assert {"cached_input", "reasoning"} <= {row["kind"] for row in report["rows"]}


async def test_bedrock_answers_in_frames_what_was_signed(site: Site, server: CountingServer) -> None:
    result, rows = await run(site, server, "converse", [converse(CONVERSE_SAYS)], system="Be brief")
    assert (result.text, result.finish_reason, result.cost_nanos) == ("answer in pieces", "end_turn", ANSWER_NANOS)
    assert rows == [("1", "final", None, 200, ANSWER_NANOS)]
    request = server.service("converse-1").requests[-1]
    assert request.path.endswith(f"/model/{MODEL}/converse-stream")
    assert is_signed(request.path, request.headers, request.content, **AWS)
    assert request.body["system"] == [{"text": "Be brief"}]


async def test_bedrocks_error_within_a_stream_and_a_whole_answer(site: Site, server: CountingServer) -> None:
    answer = {"output": {"message": {"content": [{"text": "whole"}]}}, "stopReason": "end_turn", **CONVERSE_USAGE}
    server.service("converse-2").script.append(Reply(body=json.dumps(answer).encode()))
    broken = [*CONVERSE_SAYS[:2], exception("throttlingException", "Too many requests")]
    result, rows = await run(site, server, "converse", [converse(broken)])
    asked = LLMRequest(route="converse", budget="acme/writer", prompt="Hello", max_output_tokens=50)
    bound = site.bound_nanos(server.service("converse-1"), asked)
    assert rows == [("1", "unconfirmed", "rate_limited", 200, bound), SECOND]
    assert result.text == "whole"
    request = server.service("converse-2").requests[-1]
    assert is_signed(request.path, request.headers, request.content, **AWS)
    assert AWS["secret"] not in site.logs()


async def test_claude_on_vertex_gets_a_token_of_google_cloud(site: Site, server: CountingServer) -> None:
    result, rows = await run(site, server, "vertex-claude", [Reply(stream=CLAUDE_SAYS)])
    assert (result.text, result.cost_nanos) == ("answer in pieces", ANSWER_NANOS)
    assert rows == [("1", "final", None, 200, ANSWER_NANOS)]
    request = server.service("vertex-claude-1").requests[-1]
    assert request.path.endswith(f"/publishers/anthropic/models/{MODEL}:streamRawPredict")
    assert request.authorization.startswith("Bearer ya29.token-")
    assert request.body["anthropic_version"] == "vertex-2023-10-16"


async def test_gemini_on_vertex_counts_in_its_last_chunk(site: Site, server: CountingServer) -> None:
    on_demand = {"trafficType": "ON_DEMAND"}
    counts = {"promptTokenCount": 12, "candidatesTokenCount": 5, **on_demand}
    chunks = data(
        {"candidates": [{"content": {"parts": [{"text": "answer "}]}}], "usageMetadata": on_demand},
        {
            "candidates": [{"content": {"parts": [{"text": "in pieces"}]}, "finishReason": "STOP"}],
            "usageMetadata": counts,
        },
    )
    result, rows = await run(site, server, "vertex-gemini", [Reply(stream=chunks)])
    assert (result.text, result.cost_nanos) == ("answer in pieces", ANSWER_NANOS)
    assert rows == [("1", "final", None, 200, ANSWER_NANOS)]
    request = server.service("vertex-gemini-1").requests[-1]
    assert request.path.endswith(f"/publishers/google/models/{MODEL}:streamGenerateContent?alt=sse")
    assert request.authorization.startswith("Bearer ya29.token-")
    assert "ya29.token-" not in site.logs()


async def test_an_error_within_a_stream_may_have_been_billed(site: Site, server: CountingServer) -> None:
    """`overloaded` as a status costs nothing and is repeated; within a 200 work was done."""
    error = data({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    result, rows = await run(site, server, "busy", [Reply(stream=[*START, *error])])
    request = LLMRequest(route="busy", budget="acme/writer", prompt="Hello", max_output_tokens=50)
    bound = site.bound_nanos(server.service("busy-1"), request)
    assert rows == [("1", "unconfirmed", "overloaded", 200, bound), SECOND]
    assert result.fell_back


async def test_the_tools_that_a_model_wants_called_reach_the_agent(site: Site, server: CountingServer) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    body = {
        "model": MODEL,
        "choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 5},
    }
    tools = (Tool(name="weather"),)
    result, rows = await run(site, server, "tools", [Reply(body=json.dumps(body).encode())], tools=tools)
    assert (result.text, result.finish_reason) == ("", "tool_calls")
    assert result.tool_calls == (ToolCall(id="c1", name="weather", arguments={"city": "Bern"}),)
    assert rows == [("1", "final", None, 200, ANSWER_NANOS)]

    told = (
        ChatMessage(role="assistant", content="", tool_calls=result.tool_calls),
        ChatMessage(role="tool", content="sunny", tool_call_id="c1"),
    )
    result, _ = await run(site, server, "tools", [], tools=tools, messages=told)
    assert result.text == "answer to Hello"
    assert [message["role"] for message in server.service("tools-1").requests[-1].body["messages"]] == [
        "assistant",
        "tool",
        "user",
    ]


class Author(BaseModel):
    name: str
    born: int = 0


def say(text: str) -> Reply:
    usage = {"prompt_tokens": 12, "completion_tokens": 5}
    choices = [{"message": {"content": text}, "finish_reason": "stop"}]
    return Reply(body=json.dumps({"choices": choices, "usage": usage}).encode())


async def test_an_answer_as_a_model_is_validated_and_repaired_once(site: Site, server: CountingServer) -> None:
    """The repair is a call of its own under the same budget, which is told what was wrong."""
    service = server.service("typed-1")
    request = LLMRequest(
        route="typed", budget="acme/writer", prompt="Who wrote it?", max_output_tokens=50, call_id="t1"
    )
    service.script.extend([say('{"name": "Frisch", "born": "long ago"}'), say('{"name": "Frisch", "born": 1911}')])
    assert await generate(site.client, request, output=Author) == Author(name="Frisch", born=1911)
    assert service.count == 2
    first, second = service.requests
    schema = first.body["response_format"]["json_schema"]["schema"]
    assert (schema["required"], schema["additionalProperties"]) == (["name", "born"], False)
    assert [message["role"] for message in second.body["messages"]] == ["user", "assistant", "user"]
    assert "born: Input should be a valid integer" in second.prompt
    for call_id in ("t1", "t1-repair"):
        (entry,) = await entries_of_call(site.engine, call_id)
        assert entry.cost_nanos == ANSWER_NANOS

    service.script.extend([say("no"), say("no again")])
    with pytest.raises(OutputInvalid) as invalid:
        await generate(site.client, request.model_copy(update={"call_id": "t2"}), output=Author)
    assert invalid.value.result.text == "no again"
    assert service.count == 4
    await settled_books(site, service)


async def test_a_refusal_is_the_answer_unless_the_service_says_otherwise(site: Site, server: CountingServer) -> None:
    """With `fall_back_when_filtered` the next candidate is asked; the refusal is billed all the same."""
    refusal = {
        "choices": [{"message": {"refusal": "I won't."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 5},
    }
    reply = Reply(body=json.dumps(refusal).encode())
    result, rows = await run(site, server, "tools", [reply])
    assert (result.outcome, result.refused, result.text) == (Outcome.COMPLETED, True, "I won't.")
    assert rows == [("1", "final", None, 200, ANSWER_NANOS)]

    result, rows = await run(site, server, "filter", [reply])
    assert (result.refused, result.text, result.fell_back) == (False, "answer to Hello", True)
    assert rows == [("1", "final", "content_filtered", 200, ANSWER_NANOS), SECOND]


async def test_a_service_that_is_out_of_money_is_not_asked_twice_and_alerts_once(
    site: Site, server: CountingServer
) -> None:
    """A 429 like any other by its status: waiting would not help, so the next candidate answers."""
    error = {"error": {"message": "check your plan and billing", "code": "insufficient_quota"}}
    reply = Reply(429, headers={"retry-after": "1"}, body=json.dumps(error).encode())
    for _ in range(2):
        result, rows = await run(site, server, "broke", [reply])
        assert result.fell_back
        assert rows == [("1", "final", "quota_exhausted", 429, 0), SECOND]
    await until(lambda: site.alerts("service_refuses"), "the alert is stored")
    (alert,) = await site.alerts("service_refuses")
    assert alert["text"] == f"broke-1/{MODEL}: HTTP 429: check your plan and billing"


async def test_a_parameter_that_a_service_does_not_have_sends_the_call_to_the_next_one(
    site: Site, server: CountingServer
) -> None:
    result, rows = await run(site, server, "strict", [], seed=7)
    assert server.service("strict-1").count == 0
    assert rows == [("1", "final", "unsupported_parameter", None, 0), SECOND]
    assert server.service("strict-2").requests[-1].body["seed"] == 7
    assert result.fell_back


async def test_media_are_refused_where_nobody_knows_their_tokens(site: Site, server: CountingServer) -> None:
    """The reason has the line to add."""
    media = {"image": {"images": (Image.of(b"png", "image/png"),)}, "document": {"documents": (Document.of(b"pdf"),)}}
    for thing, fields in media.items():
        message = ChatMessage.model_validate({"role": "user", "content": "What is it?", **fields})
        result, rows = await run(site, server, "picture", [], messages=(message,))
        assert (result.outcome, result.reason, rows) == (Outcome.DENIED, "no_bound", [])
        line = f'{thing}_tokens_max = … (the most of one {thing}) under [services.picture-1.models."{MODEL}"]'
        assert line in str(result.detail)


async def test_a_document_is_sent_and_paid_within_its_bound(site: Site, server: CountingServer) -> None:
    """What it may cost is on hold before it is sent."""
    service = server.service("reads-1")
    service.usage = lambda _: TokenUsage(input_tokens=DOCUMENT_TOKENS, output_tokens=3)
    body = {
        "model": "m",
        "content": [{"type": "text", "text": "12 dollars"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": DOCUMENT_TOKENS, "output_tokens": 3},
    }
    service.hold()
    pdf = Document.of(b"%PDF-1.7 a bill", name="bill.pdf")
    message = ChatMessage(role="user", content="What is to be paid?", documents=(pdf, pdf))
    asked: dict[str, Any] = {"prompt": None, "messages": (message,)}
    call = asyncio.create_task(run(site, server, "reads", [Reply(body=json.dumps(body).encode())], **asked))
    await until(lambda: service.held, "the document has been sent")
    text_alone = LLMRequest(route="reads", budget="acme", messages=(message,), max_output_tokens=50)
    pending = (await site.balance("budget:acme")).pending_nanos
    assert pending == site.bound_nanos(service, text_alone) + 2 * DOCUMENT_TOKENS * 1_000
    service.release()
    result, rows = await call
    assert (result.outcome, result.text) == (Outcome.COMPLETED, "12 dollars")
    assert rows == [("1", "final", None, 200, DOCUMENT_TOKENS * 1_000 + 3 * 4_000)]
    first, second, said = service.requests[-1].body["messages"][0]["content"]
    assert first == second
    assert (first["title"], first["source"]["data"], said["text"]) == ("bill.pdf", pdf.data, message.content)
