"""SDKs whose calls are answered by services of other formats: asked in neutral words, told in the SDK's own."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import anthropic
import google.genai
import httpx2
import openai
import pytest
from counting_server import CountingServer, Reply
from google.genai.types import GenerateContentConfig
from paymaster_process import MODEL, PRICE, Databases, Site, configuration, running_site, settled_books
from sqlalchemy import select

from paymaster.devstack import EmbeddedStack
from paymaster.integrations.google_genai import Client as GenaiClient
from paymaster.storage.usage_rows import counted_usage
from paymaster.transport import PaymasterTransport
from paymaster.values.money import usd_to_nanos

pytestmark = pytest.mark.timeout(60)
BUDGET = "acme/sdk"
IN, OUT = (usd_to_nanos(PRICE[name]) // 10**6 for name in ("input", "output"))
TEXT, TOOL, ARGUMENTS = "Let me look. é", "weather", {"city": "Oslo", "days": 2}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
CALL: dict[str, Any] = {"name": TOOL, "arguments": json.dumps(ARGUMENTS)}
ANSWERS: dict[str, dict[str, Any]] = {
    "openai": {
        "model": "m-1",
        "choices": [
            {
                "message": {"content": TEXT, "tool_calls": [{"id": "call_1", "type": "function", "function": CALL}]},
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 5},
    },
    "openai-responses": {
        "id": "r",
        "status": "completed",
        "model": "m-1",
        "output": [
            {"type": "message", "content": [{"type": "output_text", "text": TEXT}]},
            {"type": "function_call", "call_id": "call_1", **CALL},
        ],
        "usage": {"input_tokens": 12, "output_tokens": 5},
    },
    "anthropic": {
        "type": "message",
        "model": "m-1",
        "content": [
            {"type": "text", "text": TEXT},
            {"type": "tool_use", "id": "toolu_1", "name": TOOL, "input": ARGUMENTS},
        ],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 12, "output_tokens": 5},
    },
    "gemini": {
        "candidates": [
            {
                "content": {"parts": [{"text": TEXT}, {"functionCall": {"name": TOOL, "args": ARGUMENTS}}]},
                "finishReason": "STOP",
            }
        ],
        "modelVersion": "m-1",
        "usageMetadata": {"promptTokenCount": 12, "candidatesTokenCount": 5},
    },
}


class Heard(NamedTuple):
    """What an SDK's own objects say."""

    text: str | None
    tool: str
    arguments: object
    tokens: tuple[int, int]


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    services = {api: server.service(f"other-{api}") for api in ANSWERS}
    down = server.service("other-down")
    for api, service in services.items():
        service.reply = lambda request, api=api: Reply(body=json.dumps(ANSWERS[api]).encode())
    down.reply = lambda request: Reply(503)
    tables = configuration(
        [*services.values(), down],
        routes={**{api: [service] for api, service in services.items()}, "reserve": [down, services["anthropic"]]},
        budgets={"acme": {"cap_usd": {"total": "1"}}},
        only={service.name: {"api": api, "stream": False} for api, service in services.items()},
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


def over(site: Site) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=PaymasterTransport(BUDGET, client=site.client))


async def chat(site: Site, model: str, *, stream: bool) -> Heard:
    client = openai.AsyncOpenAI(api_key="sk-x", http_client=over(site), max_retries=0)
    asked: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather?"}],
        "tools": [{"type": "function", "function": {"name": TOOL, "parameters": SCHEMA}}],
    }
    if stream:
        async with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as events:
            answer = await events.get_final_completion()
    else:
        answer = await client.chat.completions.create(**asked)
    [choice] = answer.choices
    assert (choice.finish_reason, choice.message.tool_calls is None, answer.usage is None) == (
        "tool_calls",
        False,
        False,
    )
    [call] = choice.message.tool_calls or []
    assert call.type == "function"
    assert answer.usage is not None
    tokens = (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    return Heard(choice.message.content, call.function.name, json.loads(call.function.arguments), tokens)


async def respond(site: Site, model: str, *, stream: bool) -> Heard:
    client = openai.AsyncOpenAI(api_key="sk-x", http_client=over(site), max_retries=0)
    asked: dict[str, Any] = {
        "model": model,
        "instructions": "Be brief.",
        "input": "Weather?",
        "tools": [{"type": "function", "name": TOOL, "parameters": SCHEMA, "strict": False}],
    }
    if stream:
        async with client.responses.stream(**asked) as events:
            answer = await events.get_final_response()
    else:
        answer = await client.responses.create(**asked)
    assert answer.usage is not None
    [call] = [item for item in answer.output if item.type == "function_call"]
    tokens = (answer.usage.input_tokens, answer.usage.output_tokens)
    return Heard(answer.output_text, call.name, json.loads(call.arguments), tokens)


async def message(site: Site, model: str, *, stream: bool) -> Heard:
    client = anthropic.AsyncAnthropic(api_key="sk-x", http_client=over(site), max_retries=0)
    asked: dict[str, Any] = {
        "model": model,
        "max_tokens": 50,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "Weather?"}],
        "tools": [{"name": TOOL, "input_schema": SCHEMA}],
    }
    if stream:
        async with client.messages.stream(**asked) as events:
            answer = await events.get_final_message()
    else:
        answer = await client.messages.create(**asked)
    assert answer.stop_reason == "tool_use"
    text, call = answer.content
    assert text.type == "text"
    assert call.type == "tool_use"
    return Heard(text.text, call.name, call.input, (answer.usage.input_tokens, answer.usage.output_tokens))


