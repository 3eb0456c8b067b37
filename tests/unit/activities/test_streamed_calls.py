"""call_service and a gateway: what the provider sends arrives while it sends, and the call ends as it would without."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from live_streams import all_of, listening, pushing
from raw_server import Caller, RawServer, failure_of
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from wire_answers import sse

from paymaster.gateway.streams import Opened
from paymaster.keys.api_key import ApiKey
from paymaster.live.frames import Complete, Failed
from paymaster.messages import Billing, Completion, LLMRequest
from paymaster.messages.wire import Dialect, Wire

FIRST = sse({"choices": [{"index": 0, "delta": {"content": "One"}}]})
LAST = sse(
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
    last="[DONE]",
)
HEAD = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: req-1\r\n"
BODY = json.dumps({"model": "m", "messages": [], "stream": True, "stream_options": {"include_usage": True}}).encode()
CALL_ID = ActivityEnvironment().info.workflow_id or ""
"""Of the call whose activity the tests run."""


class Provider:
    """Sends an answer piece by piece, as a test says."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self._writer = writer
        self.asked.set()

    async def send(self, text: str, *, ends: bool = False) -> None:
        await self.asked.wait()
        assert self._writer is not None
        self._writer.write(text.encode())
        await self._writer.drain()
        if ends:
            self._writer.close()


@asynccontextmanager
async def streaming(dialect: Dialect = "openai") -> AsyncGenerator[tuple[Provider, Opened, asyncio.Task[object]]]:
    """A provider that is asked by a call whose caller waits."""
    provider = Provider()
    async with (
        await asyncio.start_server(provider.serve, "127.0.0.1", 0) as server,
        listening() as streams,
        pushing(patience_s=0.3) as pushes,
        streams.opened(CALL_ID) as opened,
    ):
        caller = Caller(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", RawServer())
        caller.pushes = pushes
        wire = Wire(dialect=dialect, body=BODY)
        request = LLMRequest(route="r", budget="b", wire=wire, stream_to=opened.stream_to)
        calling_now = asyncio.create_task(caller.call("openai", request=request))
        try:
            yield provider, opened, calling_now
        finally:
            await calling_now
            await caller.connections.close()


async def test_the_first_token_comes_while_the_provider_holds_the_rest() -> None:
    async with streaming() as (provider, opened, calling_now):
        await provider.send(f"{HEAD}\r\n{FIRST}")
        head = await opened.head()
        assert (head.status, head.headers["x-request-id"], head.service) == (200, "req-1", "openai")
        pieces = opened.pieces()
        assert await anext(pieces) == FIRST.encode()
        assert not calling_now.done()
        await provider.send(LAST, ends=True)
        rest = b"".join([piece async for piece in pieces])
        ended = await calling_now
        assert isinstance(ended, Completion)
        assert ended.wire is not None
        assert FIRST.encode() + rest == ended.wire.body
        assert opened.ended == Complete()


async def test_a_stream_that_is_cut_ends_with_the_reason() -> None:
    """It is charged at its bound, as it would be if nobody had read along."""
    async with streaming() as (provider, opened, calling_now):
        await provider.send(f"{HEAD}content-length: 9999\r\n\r\n{FIRST}", ends=True)
        assert await all_of(opened) == FIRST.encode()
        failure = failure_of(await failed(calling_now))
        assert failure.attempts[-1].billing is Billing.UNKNOWN
        assert isinstance(opened.ended, Failed)
        assert opened.ended.reason == failure.reason == "connection_lost"


@pytest.mark.parametrize(
    "answer",
    [
        "HTTP/1.1 500 no\r\ncontent-length: 2\r\n\r\n{}",
        f"{HEAD}\r\n" + sse({"error": {"message": "overloaded", "type": "server_error"}}),
        f"{HEAD}\r\n" + sse({"choices": [{"delta": {"role": "assistant", "content": ""}}]}),
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{}",
    ],
    ids=["refused", "error event", "nothing said", "no stream"],
)
async def test_nothing_is_pushed_of_what_may_be_tried_again(answer: str) -> None:
    async with streaming() as (provider, opened, calling_now):
        await provider.send(answer, ends=True)
        await failed(calling_now)
        assert not opened.has_begun


async def test_the_providers_own_error_event_is_the_end() -> None:
    """None of ours comes after it."""
    error = sse({"error": {"message": "overloaded", "type": "server_error"}})
    async with streaming() as (provider, opened, calling_now):
        await provider.send(f"{HEAD}\r\n{FIRST}{error}", ends=True)
        assert await all_of(opened) == (FIRST + error).encode()
        await failed(calling_now)
        assert opened.ended == Complete()


async def test_an_answer_with_a_key_in_it_is_not_given_to_its_end() -> None:
    key = ApiKey("sk-live-Zq8w3Y7x2Kd9Lm").reveal()
    halves = [sse({"choices": [{"index": 0, "delta": {"content": half}}]}) for half in (key[:15], key[15:])]
    async with streaming() as (provider, opened, calling_now):
        await provider.send(f"{HEAD}\r\n{FIRST}")
        await opened.head()
        await provider.send("".join(halves) + LAST, ends=True)
        given = await all_of(opened)
        assert key[:15].encode() not in given
        ended = await calling_now
        assert isinstance(ended, Completion)
        assert ended.wire is None
        assert opened.ended is None


async def test_a_reader_who_does_not_read_delays_no_call() -> None:
    """Longer than he may: the service is read on, and its answer is whole."""
    long = sse({"choices": [{"index": 0, "delta": {"content": "x" * 100_000}}]})
    async with streaming() as (provider, opened, calling_now):
        await provider.send(f"{HEAD}\r\n{FIRST}")
        await opened.head()
        await provider.send(long * 150 + LAST, ends=True)
        async with asyncio.timeout(30):
            ended = await calling_now
        assert isinstance(ended, Completion)
        assert ended.wire is not None
        given = await all_of(opened)
        assert ended.wire.body.startswith(given)
        assert opened.ended is None


async def failed(calling_now: asyncio.Task[object]) -> ApplicationError:
    error = await calling_now
    assert isinstance(error, ApplicationError)
    return error
