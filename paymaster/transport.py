"""An HTTP transport by which an SDK's requests become calls of Paymaster: durable, and under a budget.

It takes what the SDKs of OpenAI, Anthropic and Google send to an LLM, makes a call of it, and gives back the provider's
answer as it came. Whatever else is sent through it is refused: nothing leaves this process but through Temporal, and no
key of the caller does.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import wait
from datetime import timedelta
from functools import cache
from hashlib import sha256
from typing import Literal, NamedTuple

import httpx2
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ActivityError, ChildWorkflowError
from temporalio.service import RPCError

import paymaster.agent
import paymaster.client
from paymaster.errors import AnswerGone, CallIdReused
from paymaster.messages import Budgets, LLMRequest, LLMResult, Outcome
from paymaster.messages.wire import Dialect, Wire
from paymaster.repeated_requests import RepeatedRequests, SentCall, call_of
from paymaster.values.money import nanos_to_usd
from paymaster.wire.dialects import dialect_of, model_named, sent_headers
from paymaster.wire.event_pieces import event_pieces
from paymaster.wire.refusals import Told, told
from paymaster.withdrawal import result_while_wanted

__all__ = ["PaymasterTransport", "SyncPaymasterTransport"]

_REPEATS_HEADER = "x-stainless-retry-count"
"""By which OpenAI's and Anthropic's SDKs say how often they have sent a request before."""
_ID_HEADER = "idempotency-key"
_KEY_LENGTH_MAX = 100
"""Of a caller's key that is a call's id as it is."""
_DIGITS_MAX = 3
_FAILED_FROM = 400
"""Statuses of failures."""
_LOOKS_EVERY_S = 1.0
_EVENTS_IN_TASK = 300
"""Of a stream that an SDK reads in one task of a workflow, which may take two seconds; on a busy machine OpenAI's takes
a millisecond for each."""


class Terms(NamedTuple):
    """What a request of a provider's format does not say."""

    budget: Budgets
    route: str | None
    priority: int
    on_exhausted: Literal["wait", "fail"] | None
    wait_at_most: timedelta | None
    metadata: Mapping[str, str]


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
            answer = await _of_client(client, asked, call.id)
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
        return _refusal("openai", "no_dialect", detail)
    dialect, path = found
    try:
        wire = Wire(dialect=dialect, body=body, headers=sent_headers(dialect, request.headers), path=path)
        made = LLMRequest(
            route=terms.route or _route(wire),
            budget=terms.budget,
            priority=terms.priority,
            on_exhausted=terms.on_exhausted,
            wait_at_most=terms.wait_at_most,
            metadata=dict(terms.metadata),
            wire=wire,
        )
    except ValueError as error:
        return _refusal(dialect, "bad_request", str(error))
    repeats = request.headers.get(_REPEATS_HEADER, "")
    return _Asked(
        made,
        dialect,
        _call_id(request.headers.get(_ID_HEADER)),
        int(repeats) if repeats.isdecimal() and len(repeats) <= _DIGITS_MAX else 0,
    )


def _route(wire: Wire) -> str:
    try:
        return model_named(wire)
    except ValueError:
        return "-"  # the call is denied, and says what is wrong with the body


def _call_id(key: str | None) -> str | None:
    """The caller's key as a call id, which may not be as long, and comes back in a header."""
    if not key:
        return None
    fits = len(key) <= _KEY_LENGTH_MAX and key.isascii() and key.isprintable()
    return key if fits else f"key-{sha256(key.encode()).hexdigest()}"


# ------------------------------------------------------------ its call


async def _of_workflow(asked: _Asked) -> Told:
    request = asked.request.model_copy(update={"call_id": asked.call_id})
    try:
        result = await paymaster.agent.try_generate(request)
        return _answered(result, asked.dialect, await _body(result, paymaster.agent.answer_pieces))
    except CallIdReused as error:
        return _refusal(asked.dialect, "call_id_reused", error.message)
    except AnswerGone as error:
        return _refusal(asked.dialect, "answer_gone", error.message)
    except (ChildWorkflowError, ActivityError) as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # an SDK would take any other exception for a failure, and go on
            raise asyncio.CancelledError from error
        return _refusal(asked.dialect, "call_ended", f"the call ended without a result: {error.cause}")


async def _of_client(client: Client, asked: _Asked, call_id: str) -> Told:
    """Raises httpx2.ConnectError."""
    request = asked.request.model_copy(update={"call_id": call_id})
    try:
        result = await result_while_wanted(client, request, keeps=asked.call_id is not None)
        pieces = await _body(result, lambda found: paymaster.client.answer_pieces(client, found))
        return _answered(result, asked.dialect, pieces)
    except CallIdReused as error:
        return _refusal(asked.dialect, "call_id_reused", error.message)
    except AnswerGone as error:
        return _refusal(asked.dialect, "answer_gone", error.message)
    except WorkflowFailureError as error:
        return _refusal(asked.dialect, "call_ended", f"the call ended without a result: {error.cause}")
    except RPCError as error:
        raise httpx2.ConnectError(f"Temporal cannot be reached: {error.message}") from error
    except RuntimeError as error:  # of a lazy client
        raise httpx2.ConnectError(f"Temporal cannot be reached: {error}") from error


async def _body(result: LLMResult, pieces: Callable[[LLMResult], AsyncIterator[bytes]]) -> bytes:
    if result.outcome is not Outcome.COMPLETED or result.wire is None:
        return b""
    return b"".join([piece async for piece in pieces(result)])


# ------------------------------------------------------------ its response


def _answered(result: LLMResult, dialect: Dialect, body: bytes) -> Told:
    if result.outcome is Outcome.COMPLETED and result.wire is not None:
        answer = Told(result.wire.status, result.wire.headers, body)
    else:
        answer = told(result, dialect)
    ours = {"x-paymaster-call-id": result.call_id, "x-paymaster-cost-usd": f"{nanos_to_usd(result.cost_nanos):f}"}
    return answer._replace(headers={**answer.headers, **ours})


def _refusal(dialect: Dialect, reason: str, detail: str) -> Told:
    return told(LLMResult(outcome=Outcome.DENIED, call_id="", reason=reason, detail=detail), dialect)


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
