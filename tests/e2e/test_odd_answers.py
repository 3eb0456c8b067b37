"""Answers with status 200 that are not what they should be: they were billed, and nothing in them may hide that."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService, Reply
from paymaster_process import Site, configuration, running_site, settled_books
from stored_rows import entries_of_call

from paymaster import LLMRequest, Outcome
from paymaster.client import try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import Tool
from paymaster.values.limits import NESTING_MAX

pytestmark = pytest.mark.timeout(60)


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


@pytest.fixture
def service(server: CountingServer, request: pytest.FixtureRequest) -> FakeService:
    return server.service(request.node.callspec.id.replace(" ", "-"))


@pytest.fixture
async def site(stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path) -> AsyncIterator[Site]:
    """One for each test: books that disagree would fail every later test."""
    tables = configuration([service], routes={"odd": [service]}, budgets={"acme": {"cap_usd": {"total": "1"}}})
    async with running_site(stack.temporal_address, database_url, tmp_path, tables) as site:
        yield site


def answer(*, content: str = "hello", input_tokens: str = "12") -> bytes:
    """An answer as text, for what `json.dumps` would not write."""
    usage = f'{{"prompt_tokens": {input_tokens}, "completion_tokens": 5}}'
    message = f'{{"role": "assistant", "content": "{content}"}}'
    return f'{{"choices": [{{"message": {message}, "finish_reason": "stop"}}], "usage": {usage}}}'.encode()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            answer(content="half a pair \\ud83d and a zero \\u0000"),
            id="half a surrogate pair",
        ),
        pytest.param(
            b'{"a":' * 100_000,
            id="nested too deeply",
        ),
        pytest.param(
            answer(input_tokens="9" * 40),
            id="senseless usage",
        ),
    ],
)
async def test_an_odd_answer_is_charged_and_sent_once_under_each_hold(
    site: Site, service: FakeService, body: bytes
) -> None:
    """The books agree with each other and cover the bill, whether or not the call could use the answer."""
    service.reply = lambda request: Reply(body=body)
    async with asyncio.timeout(30):
        result = await try_generate(
            site.client, LLMRequest(route="odd", budget="acme/writer", prompt="Say hello", max_output_tokens=50)
        )
    entries = await entries_of_call(site.engine, result.call_id)
    assert service.count == len(entries) == len({entry.hold_id for entry in entries})
    await settled_books(site, service)


@pytest.mark.parametrize("levels", [100, 101, 150, 220, 254, 900], ids=lambda levels: f"an answer {levels} deep")
async def test_a_deep_answer_is_paid_once_and_kept_as_text(site: Site, service: FakeService, levels: int) -> None:
    """What is written, 254 levels, and what is read, 200, differed: calls waited for ever, or were paid twice."""
    message = {
        "role": "assistant",
        "content": nested(levels),
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": nested(levels)}}],
    }
    usage = {"prompt_tokens": 12, "completion_tokens": 5}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}).encode()
    service.reply = lambda request: Reply(body=body)
    request = LLMRequest(
        route="odd",
        budget="acme/writer",
        prompt="Say hello",
        json_schema={"type": "object"},
        tools=(Tool(name="look"),),
    )
    async with asyncio.timeout(30):
        result = await try_generate(site.client, request)
    assert (result.outcome, result.attempts, service.count) == (Outcome.COMPLETED, 1, 1)
    assert result.text == nested(levels)
    (call,) = result.tool_calls
    if levels <= NESTING_MAX:
        assert result.parsed == call.arguments == json.loads(nested(levels))
    else:
        assert (result.parsed, call.arguments, call.invalid_arguments) == (None, {}, nested(levels))
    await settled_books(site, service)
