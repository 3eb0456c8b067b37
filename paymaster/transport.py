"""An HTTP transport by which an SDK's requests become calls of Paymaster: durable, and under a budget.

It takes what the SDKs of OpenAI, Anthropic and Google send to an LLM, makes a call of it, and gives back the provider's
answer as it came. Whatever else is sent through it is refused: nothing leaves this process but through Temporal, and no
key of the caller does.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import wait
from datetime import timedelta
from functools import cache
from typing import Literal, NamedTuple

import httpx2
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.exceptions import ActivityError, ChildWorkflowError

import paymaster.agent
import paymaster.client
from paymaster.errors import AnswerGone, CallIdReused
from paymaster.messages import Budgets, LLMRequest
from paymaster.messages.wire import Dialect, Wire
from paymaster.repeated_requests import RepeatedRequests, SentCall, call_of
from paymaster.wire.dialects import dialect_of, sent_headers
from paymaster.wire.event_pieces import event_pieces
from paymaster.wire.refusals import Told, refusal
from paymaster.wire_requests import (
    ID_HEADER,
    TemporalUnreachable,
    Terms,
    answered,
    body_of,
    call_id_of_key,
    repeats_of,
    request_of,
    told_by_client,
    told_of_failure,
)
from paymaster.withdrawal import result_while_wanted

__all__ = ["PaymasterTransport", "SyncPaymasterTransport"]

_FAILED_FROM = 400
"""Statuses of failures."""
_LOOKS_EVERY_S = 1.0
_EVENTS_IN_TASK = 300
"""Of a stream that an SDK reads in one task of a workflow, which may take two seconds; on a busy machine OpenAI's takes
a millisecond for each."""


class _Asked(NamedTuple):
    """A request of an SDK."""

    request: LLMRequest
    dialect: Dialect
    call_id: str | None
    """That the caller chose. None: none."""
    repeats: int
    """How often its SDK has sent it before."""


class _Transport:
    """What both transports have."""

    def __init__(
        self,
        budget: Budgets,
        *,
        route: str | None = None,
        priority: int = 0,
        on_exhausted: Literal["wait", "fail"] | None = None,
        wait_at_most: timedelta | None = None,
        metadata: Mapping[str, str] | None = None,
        client: Client | None = None,
    ) -> None:
        """The arguments are fields of LLMRequest. `route` None: the model that a request names, which is a route or
        `service/model`. `client` None: in an `async def` activity that of its worker, elsewhere one of
        `paymaster.client.connect()`."""
        self._terms = Terms(budget, route, priority, on_exhausted, wait_at_most, metadata or {})
        self._client = client
        self._repeated = RepeatedRequests()

    def _call(self, asked: _Asked) -> SentCall:
        request = asked.request.model_copy(update={"call_id": asked.call_id})
        return call_of(request, asked.repeats, self._repeated)

    async def _answer(self, asked: _Asked, call: SentCall, client: Client | None) -> Told:
        """Outside workflows. `client` None: one that is connected now. Raises httpx2.ConnectError."""
        failed = True
        try:
            if client is None:
                client = self._client = await _connected()
            answer = await _of_client(client, asked, call)
            failed = answer.status >= _FAILED_FROM
            return answer
        finally:
            call.end(failed=failed)


class PaymasterTransport(_Transport, httpx2.AsyncBaseTransport):
    """For an SDK's asynchronous client: `AsyncOpenAI(http_client=httpx2.AsyncClient(transport=PaymasterTransport(…)))`.

    In a workflow each request is a child workflow. In an activity, and anywhere else, it is started by a client, and
    found again by whoever sends it once more: an activity that is tried again, or an SDK that says that it does.
    """

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises httpx2.ConnectError where Temporal cannot be reached."""
        asked = _asked(request, await request.aread(), self._terms)
        if isinstance(asked, Told):
            return _response(asked)
        if workflow.in_workflow():
            return _response(await _of_workflow(asked))
        client = self._client
        if client is None and activity.in_activity():
            client = activity.client()
        return _response(await self._answer(asked, self._call(asked), client))