async def generate(site: Site, model: str, *, stream: bool) -> Heard:
    client = GenaiClient(transport=PaymasterTransport(BUDGET, client=site.client))
    config = GenerateContentConfig(
        system_instruction="Be brief.",
        tools=[
            google.genai.types.Tool(
                function_declarations=[{"name": TOOL, "parameters_json_schema": SCHEMA}]  # pyright: ignore[reportArgumentType]
            )
        ],
    )
    if stream:
        chunks = [
            chunk
            async for chunk in await client.aio.models.generate_content_stream(
                model=model, contents="Weather?", config=config
            )
        ]
    else:
        chunks = [await client.aio.models.generate_content(model=model, contents="Weather?", config=config)]
    [call] = [call for chunk in chunks for call in chunk.function_calls or []]
    used = chunks[-1].usage_metadata
    assert used is not None
    tokens = (used.prompt_token_count or 0, used.candidates_token_count or 0)
    text = "".join(part.text or "" for chunk in chunks for part in chunk.parts or [])
    return Heard(text, call.name or "", call.args, tokens)


SDKS: dict[str, Callable[..., Awaitable[Heard]]] = {
    "openai": chat,
    "openai-responses": respond,
    "anthropic": message,
    "gemini": generate,
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("dialect", "api"), [(one, other) for one in SDKS for other in ANSWERS if one != other])
async def test_each_sdk_hears_each_service(
    site: Site, server: CountingServer, dialect: str, api: str, stream: bool
) -> None:
    service = server.service(f"other-{api}")
    before = service.count
    heard = await SDKS[dialect](site, api, stream=stream)
    assert heard == (TEXT, TOOL, ARGUMENTS, (12, 5))
    assert service.count - before == 1
    assert {"Weather?", "Be brief."} <= set(strings(service.requests[-1].body))
    await settled_books(site)
    async with site.engine.connect() as connection:
        row = (await connection.execute(select(counted_usage).order_by(counted_usage.c.id.desc()).limit(1))).one()
    assert (row.service, row.dialect, row.model) == (service.name, dialect, MODEL)
    assert row.cost_usd * 10**9 == 12 * IN + 5 * OUT


async def test_the_next_service_answers_in_another_format(site: Site, server: CountingServer) -> None:
    down, other = server.service("other-down"), server.service("other-anthropic")
    before = down.count, other.count
    assert (await chat(site, "reserve", stream=True)).text == TEXT
    assert down.count > before[0]
    assert other.count == before[1] + 1


async def test_a_key_that_no_other_format_has_is_named(site: Site, server: CountingServer) -> None:
    """Where nobody else is there, and where the one who speaks the format is down."""
    client = openai.AsyncOpenAI(api_key="sk-x", http_client=over(site), max_retries=0)
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "logprobs": True}
    before = server.service("other-anthropic").count
    with pytest.raises(openai.BadRequestError, match=r'"openai", which .* does not speak, and logprobs cannot be said'):
        await client.chat.completions.create(model="anthropic", **asked)
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model="reserve", **asked)
    assert server.service("other-anthropic").count == before


def strings(value: object) -> list[str]:
    """All texts of a body."""
    if isinstance(value, str):
        return [value]
    within = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in within for text in strings(each)]
