"""An SDK's request as a call, and its result as the response: what the transport and the gateway have in common."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from hashlib import sha256
from typing import Literal, NamedTuple

from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError

import paymaster.client
from paymaster.errors import AnswerGone, CallDenied, CallIdReused
from paymaster.messages import Budgets, LLMRequest, LLMResult, Outcome
from paymaster.messages.call_steps import InputCount
from paymaster.messages.temporal_names import CALL_ID_REUSED
from paymaster.messages.wire import Dialect, Wire
from paymaster.values.money import nanos_to_usd
from paymaster.wire.dialects import model_named
from paymaster.wire.refusals import Told, refusal, told

ID_HEADER = "idempotency-key"
REPEATS_HEADER = "x-stainless-retry-count"
"""By which OpenAI's and Anthropic's SDKs say how often they have sent a request before."""
_KEY_LENGTH_MAX = 100
"""Of a caller's key that is a call's id as it is."""
_DIGITS_MAX = 3


class TemporalUnreachable(Exception):
    """Nobody knows whether the call was begun."""


class Unended(Exception):
    """A call that goes on, or was not begun, when it has to be answered for. The reason is one of
    `paymaster.wire.refusals`."""

    def __init__(self, reason: str, detail: str, call_id: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.call_id = call_id


class Terms(NamedTuple):
    """What a request of a provider's format does not say."""

    budget: Budgets
    route: str | None = None
    """None: the model that the request names."""
    priority: int = 0
    on_exhausted: Literal["wait", "fail"] | None = None
    wait_at_most: timedelta | None = None
    metadata: Mapping[str, str] = {}
    run: str | None = None


def request_of(wire: Wire, terms: Terms) -> LLMRequest:
    """Raises ValueError."""
    return LLMRequest(
        route=terms.route or route_named(wire),
        budget=terms.budget,
        priority=terms.priority,
        on_exhausted=terms.on_exhausted,
        wait_at_most=terms.wait_at_most,
        metadata=dict(terms.metadata),
        wire=wire,
        run=terms.run,
    )


def route_named(wire: Wire) -> str:
    """The route, or `service/model`, that its body or path names as the model."""
    try:
        return model_named(wire)
    except ValueError:
        return "-"  # the call is denied, and says what is wrong with the body


def repeats_of(headers: Mapping[str, str]) -> int:
    """How often its SDK has sent a request before, by its own word."""
    repeats = headers.get(REPEATS_HEADER, "")
    return int(repeats) if repeats.isdecimal() and len(repeats) <= _DIGITS_MAX else 0


def call_id_of_key(key: str | None) -> str | None:
    """The caller's key as a call id, which may not be as long, and comes back in a header."""
    if not key:
        return None
    fits = len(key) <= _KEY_LENGTH_MAX and key.isascii() and key.isprintable()
    return key if fits else f"key-{sha256(key.encode()).hexdigest()}"


async def told_by_client(
    client: Client, awaited: Awaitable[LLMResult], dialect: Dialect, *, may_wait_again: bool = False
) -> Told:
    """The response to a call whose result is awaited.

    `may_wait_again`: it was not the caller who said how long it may wait. Default: it was. Raises TemporalUnreachable.
    """
    try:
        result = await awaited
        pieces = await body_of(result, lambda found: paymaster.client.answer_pieces(client, found))
        return answered(result, dialect, pieces, may_wait_again=may_wait_again)
    except (CallIdReused, AnswerGone, WorkflowFailureError) as error:
        return told_of_failure(error, dialect)
    except Unended as error:
        return refusal(dialect, error.reason, error.detail, call_id=error.call_id)
    except RPCError as error:
        raise TemporalUnreachable(f"Temporal cannot be reached: {error.message}") from error
    except RuntimeError as error:  # of a lazy client
        raise TemporalUnreachable(f"Temporal cannot be reached: {error}") from error


async def counted_by_client(client: Client, request: LLMRequest) -> InputCount:
    """How many tokens the input of a request has. Raises TemporalUnreachable."""
    try:
        return await paymaster.client.input_count(client, request)
    except CallDenied as error:
        return InputCount(tokens=None, detail=str(error))
    except WorkflowFailureError:
        return InputCount(tokens=None, detail="no worker has answered")
    except (RPCError, RuntimeError) as error:  # RuntimeError: of a lazy client
        raise TemporalUnreachable(f"Temporal cannot be reached: {error}") from error


def told_of_failure(error: CallIdReused | AnswerGone | WorkflowFailureError, dialect: Dialect) -> Told:
    """The response to a call without a result, or whose result is not this request's."""
    match error:
        case CallIdReused():
            return refusal(dialect, CALL_ID_REUSED, error.message)
        case AnswerGone():
            return refusal(dialect, "answer_gone", error.message)
        case WorkflowFailureError():
            return refusal(dialect, "call_ended", f"the call ended without a result: {error.cause}")


async def body_of(result: LLMResult, pieces: Callable[[LLMResult], AsyncIterator[bytes]]) -> bytes:
    """The body of its answer. Raises AnswerGone."""
    if result.outcome is not Outcome.COMPLETED or result.wire is None:
        return b""
    return b"".join([piece async for piece in pieces(result)])


def answered(result: LLMResult, dialect: Dialect, body: bytes, *, may_wait_again: bool = False) -> Told:
    """The provider's answer as it came, or why there is none, with headers that say what became of the call."""
    if result.outcome is Outcome.COMPLETED and result.wire is not None:
        answer = Told(result.wire.status, result.wire.headers, body)
    else:
        answer = told(result, dialect, may_wait_again=may_wait_again)
    return answer._replace(headers={**answer.headers, **headers_of(result)})


def headers_of(result: LLMResult) -> dict[str, str]:
    """What became of a call, for programs that see only headers."""
    left = result.standing.left_usd
    return {
        "x-paymaster-call-id": result.call_id,
        "x-paymaster-cost-usd": f"{nanos_to_usd(result.cost_nanos):f}",
        "x-paymaster-attempts": str(result.attempts),
        **({} if left is None else {"x-paymaster-budget-left-usd": f"{left:f}"}),
        **({} if result.service is None else {"x-paymaster-service": result.service}),
    }
