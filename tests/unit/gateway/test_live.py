"""What a caller gets of a stream that has begun, however it ends."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from paymaster.gateway.live import LiveBody, begun
from paymaster.gateway.streams import Opened
from paymaster.live.frames import Complete, Failed, Frame, Head, Piece
from paymaster.messages import LLMResult, Outcome
from paymaster.messages.wire import Dialect, WireAnswer

WHOLE = b"data: One\n\ndata: two\n\n"
FIRST = WHOLE[:11]
COMPLETED = LLMResult(outcome=Outcome.COMPLETED, call_id="c-1", wire=WireAnswer(status=200, body=WHOLE))
LOST = LLMResult(outcome=Outcome.UNAVAILABLE, call_id="c-1", reason="worker_lost", detail="it was lost", cost_nanos=7)


async def in_threes(result: LLMResult) -> AsyncIterator[bytes]:
    """The body of its answer as it is read."""
    assert result.wire is not None
    for start in range(0, len(result.wire.body), 3):
        yield result.wire.body[start : start + 3]


class Caller:
    """A call, and whoever reads its answer along."""

    def __init__(self, dialect: Dialect = "openai") -> None:
        self.opened = Opened(None)
        self.result = asyncio.get_running_loop().create_future()
        self.given_up = asyncio.Event()
        self.call = asyncio.create_task(self._call())
        self.body = LiveBody(self.opened, self.call, dialect, "c-1", self._result, in_threes, self.given_up.set)

    async def _call(self) -> None:
        await self.result

    async def _result(self) -> LLMResult:
        return self.result.result()

    async def gets(self, *frames: Frame) -> bytes:
        """What he has, when the stream has these frames and no more."""
        for frame in frames:
            await self.opened.take(frame)
        self.opened.close()
        async with asyncio.timeout(10):
            return b"".join([piece async for piece in self.body.pieces()])


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    caller = Caller()
    yield caller
    caller.call.cancel()


async def test_a_whole_stream_is_given_without_waiting_for_the_result(caller: Caller) -> None:
    assert await caller.gets(Piece(FIRST), Piece(WHOLE[11:]), Complete()) == WHOLE
    assert not caller.call.done()


async def test_a_failure_is_told(caller: Caller) -> None:
    given = await caller.gets(Piece(FIRST), Failed(reason="timeout", detail="silent"))
    assert given.startswith(FIRST + b"data: ")
    error = json.loads(given.removeprefix(FIRST + b"data: "))["error"]
    assert error["message"] == "timeout: silent"
    assert error["paymaster"]["call_id"] == "c-1"


async def test_the_rest_of_a_broken_stream_is_given_from_the_result(caller: Caller) -> None:
    caller.result.set_result(COMPLETED)
    assert await caller.gets(Piece(FIRST)) == WHOLE


@pytest.mark.parametrize("size", range(len(WHOLE) + 1))
async def test_wherever_it_broke_the_rest_begins_there(caller: Caller, size: int) -> None:
    """It is given as it is read, so that a caller who does not read has no more than a piece of it held."""
    caller.result.set_result(COMPLETED)
    await caller.opened.take(Piece(WHOLE[:size]))
    caller.opened.close()
    pieces = [piece async for piece in caller.body.pieces()]
    assert b"".join(pieces) == WHOLE
    assert all(len(piece) <= 3 for piece in pieces[1:])


async def test_an_answer_that_ends_sooner_is_another_one(caller: Caller) -> None:
    caller.result.set_result(COMPLETED.model_copy(update={"wire": WireAnswer(status=200, body=FIRST)}))
    given = await caller.gets(Piece(WHOLE))
    assert given.startswith(WHOLE)
    assert b"other_answer" in given


async def test_another_answer_is_not_given_behind_the_beginning_of_one(caller: Caller) -> None:
    other = COMPLETED.model_copy(update={"wire": WireAnswer(status=200, body=b"data: Another\n\n")})
    caller.result.set_result(other)
    given = await caller.gets(Piece(FIRST))
    assert b"Another" not in given
    assert b"other_answer" in given


async def test_a_broken_stream_without_a_result_ends_with_its_reason(caller: Caller) -> None:
    caller.result.set_result(LOST)
    assert b"worker_lost: it was lost" in await caller.gets(Piece(FIRST))


async def test_what_raises_is_told_too(caller: Caller) -> None:
    caller.result.set_exception(RuntimeError("no Temporal"))
    assert b"call_ended" in await caller.gets(Piece(FIRST))


async def test_a_broken_stream_is_left_when_another_attempt_answers(caller: Caller) -> None:
    caller.opened.another_began.set()
    assert b"worker_lost" in await caller.gets(Piece(FIRST))
    assert caller.given_up.is_set()


@pytest.mark.parametrize(
    ("dialect", "begins"),
    [
        ("openai", b'data: {"error": {'),
        ("openai-responses", b'event: error\ndata: {"type": "error", '),
        ("anthropic", b'event: error\ndata: {"type": "error", "error": {'),
        ("gemini", b'data: {"error": {'),
    ],
)
async def test_each_dialect_has_an_error_event_of_its_own(dialect: Dialect, begins: bytes) -> None:
    caller = Caller(dialect)
    caller.result.set_result(LOST)
    event = (await caller.gets(Piece(FIRST))).removeprefix(FIRST)
    assert event.startswith(begins)
    assert event.endswith(b"}\n\n")


async def test_it_begins_with_the_stream_or_the_result(caller: Caller) -> None:
    beginning = asyncio.create_task(begun(caller.opened, caller.result))
    head = Head(status=200, service="one")
    await caller.opened.take(head)
    assert await beginning == head
    ended = asyncio.get_running_loop().create_future()
    ended.set_result(LOST)
    assert await begun(Caller().opened, ended) is None
