"""Answers that are too large for Temporal: stored by the worker, read in pieces, and never paid for in vain."""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import CountingServer
from large_answers import USAGE, stream
from paymaster_process import MODEL, PRICE, Databases, Site, configuration, running_site, settled_books
from sqlalchemy import text
from temporalio import workflow
from temporalio.worker import Worker

import paymaster
from paymaster import AnswerGone, LLMRequest, Outcome
from paymaster.client import read_answer, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import Wire

pytestmark = pytest.mark.timeout(120)
ANSWER_NANOS = USAGE.input_tokens * 1_000 + USAGE.output_tokens * 4_000


def request(route: str, budget: str = "acme/writer", **body: object) -> LLMRequest:
    asked = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}], **body}
    return LLMRequest(route=route, budget=budget, wire=Wire(dialect="openai", body=json.dumps(asked).encode()))


@workflow.defn(sandboxed=False)
class Reads:
    """Asks, and says the outcome, the length and the digest of what came."""

    @workflow.run
    async def run(self, asked: LLMRequest) -> list[str]:
        result = await paymaster.try_generate(asked)
        assert result.wire is not None
        digest, size = hashlib.sha256(), 0
        async for piece in paymaster.answer_pieces(result):
            digest.update(piece)
            size += len(piece)
        again = await paymaster.read_answer(result)
        return [result.outcome, str(len(result.wire.body)), str(size), digest.hexdigest(), str(len(again))]


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration(
        [server.service("long"), server.service("other")],
        budgets={"acme": {"cap_usd": {"total": "10"}}},
        service={"models": {MODEL: {"max_output_tokens": 60_000, "price": PRICE}}},
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


async def stored_rows(site: Site) -> int:
    async with site.engine.connect() as connection:
        return await connection.scalar(text("SELECT count(*) FROM call_bodies")) or 0


async def test_a_long_stream_is_stored_and_read_in_pieces(site: Site, server: CountingServer) -> None:
    """60,000 tokens of 290 bytes each, by an agent and from outside; byte for byte."""
    service = server.service("long")
    reply, body = stream(60_000)
    assert 16e6 < len(body) < 20e6
    service.script.extend([reply, reply])
    service.usage = lambda _: USAGE
    result = await try_generate(site.client, request("long"))
    assert (result.outcome, result.cost_nanos, result.usage.output_tokens) == (
        Outcome.COMPLETED,
        ANSWER_NANOS,
        USAGE.output_tokens,
    )
    assert result.wire is not None
    assert result.wire.stored is not None
    assert (result.wire.body, result.wire.status, result.wire.stored.size) == (b"", 200, len(body))
    assert result.wire.stored.pieces > 1
    assert await read_answer(site.client, result) == body
    async with Worker(site.client, task_queue="agents", workflows=[Reads]):
        found = await site.client.execute_workflow(Reads.run, request("long"), id="reads", task_queue="agents")
    digest = hashlib.sha256(body).hexdigest()
    assert found == [Outcome.COMPLETED, "0", str(len(body)), digest, str(len(body))]
    await settled_books(site, service)


async def test_a_large_answer_to_a_neutral_call_is_stored(site: Site, server: CountingServer) -> None:
    """It cannot be a result; what was paid for can be read all the same."""
    service = server.service("other")
    text_of_answer = "é" * 1_000_000
    service.text = lambda _: text_of_answer
    asked = LLMRequest(route="other", budget="acme/writer", prompt="x")
    result = await try_generate(site.client, asked)
    assert (result.outcome, result.reason, result.text) == (Outcome.UNAVAILABLE, "answer_too_large", "")
    assert result.wire is not None
    answer = json.loads(await read_answer(site.client, result))
    assert answer["choices"][0]["message"]["content"] == text_of_answer
    await settled_books(site, service)


async def test_only_who_has_the_result_gets_the_answer(site: Site, server: CountingServer) -> None:
    service = server.service("long")
    service.script.append(stream(30_000, seed=2)[0])
    result = await try_generate(site.client, request("long"))
    assert result.wire is not None
    assert result.wire.stored is not None
    guessed = result.wire.stored.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(AnswerGone, match="the stored answer is gone"):
        await read_answer(
            site.client, result.model_copy(update={"wire": result.wire.model_copy(update={"stored": guessed})})
        )
    async with site.engine.begin() as connection:
        await connection.execute(text("DELETE FROM call_bodies"))
    with pytest.raises(AnswerGone, match="the stored answer is gone"):
        await read_answer(site.client, result)
