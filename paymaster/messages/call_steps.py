"""Between the call workflow and its activities."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    JsonValue,
)

from paymaster.messages.base import CountsForBudgets, Message, added
from paymaster.messages.commands import CallRef, Candidate, Denied, Grant, Refused, ReserveAnswer, Settled, UnknownHold
from paymaster.messages.requests import LLMRequest, ProviderState, ToolCall
from paymaster.messages.results import Attempt
from paymaster.messages.runs import RunId, RunLimits, RunPart
from paymaster.messages.wire import Dialect, StoredBody, WireAnswer
from paymaster.values.cost_lines import CostLine
from paymaster.values.limits import BODY_PIECES_MAX, BUDGETS_OF_CALL_MAX
from paymaster.values.money import TokenUsage


class Asker(Message):
    """Who asks for a call, for the run that it counts for, and whether its id is new. In the metadata of the request's
    payload."""

    run: RunId | None = None
    """The run's id. None: it has to be looked up, or there is none."""
    workflow: CallRef | None = None
    """The workflow whose activity asks."""
    drawn: bool = False
    """The id of the call, or purchase, was drawn at random for this request: nobody can have used it before."""


class ReserveRequest(Message):
    """Facts of a request for the local activity `reserve`: no prompt text, only its size."""

    hold_id: str
    call: CallRef
    route: str
    budget: str
    input_bytes: int
    max_output_tokens: int | None
    on_exhausted: Literal["wait", "fail"] | None
    wait_at_most_ms: int | None
    started_at_ms: int
    asked_at_ms: int
    priority: int
    excluded: tuple[str, ...] = ()
    """`service/model` of the candidates that failed this call already."""
    too_long_for: tuple[str, ...] = ()
    """Those of them that found the prompt too long: another one with no more context is not asked."""
    images: int = 0
    """How many images the request has; the bytes do not count them."""
    documents: int = added(0)
    """How many documents it has, likewise."""
    dialect: Dialect | None = added(None)
    """Of a wire call: the format that it is written in."""
    outputs: int = added(1)
    """How many answers are asked for at once. 0: embeddings, which put out no tokens."""
    needs: tuple[str, ...] = added(())
    """What makes the cost of a wire call unknown beforehand, by name."""
    chooses: tuple[str, ...] = added(())
    """What in a wire call chooses its price, as `service_tier=priority`."""
    kept_thoughts: int = added(0)
    """How many thoughts of earlier answers the provider reads again; the bytes do not count them."""
    translated_bytes: int | None = added(None)
    """Of a wire call: its `input_bytes` in neutral words, for a candidate of another format. None: it has none."""
    untranslatable: str | None = added(None)
    """The first key of a wire call that the neutral request does not know. None: each is known."""
    further_budgets: tuple[str, ...] = added(())
    """Others that the call counts for."""
    granted_before: bool = added(False)
    """The call had a grant already; this is for a further attempt."""
    counted: dict[str, int | None] = added({})
    """Its input tokens as they were counted, by `service/model`. None: they could not be counted."""
    plain: bool = added(False)
    """The request came in plain text to a worker that encrypts; told when the call first asks."""
    may_be_reused: bool = added(False)
    """Its id was not drawn for it, and may have been used before; told when the call, or purchase, first asks."""
    run: str | None = added(None)
    """The id of the run that the call counts for. None: `root` says whose it is."""
    root: CallRef | None = added(None)
    """The workflow whose run it is, or that of its root. None: nobody's."""
    digest: str = added("")
    """Of what the call asks for, where it may be in a run. Empty: it is too large to be looked at, or in none."""
    run_limits: RunLimits | None = added(None)
    run_parts: tuple[RunPart, ...] = added(())
    up_to_nanos: int | None = added(None)
    """Of a purchase: the most that it can cost; `route` says what is bought. None: it is a call."""


class RequestFacts(Message):
    """What the bound of a request depends on; ReserveRequest has the same fields."""

    input_bytes: int
    max_output_tokens: int | None
    images: int
    documents: int
    dialect: Dialect | None = None
    outputs: int = 1
    needs: tuple[str, ...] = ()
    chooses: tuple[str, ...] = ()
    kept_thoughts: int = 0
    translated_bytes: int | None = None
    untranslatable: str | None = None


class MeasuredRequest(Message):
    """What the activity `measure_request` answers."""

    facts: RequestFacts | None = None
    denied: Denied | None = None
    """Why nothing is reserved. None: there are facts."""