class SyncPaymasterTransport(_Transport, httpx2.BaseTransport):
    """For an SDK's synchronous client, outside workflows: in `def` activities, threads, and programs without a loop."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises httpx2.ConnectError where Temporal cannot be reached, RuntimeError in a workflow."""
        if workflow.in_workflow():
            raise RuntimeError("a workflow must not block: use the SDK's async client, with PaymasterTransport")
        asked = _asked(request, request.read(), self._terms)
        if isinstance(asked, Told):
            return _response(asked)
        answering = self._answer(asked, self._call(asked), self._client)
        future = asyncio.run_coroutine_threadsafe(answering, _loop())
        try:
            while not future.done():  # a cancelled activity's exception does not come to a thread that only waits
                wait([future], timeout=_LOOKS_EVERY_S)
            return _response(future.result())
        finally:
            future.cancel()


# ------------------------------------------------------------ a request


def _asked(request: httpx2.Request, body: bytes, terms: Terms) -> _Asked | Told:
    """The request as one of ours, or why it is none."""
    found = dialect_of(request.url.raw_path.decode("ascii", "replace")) if request.method == "POST" else None
    if found is None:
        detail = (
            f"{request.method} {request.url.path} is no call of an LLM that Paymaster knows. It was not sent, since it "
            "would be under no budget: use another client for it"
        )
        return refusal("openai", "no_dialect", detail)
    dialect, path = found
    try:
        wire = Wire(dialect=dialect, body=body, headers=sent_headers(dialect, request.headers), path=path)
        made = request_of(wire, terms)
    except ValueError as error:
        return refusal(dialect, "bad_request", str(error))
    return _Asked(made, dialect, call_id_of_key(request.headers.get(ID_HEADER)), repeats_of(request.headers))


# ------------------------------------------------------------ its call


async def _of_workflow(asked: _Asked) -> Told:
    request = asked.request.model_copy(update={"call_id": asked.call_id})
    try:
        result = await paymaster.agent.try_generate(request)
        return answered(result, asked.dialect, await body_of(result, paymaster.agent.answer_pieces))
    except (CallIdReused, AnswerGone) as error:
        return told_of_failure(error, asked.dialect)
    except (ChildWorkflowError, ActivityError) as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # an SDK would take any other exception for a failure, and go on
            raise asyncio.CancelledError from error
        return refusal(asked.dialect, "call_ended", f"the call ended without a result: {error.cause}")


async def _of_client(client: Client, asked: _Asked, call: SentCall) -> Told:
    """Raises httpx2.ConnectError."""
    request = asked.request.model_copy(update={"call_id": call.id})
    try:
        keeps = asked.call_id is not None
        result = result_while_wanted(client, request, keeps=keeps, id_is_drawn=call.id_is_drawn)
        return await told_by_client(client, result, asked.dialect)
    except TemporalUnreachable as error:
        raise httpx2.ConnectError(str(error)) from error


# ------------------------------------------------------------ its response


class _Body(httpx2.AsyncByteStream, httpx2.SyncByteStream):
    """A body as it is read from a socket: a stream event by event, anything else at once."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = enumerate(pieces)  # read once, by whoever goes on

    def __iter__(self) -> Iterator[bytes]:
        for _, piece in self._pieces:
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for number, piece in self._pieces:
            if number and number % _EVENTS_IN_TASK == 0 and workflow.in_workflow():
                await workflow.sleep(timedelta(milliseconds=1), summary="a task for the next events of a long stream")
            yield piece


def _response(answer: Told) -> httpx2.Response:
    streamed = answer.headers.get("content-type", "").startswith("text/event-stream")
    pieces = event_pieces(answer.body) if streamed else [answer.body]
    # Of HTTP/1.1 an SDK would read on behind the end of a stream, by a timer, to keep its connection; there is none.
    extensions = {"http_version": b"HTTP/2"}
    # Latin-1, as HTTP has it, and not ASCII: an answer that is paid for is not lost for an odd header.
    headers = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in answer.headers.items()]
    return httpx2.Response(answer.status, headers=headers, stream=_Body(pieces), extensions=extensions)


# ------------------------------------------------------------ outside workflows


async def _connected() -> Client:
    """Raises httpx2.ConnectError."""
    try:
        return await paymaster.client.connect()
    except RuntimeError as error:
        raise httpx2.ConnectError(f"Temporal cannot be reached: {error}") from error


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """On which the synchronous transports of this process wait, in a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="paymaster-transport", daemon=True).start()
    return loop
