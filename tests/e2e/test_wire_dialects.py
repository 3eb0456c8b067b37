"""Wire calls of every dialect, through real workflows and sockets: whole and streamed, passed on and given back."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from counting_server import CountingServer, Reply
from paymaster_process import MODEL, PRICE, Databases, Site, configuration, running_site, settled_books
from sqlalchemy import select

from paymaster import LLMRequest, LLMResult, Outcome
from paymaster.client import try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import Wire
from paymaster.messages.wire import Dialect
from paymaster.settings import Api
from paymaster.storage.usage_rows import counted_usage
from paymaster.values.money import usd_to_nanos

pytestmark = pytest.mark.timeout(60)
IN, OUT = (usd_to_nanos(PRICE[name]) // 10**6 for name in ("input", "output"))


class Case(NamedTuple):
    """A request and its answer, as they are written by others. M is the model, N the cap of the output."""

    api: Api
    dialect: Dialect
    asked: str
    sent: str
    """What the provider gets of it."""
    answer: str
    chunks: tuple[str, ...] = ()
    path: str | None = None
    sent_path: str = ""
    input_tokens: int = 12
    output_tokens: int = 5
    text: str = "\u00e9"

    @property
    def streams(self) -> bool:
        return bool(self.chunks)

    @property
    def name(self) -> str:
        return f"{self.api}-{'stream' if self.streams else 'whole'}"


LIMITS = {"anthropic-ratelimit-tokens-remaining": "7", "x-gemini-service-tier": "flex", "set-cookie": "secret"}
RESPONSE = (
    '{ "id":"r","status":"completed","odd":1.10,"model":"m-1","output":[{"type":"message","content":[{"type":'
    '"output_text","text":"\\u00e9"}]}],"usage":{"input_tokens":12,"output_tokens":5} }'
)
MESSAGE = (
    '{ "type":"message","id":"x","model":"m-1","content":[{"type":"text","text":"\\u00e9","odd":1.10}],"stop_reason":'
    '"end_turn", "usage":{"input_tokens":12,"output_tokens":5}}'
)
MESSAGE_EVENTS = (
    'event: message_start\ndata: {"type":"message_start","message":{"model":"m-1","content":[],"usage":{"input_tokens":'
    '12,"output_tokens":1}}}\n\n',
    ": comment\n\n",
    'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n',
    "event: content_block_delta\r\n"
    'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\\u00e9"}}\r\n\r\n',
    'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}}\n\n',
    'event: message_stop\ndata: {"type":"message_stop"}\n\n',
)
GENERATED = (
    '{ "candidates":[{"content":{"parts":[{"text":"\\u00e9"}]},"finishReason":"STOP","odd":1.10}],"modelVersion":"m-1",'
    '"usageMetadata":{"promptTokenCount":12,"candidatesTokenCount":5} }'
)
MESSAGES = '"messages":[ {"role":"user", "content":"\\u00e9"} ],\n "temperature":1.00'
CONTENTS = '"contents":[ {"parts": [{"text":"\\u00e9"}]} ]'
CASES = (
    Case(
        "openai-responses",
        "openai-responses",
        '{"input":"\\u00e9", "max_output_tokens" : 400,"model":"R","top_p":1.0}',
        '{"input":"\\u00e9", "max_output_tokens" : 100,"model":"M","top_p":1.0}',
        RESPONSE,
        sent_path="/responses",
    ),
    Case(
        "openai-responses",
        "openai-responses",
        '{"stream":true,"input":"\\u00e9","model":"R"}',
        '{"stream":true,"input":"\\u00e9","model":"M","max_output_tokens":100}',
        "",
        (
            'event: response.created\ndata: {"type":"response.created","response":{"status":"in_progress"}}\n\n',
            f'event: response.completed\ndata: {{"type":"response.completed","response":{RESPONSE}}}\r\n\r\n',
        ),
        sent_path="/responses",
    ),
    Case(
        "openai",
        "openai-embeddings",
        '{"input":["\\u00e9",  "b"],"model" : "R","dimensions":2.0}',
        '{"input":["\\u00e9",  "b"],"model" : "M","dimensions":2.0}',
        '{"data" : [{"embedding":[0.10, -1e-3]}],"model":"m-1","usage":{"prompt_tokens":12,"total_tokens":12}}',
        sent_path="/embeddings",
        output_tokens=0,
        text="",
    ),
    Case(
        "azure-openai",
        "openai-embeddings",
        '{"input":"\\u00e9","model":"R"}',
        '{"input":"\\u00e9","model":"M"}',
        '{"data":[{"embedding":"AAAA"}],"model":"m-1","usage":{"prompt_tokens":12,"total_tokens":12}}',
        sent_path="/embeddings",
        output_tokens=0,
        text="",
    ),
    Case(
        "anthropic",
        "anthropic",
        f'{{ {MESSAGES}, "max_tokens" : 64000,"model":"R", "thinking":{{"type":"adaptive"}} }}',
        f'{{ {MESSAGES}, "max_tokens" : 100,"model":"M", "thinking":{{"type":"adaptive"}} }}',
        MESSAGE,
        sent_path="/messages",
    ),
    Case(
        "anthropic",
        "anthropic",
        f'{{ {MESSAGES}, "max_tokens":50,"model":"R","stream":true }}',
        f'{{ {MESSAGES}, "max_tokens":50,"model":"M","stream":true }}',
        "",
        MESSAGE_EVENTS,
        sent_path="/messages",
    ),
    Case(
        "vertex-claude",
        "anthropic",
        f'{{"model":"R", {MESSAGES}, "max_tokens":50,"stream":true}}',
        f'{{{MESSAGES}, "max_tokens":50,"stream":true,"anthropic_version":"vertex-2023-10-16"}}',
        "",
        MESSAGE_EVENTS,
        sent_path=f"/publishers/anthropic/models/{MODEL}:streamRawPredict",
    ),
    Case(
        "gemini",
        "gemini",
        f'{{ {CONTENTS}, "generationConfig":{{"maxOutputTokens": 400, "topP":1.0}} }}',
        f'{{ {CONTENTS}, "generationConfig":{{"maxOutputTokens": 100, "topP":1.0}} }}',
        GENERATED,
        path="models/R:generateContent",
        sent_path=f"/models/{MODEL}:generateContent",
    ),
    Case(
        "gemini",
        "gemini",
        f"{{ {CONTENTS} }}",
        f'{{ {CONTENTS},"generationConfig":{{"maxOutputTokens":100}} }}',
        "",
        (
            'data: {"candidates":[{"content":{"parts":[{"text":"\\u00e9"}]}}]}\n\n',
            f"data: {GENERATED[:-1]}\r\ndata: }}\r\n\r\n",
        ),
        path="models/R:streamGenerateContent?alt=sse",
        sent_path=f"/models/{MODEL}:streamGenerateContent?alt=sse",
        text="\u00e9\u00e9",
    ),
    Case(
        "vertex-gemini",
        "gemini",
        f"{{ {CONTENTS} }}",
        f'{{ {CONTENTS},"generationConfig":{{"maxOutputTokens":100}} }}',
        f'[{{"candidates":[{{"content":{{"parts":[{{"text":"\\u00e9"}}]}}}}]}}\n, {GENERATED}]',
        path="models/R:streamGenerateContent",
        sent_path=f"/publishers/google/models/{MODEL}:streamGenerateContent",
        text="\u00e9\u00e9",
    ),
    Case(
        "gemini",
        "gemini",
        '{"content":{"parts":[{"text":"\\u00e9"}]},"model":"models/R"}',
        f'{{"content":{{"parts":[{{"text":"\\u00e9"}}]}},"model":"models/{MODEL}"}}',
        '{ "embedding":{"values":[0.10, 1.0e-3]},"usageMetadata":{"promptTokenCount":12} }',
        path="models/R:embedContent",
        sent_path=f"/models/{MODEL}:embedContent",
        output_tokens=0,
        text="",
    ),
)


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    apis = dict.fromkeys(case.api for case in CASES)
    services = [server.service(f"wire-{api}") for api in apis]
    tables = configuration(
        services,
        budgets={"acme": {"cap_usd": {"total": "1"}}},
        only={f"wire-{api}": {"api": api} for api in apis},
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


async def call(site: Site, case: Case, **fields: Any) -> LLMResult:
    route = f"wire-{case.api}"
    wire = Wire(dialect=case.dialect, path=case.path, body=case.asked.replace('"R"', f'"{route}"').encode(), **fields)
    return await try_generate(site.client, LLMRequest(route=route, budget="acme/writer", wire=wire))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.dialect}-{case.name}")
async def test_it_is_passed_on_and_given_back_byte_for_byte(site: Site, server: CountingServer, case: Case) -> None:
    service = server.service(f"wire-{case.api}")
    service.script.append(
        Reply(stream=case.chunks) if case.streams else Reply(body=case.answer.encode(), headers=LIMITS)
    )
    result = await call(site, case, headers={"Authorization": "Bearer the caller's", "x-goog-api-key": "the caller's"})
    request = service.requests[-1]
    assert request.content.decode() == case.sent.replace('"M"', f'"{MODEL}"')
    assert request.path.partition("/v1")[2] == case.sent_path
    assert "the caller's" not in str(request.headers)
    assert result.outcome is Outcome.COMPLETED, result.detail
    assert result.wire is not None
    assert (result.wire.status, result.wire.body.decode()) == (200, "".join(case.chunks) or case.answer)
    assert case.streams or {name: result.wire.headers.get(name) for name in LIMITS} == {**LIMITS, "set-cookie": None}
    assert (result.text, result.cost_nanos) == (case.text, case.input_tokens * IN + case.output_tokens * OUT)
    await settled_books(site)


async def test_a_refusal_comes_back_in_each_dialects_own_words(site: Site, server: CountingServer) -> None:
    refusal = b'{"type":"error", "error":{"type":"invalid_request_error","message":"no","odd":1.0}}'
    for case in CASES:
        server.service(f"wire-{case.api}").script.append(Reply(400, body=refusal))
        result = await call(site, case)
        assert result.wire is not None
        assert (result.outcome, result.wire.status, result.wire.body) == (Outcome.UNAVAILABLE, 400, refusal)


async def test_an_error_in_a_stream_comes_back_as_it_was(site: Site, server: CountingServer) -> None:
    events = [*MESSAGE_EVENTS[:3], 'event: error\ndata: {"type":"error","error":{"type":"invalid_request_error"}}\n\n']
    service = server.service("wire-anthropic")
    service.reply = lambda request: Reply(stream=events)  # it is asked again: nobody knows whether it was billed
    result = await call(site, next(case for case in CASES if case.api == "anthropic" and case.streams))
    assert result.wire is not None
    assert (result.outcome, result.wire.body.decode()) == (Outcome.UNAVAILABLE, "".join(events))
    service.reply = lambda request: Reply()


async def test_rows_say_which_dialect_it_was(site: Site, server: CountingServer) -> None:
    case = next(case for case in CASES if case.dialect == "openai-embeddings")
    server.service(f"wire-{case.api}").script.append(Reply(body=case.answer.encode()))
    result = await call(site, case)
    plain = await try_generate(site.client, LLMRequest(route="wire-openai", budget="acme/writer", prompt="x"))
    query = select(counted_usage.c.call_id, counted_usage.c.dialect)
    async with site.engine.connect() as connection:
        found = {row.call_id: row.dialect for row in await connection.execute(query)}
    assert (found[result.call_id], found[plain.call_id]) == ("openai-embeddings", None)


async def test_what_needs_leave_is_refused_by_its_name(site: Site) -> None:
    case = CASES[4]._replace(asked=json.dumps({"model": "R", "messages": [], "mcp_servers": [{}], "speed": "fast"}))
    result = await call(site, case)
    assert (result.outcome, result.attempts) == (Outcome.DENIED, 0)
    assert 'add allow = ["mcp_servers", "speed"] under [services.wire-anthropic]' in str(result.detail)
    odd = {f"odd{number}": 1 for number in range(200)}
    result = await call(site, case._replace(asked=json.dumps({"model": "R", "messages": [], **odd})))
    assert (result.outcome, result.reason) == (Outcome.DENIED, "no_bound")
    assert "and 48 more: whether it changes" in str(result.detail)