class Reservation(Message):
    """What the local activity `reserve` answers."""

    answer: ReserveAnswer
    findable: bool = False
    """The namespace has Paymaster's search attributes, so that the call may set them. Here, because what a workflow
    does must follow from its history, and not from the worker that it happens to run on."""
    run: str | None = added(None)
    """The path of the run that the call counts for, where it may set that. None: it may not, or there is none."""


class CountRequest(Message):
    """Input of the activity `count_tokens`."""

    request: LLMRequest
    candidate: Candidate


class TokenCount(Message):
    """What the activity `count_tokens` answers."""

    tokens: int | None
    """Of the input. None: they could not be counted."""


class InputCount(Message):
    """How many tokens the input of a request has, for a program that asks before it calls."""

    tokens: int | None
    """None: nobody could count them."""
    detail: str = ""
    """Why not."""


class ServiceCall(Message):
    """Input of the activity `call_service`."""

    grant: Grant
    request: LLMRequest
    storages: str = added("")
    """The external storages from which whoever asks reads, with commas between them. Empty: none."""


class Completion(Message):
    """What a service answered."""

    text: str
    parsed: JsonValue = None
    tool_calls: tuple[ToolCall, ...] = ()
    refused: bool = False
    finish_reason: str | None
    attempts: tuple[Attempt, ...]
    """All attempts under this hold; the last one is the one that answered."""
    state: ProviderState | None = added(None)
    """What the service wants back with this answer."""
    schema_problem: str | None = added(None)
    """Why `parsed` is empty although a schema was asked for."""
    wire: WireAnswer | None = added(None)
    """Of a wire call: the answer as it came."""


class Failure(Message):
    """Why a service call ended without an answer; the details of the activity's error."""

    attempts: tuple[Attempt, ...]
    reason: str
    """The last attempt's error class, a word for programs."""
    detail: str
    fall_back: bool = True
    """False: the request is wrong everywhere."""
    unknown: bool = False
    """The last attempt may have been billed."""
    model_paused: bool = added(False)
    """The model is paused for a moment and may be asked again then; until then another candidate, where one fits."""
    wire: WireAnswer | None = added(None)
    """Of a wire call: the refusal as it came, where one did. Of an answer that is too large: that answer, stored."""
    ends_call: bool = added(False)
    """Whoever asked has the beginning of the answer that failed, and could have no other one."""


class BodyPiece(Message):
    """One piece of a stored body, as it is asked for."""

    body: StoredBody
    piece: int = Field(ge=0, lt=BODY_PIECES_MAX)
    """From 0 on."""


class StandingRequest(Message):
    """Whose standing is asked for."""

    budgets: tuple[str, ...] = Field(min_length=1, max_length=BUDGETS_OF_CALL_MAX)
    run: str | None = None


class BodySweep(Message):
    """Input of the workflow that deletes stored bodies, and of its activity."""

    ledger: str


class UsageEntry(CountsForBudgets, Message):
    """One immutable row of `usage_entries`: an attempt as it ended, or (`unconfirmed`) as it may have ended."""

    attempt_id: str
    state: Literal["final", "unconfirmed"]
    hold_id: str
    call_id: str
    workflow_id: str
    run_id: str
    ledger: str
    epoch: str
    budget: str
    service: str
    model: str
    model_answered: str | None = None
    granted_at_ms: int
    started_at_ms: int | None = None
    duration_ms: int | None = None
    status: Literal["completed", "failed", "unknown", "expired", "corrected"]
    error_class: str | None = None
    http_status: int | None = None
    provider_request_id: str | None = None
    usage: TokenUsage | None = None
    cost_nanos: int
    price_source: str
    metadata: dict[str, str] = {}
    paid_for: tuple[CostLine, ...] | None = added(None)
    """Lines that add up to `cost_nanos`. None: not recorded, as of all entries of versions before there were lines."""
    dialect: str | None = added(None)
    """Of a wire call: the format that it was written in. None: of none, or of a hold that expired."""
    further_budgets: tuple[str, ...] = added(())
    """Others that it counts for."""
    run: str | None = added(None)
    """The path of the run that it counts for. None: none."""


class UsageRecord(Message):
    """Input of the local activity `record_usage`: how the attempts under one hold went."""

    call: CallRef
    grant: Grant
    attempts: tuple[Attempt, ...]
    answered: bool
    """The last attempt was answered."""
    metadata: dict[str, str] = {}
    dialect: str | None = added(None)
    """Of a wire call: the format that it was written in."""


class Deferred(Message):
    """The ledger did not answer; the usage backlog settles as soon as it does."""

    kind: Literal["deferred"] = "deferred"
    hold_id: str


RecordAnswer = Annotated[Settled | UnknownHold | Refused | Deferred, Field(discriminator="kind")]
