"""Calls whose answers are given while they come: what a worker hands on, and what is left to say when it ends early."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from hashlib import sha256
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from temporalio.client import Client

import paymaster.client
from paymaster.gateway.answered import header_lines
from paymaster.gateway.once import Call, Once
from paymaster.gateway.reading import while_connected
from paymaster.gateway.streams import Opened, Streams
from paymaster.generations import CallHandle, latest_generation
from paymaster.live.frames import Complete, Failed, Head
from paymaster.messages import LLMResult, Outcome
from paymaster.messages.temporal_names import generation_id
from paymaster.messages.wire import Dialect, Wire
from paymaster.wire.error_events import error_event
from paymaster.wire.refusals import Told
from paymaster.wire_requests import Unended, told_by_client

T = TypeVar("T")
OTHER_ANSWER = "the stream broke, and the answer that the call has in the end does not begin as it did"


async def begun(opened: Opened, call: asyncio.Future[LLMResult]) -> Head | None:
    """How the stream begins. None: the call has ended, and its result has everything."""
    head = asyncio.ensure_future(opened.head())
    try:
        await asyncio.wait({head, call}, return_when=asyncio.FIRST_COMPLETED)
        return head.result() if head.done() else None
    finally:
        head.cancel()


class LiveBody:
    """What a caller gets of a stream that has begun."""

    def __init__(
        self,
        opened: Opened,
        call: asyncio.Task[None],
        dialect: Dialect,
        call_id: str,
        result: Callable[[], Awaitable[LLMResult]],
        read: Callable[[LLMResult], AsyncIterator[bytes]],
        give_up: Callable[[], object],
    ) -> None:
        """`call` lasts as long as the call does. `result` brings its result and `read` the body of its answer, piece by
        piece: a caller who reads slowly may not need them for long, and they are large. `give_up` says that nobody can
        have an answer of the call any more."""
        self._opened = opened
        self._call = call
        self._dialect: Dialect = dialect
        self._call_id = call_id
        self._result = result
        self._read = read
        self._give_up = give_up
        self._given = sha256()
        self._size = 0
        call.add_done_callback(lambda _: opened.call_has_ended())

    async def pieces(self) -> AsyncGenerator[bytes]:
        """To the end of the stream, or an event that says why there is none."""
        async for piece in self._opened.pieces():
            self._given.update(piece)
            self._size += len(piece)
            yield piece
        match self._opened.ended:
            case Complete():
                return
            case Failed(reason=reason, detail=detail):
                yield self._error(reason, detail)
            case None:
                async for piece in self._rest():
                    yield piece

    async def _rest(self) -> AsyncIterator[bytes]:
        """Of a stream that broke: from the call's result, where the answer is the one that had begun.

        Its worker may be lost: what another attempt would answer nobody gets, so that none is made.
        """
        self._give_up()
        another = asyncio.ensure_future(self._opened.another_began.wait())
        try:
            await asyncio.wait({another, self._call}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            another.cancel()
        if not self._call.done():
            yield self._error("worker_lost", "the worker was lost in the middle of the answer")
            return
        try:
            self._call.result()
            result = await self._result()
            if result.outcome is not Outcome.COMPLETED:
                yield error_event(result, self._dialect)
                return
            async for piece in self._behind_what_was_given(result):
                yield piece
        except Unended as error:
            yield self._error(error.reason, error.detail)
        except Exception as error:  # the caller must learn that there is no more
            yield self._error("call_ended", f"the call ended without a result: {type(error).__name__}")

    async def _behind_what_was_given(self, result: LLMResult) -> AsyncIterator[bytes]:
        """No more at once than a piece of it: a caller who does not read must not have it held here."""
        missing, seen = self._size, sha256()
        async for piece in self._read(result):
            again, rest = piece[:missing], piece[missing:]
            missing -= len(again)
            seen.update(again)
            if again and not missing and seen.digest() != self._given.digest():
                yield self._error("other_answer", OTHER_ANSWER)
                return
            if rest:
                yield rest
        if missing:
            yield self._error("other_answer", OTHER_ANSWER)

    def _error(self, reason: str, detail: str) -> bytes:
        result = LLMResult(outcome=Outcome.UNAVAILABLE, call_id=self._call_id, reason=reason, detail=detail)
        return error_event(result, self._dialect)


class LiveResponse(StreamingResponse):
    """A response that has begun, with what must last until it has ended."""

    def __init__(self, head: Head, call_id: str, pieces: AsyncGenerator[bytes], lasting: AsyncExitStack) -> None:
        super().__init__(pieces, head.status)
        self.lasting = lasting
        ours = {"x-paymaster-call-id": call_id, "x-paymaster-service": head.service}
        self.raw_headers.extend(header_lines({**head.headers, **ours, "x-accel-buffering": "no"}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.lasting:
            await super().__call__(scope, receive, send)


class LiveCalls:
    """Answers calls while they are answered."""

    def __init__(self, streams: Streams, temporal: Client, once: Once) -> None:
        self._streams = streams
        self._temporal = temporal
        self._once = once
        self._calls: set[asyncio.Task[object]] = set()
        """That are under way: of a caller who has gone the call goes on."""

    async def answer(self, request: Request, call: Call) -> LiveResponse | Told:
        """The beginning of its stream, or all that there is to say. Raises TemporalUnreachable and CallerGone."""
        call_id = call.request.call_id or ""
        async with AsyncExitStack() as lasting:
            opened = await lasting.enter_async_context(self._streams.opened(call_id, keeps=call.asked.keeps))
            call.request = call.request.model_copy(update={"stream_to": opened.stream_to})
            first = await while_connected(request, self._first(opened, call))
            if isinstance(first, Told):
                return first
            head, ending = first
            body = LiveBody(
                opened,
                self._kept(self._until_it_ends(call, ending)),
                call.asked.dialect,
                call_id,
                lambda: self._result(call_id),
                lambda result: paymaster.client.answer_pieces(self._temporal, result),
                lambda: None if call.asked.keeps else self._kept(call.give_up()),
            )
            return LiveResponse(head, call_id, body.pieces(), lasting.pop_all())

    async def _first(self, opened: Opened, call: Call) -> tuple[Head, asyncio.Task[LLMResult]] | Told:
        """The head of a stream that begins and its call, which goes on; or what the call came to without one."""
        ending = self._kept(call.result())
        try:
            head = await begun(opened, ending)
        except asyncio.CancelledError:
            ending.cancel()
            raise
        if head is not None:
            return head, ending
        return await told_by_client(self._temporal, ending, call.asked.dialect, may_wait_again=True)

    async def _until_it_ends(self, call: Call, ending: asyncio.Task[LLMResult]) -> None:
        """Without holding what it gives."""
        await ending
        self._once.ended(call)

    def _kept(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that goes on whoever forgets it."""
        task = asyncio.create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    async def _result(self, call_id: str) -> LLMResult:
        """Of a call that has ended."""
        generation = await latest_generation(self._temporal, call_id)
        return await CallHandle(self._temporal, generation_id(call_id, generation)).result()


def may_stream(wire: Wire) -> bool:
    """Whether a stream may be asked for. Without reading the body: of a call that does not stream, nothing comes."""
    return wire.dialect != "openai-embeddings" and (b"stream" in wire.body or "stream" in (wire.path or ""))
