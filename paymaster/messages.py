"""What workflows, activities, callers and operators send each other, and the names by which they find each other.

Versions run side by side, so messages only grow: a new field has a default and is made by `added`, which leaves it out
of what is written until it is used. Money is in nano-dollars (`…_nanos`), times are milliseconds since the epoch
(`…_at_ms`), durations milliseconds (`…_ms`).
"""

import json
from base64 import b64encode
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Any, Literal, Self, TypeVar, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    WrapSerializer,
    model_validator,
)

from paymaster.limits import BATCH_ITEMS_MAX
from paymaster.money import Price, TokenUsage, nanos_to_usd
from paymaster.packed import pack, unpack

CALLS_TASK_QUEUE = "paymaster"
"""Call workflows with their short local activities. Agents start their children here."""
LEDGER_TASK_QUEUE = "paymaster-ledger"
"""The budget workflow alone: on the calls' queue the waiting `reserve`s hold every slot that could answer them."""
ACTIVITIES_TASK_QUEUE = "paymaster-activities"
"""Everything that waits for somebody else: services, deliveries."""

UNKNOWN_OUTCOME = "OutcomeUnknown"
"""Error type of an attempt that may have been billed. Never retried under the same hold."""
NOT_BILLED = "NotBilled"
"""Error type of an attempt that certainly was not billed."""
WORKER_LOST = "worker_lost"
"""The error class of an attempt whose worker was lost: when it began is only guessed."""
CONTEXT_TOO_LONG = "context_too_long"
"""The reason of a failure for which a candidate with a larger context is asked."""
BILLED = "Billed"
"""Error type of an attempt that was billed, for a known sum, and is of no use. Never retried under the same hold."""

ENCRYPTED = b"binary/encrypted"
"""The `encoding` of an encrypted payload, as Temporal's examples call it; workflows meet it when there is no key."""

Window = Literal["minute", "hour", "day", "month", "total"]
"""Calendar windows, UTC; `total` never ends."""


CALL_WORKFLOW_PREFIX = "call/"


def call_workflow_id(call_id: str) -> str:
    return f"{CALL_WORKFLOW_PREFIX}{call_id}"


def backlog_workflow_id(ledger: str) -> str:
    """Those of its pieces begin with it and a slash."""
    return f"usage-backlog/{ledger}"


def call_id_of(workflow_id: str) -> str:
    return workflow_id.removeprefix(CALL_WORKFLOW_PREFIX)


def budget_workflow_id(ledger: str) -> str:
    return f"budget/{ledger}"


DefaultT = TypeVar("DefaultT")


def added(default: DefaultT, **constraints: Any) -> DefaultT:
    """A field that an earlier released version does not know: it is written only when it differs from its default.

    `reserved: int = added(0, ge=0)` for `reserved: int = Field(default=0, ge=0)`; `constraints` are those of pydantic's
    `Field`. An older reader then meets the field only where it is used: one that forbids unknown fields (LLMRequest,
    AdminMessage, Signature) refuses it there, any other reader ignores it. A new `kind` of a union and a new word of a
    Literal cannot be left out, and an older reader fails on them: the ledger writes them only under newer rules
    (`RULES` in paymaster/admission/state.py).
    """
    return Field(default=default, exclude_if=lambda value: value == default, **constraints)


class Message(BaseModel):
    model_config = ConfigDict(frozen=True)


def json_bytes(message: BaseModel) -> int:
    """How long a message is in a payload."""
    return len(message.model_dump_json().encode())


# ---------------------------------------------------------------- what an agent asks for, and gets


class Image(Message):
    """An image in a user message: by URL, which the service fetches, or as bytes.

    What it costs depends on the model: only models with a configured `image_tokens_max` take one.
    """

    url: str | None = None
    data: str | None = None
    """The bytes in base64; `Image.of` makes them."""
    media_type: str | None = None
    """Such as "image/png". Needed with `data`."""

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if (self.url is None) == (self.data is None):
            raise ValueError("an image has a url or data, and not both")
        if self.data is not None and self.media_type is None:
            raise ValueError('an image as data needs its media_type, such as "image/png"')
        return self

    @classmethod
    def of(cls, content: bytes, media_type: str) -> Self:
        return cls(data=b64encode(content).decode(), media_type=media_type)


class ToolCall(Message):
    """A tool that the model wants called. It goes back to the model in an assistant message, with the result after."""

    id: str
    name: str
    arguments: dict[str, JsonValue] = {}
    invalid_arguments: str | None = None
    """What the model wrote when that is not a JSON object; `arguments` is empty then."""
    signature: str | None = None
    """Opaque: Gemini wants it back with the call."""


class ChatMessage(Message):
    role: Literal["system", "user", "assistant", "tool"]
    content: str
    """The text; of a `tool` message, what the tool answered."""
    images: tuple[Image, ...] = ()
    """Of a `user` message; the model reads them before the text."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an `assistant` message: what the model wanted called."""
    tool_call_id: str | None = None
    """Of a `tool` message: the call that it answers."""

    @model_validator(mode="after")
    def _has_what_its_role_allows(self) -> Self:
        if self.images and self.role != "user":
            raise ValueError("only a user message has images")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only an assistant message has tool_calls")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("a tool message needs a tool_call_id, and no other message has one")
        return self


class Tool(Message):
    """A function that the model may ask for."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str = ""
    parameters: dict[str, JsonValue] = {"type": "object", "properties": {}}
    """The JSON schema of its arguments."""


ReasoningEffort = Literal["none", "minimal", "low", "medium", "high"]


class LLMRequest(BaseModel):
    """One thing that an agent wants from a model. Unknown fields are refused, never dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    route: str
    """A route of the configuration: an ordered list of `service/model`."""
    budget: str
    """The budget's path (`acme/content/writer`). Every configured ancestor is charged too."""
    prompt: str | None = None
    """The last user message. A request has a prompt, messages or both."""
    messages: tuple[ChatMessage, ...] = ()
    system: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    """The most tokens of output, reasoning included. None: what the model's configuration says."""
    json_schema: dict[str, JsonValue] | None = None
    """Ask for an answer that follows this JSON schema. The answer's `parsed` has it as data."""
    temperature: float | None = Field(default=None, ge=0)
    stop: tuple[str, ...] = ()
    seed: int | None = None
    top_p: float | None = Field(default=None, ge=0, le=1)
    reasoning_effort: ReasoningEffort | None = None
    """How long a reasoning model thinks. None: the model's default."""
    tools: tuple[Tool, ...] = ()
    """The functions that the model may ask for; the answer's `tool_calls` says which."""
    tool_choice: str | None = None
    """"auto", "none", "required" or the name of a tool. None: the service's default, which is "auto"."""
    call_id: str | None = Field(default=None, min_length=1, max_length=200)
    """The same id always gives the same result, and is paid once. None: a new id."""
    priority: int = Field(default=0, ge=-100, le=100)
    """A parked call with a higher priority goes first."""
    on_exhausted: Literal["wait", "fail"] | None = None
    """When the money is gone: wait for a raised cap or a new window, or fail. None: the ledger's configuration."""
    wait_at_most: timedelta | None = Field(default=None, ge=timedelta(milliseconds=1), le=timedelta(days=366))
    """The longest time to be parked, counted from the start of the call: from 1 ms to 366 days, as in the
    configuration. None: the ledger's configuration."""
    metadata: dict[str, str] = {}
    """Stored with every attempt, for reports."""

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if self.prompt is None and not self.messages:
            raise ValueError("a request needs a prompt, messages or both")
        return self

    @model_validator(mode="after")
    def _chooses_a_tool_that_is_there(self) -> Self:
        names = [tool.name for tool in self.tools]
        if len(set(names)) < len(names):
            raise ValueError("two tools have the same name")
        known = {"auto", "none", "required", *names}
        if self.tool_choice is not None and (not names or self.tool_choice not in known):
            raise ValueError(f"tool_choice {self.tool_choice!r} is neither a tool of this request nor one of its words")
        return self

    def conversation(self) -> tuple[ChatMessage, ...]:
        """System message, messages and prompt in the order in which a model reads them."""
        system = () if self.system is None else (ChatMessage(role="system", content=self.system),)
        prompt = () if self.prompt is None else (ChatMessage(role="user", content=self.prompt),)
        return (*system, *self.messages, *prompt)

    def digest(self) -> str:
        """Tells whether two requests with the same call id ask for the same thing."""
        # Without defaults, so that a field which a later version adds does not change it; with sorted keys, so that the
        # order in which a dict was filled does not either.
        asked = json.loads(self.model_dump_json(exclude={"call_id"}, exclude_defaults=True))
        return sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class Billing(StrEnum):
    """Whether the provider charges for an attempt."""

    BILLED = "billed"
    NOT_BILLED = "not_billed"
    UNKNOWN = "unknown"


class Attempt(Message):
    """One HTTP request that may be billed, as it went."""

    number: int
    """The activity's attempt; with the hold id it makes the attempt's id."""
    started_at_ms: int
    duration_ms: int
    billing: Billing
    http_status: int | None = None
    """None: no answer arrived."""
    error_class: str | None = None
    """None: it succeeded."""
    error: str | None = None
    """For people; never holds a key."""
    provider_request_id: str | None = None
    model_answered: str | None = None
    usage: TokenUsage | None = None
    """None: the provider did not say."""
    trips_breaker: bool = False
    """It failed, and the failure is the service's, not the request's."""
    cost_nanos: int | None = Field(default=None, ge=0)
    """What it cost when that is known better than by the grant's price: the service's own figure, or the price of the
    model and tier that really answered. None: the grant's price decides."""
    cost_source: str | None = None
    """Where `cost_nanos` is from, stored as the entry's price source."""


@dataclass(slots=True)
class BudgetNotice:
    """How an account stands after a settlement, for an agent that wants to turn to a cheaper route in time.

    A dataclass, because the desk makes several for each settlement.
    """

    account: str
    window: Window
    cap_nanos: int
    posted_nanos: int
    pending_nanos: int
    crossed: tuple[float, ...] = ()
    """The alert thresholds that this settlement crossed."""

    @property
    def left_nanos(self) -> int:
        return self.cap_nanos - self.posted_nanos - self.pending_nanos


class Outcome(StrEnum):
    COMPLETED = "completed"
    DENIED = "denied"
    """Nothing more was sent: the budget, a limit or the configuration forbids it."""
    UNAVAILABLE = "unavailable"
    """Every service that was allowed failed, or the ledger could not be reached."""


class LLMResult(Message):
    outcome: Outcome
    call_id: str
    text: str = ""
    parsed: JsonValue = None
    """The answer as data when the request had a `json_schema` and the answer is JSON."""
    tool_calls: tuple[ToolCall, ...] = ()
    """The tools that the model wants called."""
    refused: bool = False
    """The model or a filter refused; `text` holds what was said, if anything. It costs like an answer."""
    finish_reason: str | None = None
    """In the service's own words."""
    usage: TokenUsage = TokenUsage()
    """Of the attempt that answered."""
    cost_nanos: int = 0
    """Of all attempts, unconfirmed ones at their bound."""
    service: str | None = None
    model: str | None = None
    """The model that answered, as the service names it."""
    attempts: int = 0
    fell_back: bool = False
    waited_ms: int = 0
    """How long the call was parked."""
    budget: tuple[BudgetNotice, ...] = ()
    reason: str | None = None
    """When not completed: a word for programs, such as `cap_reached`."""
    detail: str | None = None
    """When not completed: a sentence for people."""
    request_digest: str = ""

    @property
    def cost_usd(self) -> Decimal:
        return nanos_to_usd(self.cost_nanos)


# ---------------------------------------------------------------- configuration that the desk decides with


class RetrySettings(Message):
    """Temporal's RetryPolicy for one service."""

    initial_interval_ms: int = 1_000
    backoff_coefficient: float = 2.0
    maximum_interval_ms: int = 30_000
    maximum_attempts: int = 5


class AccountConfig(Message):
    caps_nanos: dict[Window, int] = {}
    alert_at: tuple[float, ...] = (0.5, 0.8, 0.95)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None
    """Calls at once. None, here as above: no limit."""


class ServiceConfig(AccountConfig):
    breaker_failures: int = 5
    breaker_cooldown_ms: int = 30_000
    timeout_ms: int = 120_000
    retry: RetrySettings = RetrySettings()
    max_retry_after_ms: int = 60_000
    max_unconfirmed: int = 1


class AdminConfig(Message):
    """Who may change caps."""

    require_signature: bool = False
    keys: dict[str, str] = {}
    """Public Ed25519 keys in base64, by the name of their owner."""


class DeskConfig(Message):
    """What the worker's configuration file says about admission. Applied once for each digest."""

    digest: str
    budgets: dict[str, AccountConfig] = {}
    services: dict[str, ServiceConfig] = {}
    hold_expires_after_ms: int = 900_000
    max_parked: int = 2_000
    admin: AdminConfig = AdminConfig()


CONFIG_PLAIN_BYTES_MAX = 256 * 1024
"""A configuration up to this size is written as it is, so that version 0.1.0 can read it. A larger one is compressed:
10,000 budgets with caps in five windows are 2.6 MB, and no payload may have more than 2 MiB."""
CONFIG_BYTES_MAX = 16 * 1024 * 1024
"""A compressed configuration holds no more than this."""
CONFIG_PACKED_BYTES_MAX = 1_500 * 1024
"""A compressed configuration as it is sent."""
CARRIED_BYTES_MAX = 64 * 1024 * 1024
"""Compressed hold ids or cap changes hold no more than this."""
BUDGETS_MAX = 10_000
"""Budgets in a configuration."""


def config_too_large(config: DeskConfig) -> str | None:
    """What to do about a configuration that no message can carry. None: one can."""
    if len(config.budgets) > BUDGETS_MAX:
        return f"there are {len(config.budgets)} budgets, and a ledger keeps at most {BUDGETS_MAX}: use several ledgers"
    text = config.model_dump_json().encode()
    if len(text) <= CONFIG_PLAIN_BYTES_MAX:
        return None
    packed = len(pack(text))
    if len(text) <= CONFIG_BYTES_MAX and packed <= CONFIG_PACKED_BYTES_MAX:
        return None
    return (
        f"the budgets and services are {len(text)} bytes, {packed} compressed, and at most {CONFIG_BYTES_MAX} and "
        f"{CONFIG_PACKED_BYTES_MAX} can be sent: configure fewer budgets"
    )


class _PackedConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")

    packed: str


_PACKED = TypeAdapter(_PackedConfig)


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict) and "packed" in value:
        return DeskConfig.model_validate_json(unpack(_PACKED.validate_python(value).packed, CONFIG_BYTES_MAX))
    return cast(object, value)


def _packed(config: DeskConfig, plain: SerializerFunctionWrapHandler) -> object:
    # Without the digest beside it: 0.1.0 refuses this, instead of taking it for a configuration without budgets.
    text = config.model_dump_json().encode()
    return plain(config) if len(text) <= CONFIG_PLAIN_BYTES_MAX else {"packed": pack(text)}


CarriedConfig = Annotated[
    DeskConfig, BeforeValidator(_unpacked), WrapSerializer(_packed, when_used="json", return_type=dict[str, object])
]
"""A configuration in a message; as JSON, compressed where it is large."""


# ---------------------------------------------------------------- commands to the desk, and its answers


class CallRef(Message):
    """The workflow that a hold belongs to, to answer it and to write its entries."""

    workflow_id: str
    run_id: str


class Candidate(Message):
    service: str
    model: str
    max_output_tokens: int
    price: Price | None
    """None: nobody knows; such a candidate is refused (a guessed price would be a guessed budget)."""
    context_tokens: int | None = None
    """The most tokens of input and output together. None: unknown, not checked."""
    media_tokens: int = 0
    """The most input tokens that the request's images can be, which its bytes do not say."""
    refused: str | None = None
    """Why no bound can be given for this request here, with the line to add. None: one can."""


class UnconfirmedEntry(Message):
    """The stored entry that a settlement supersedes, for a desk that does not keep its hold any more."""

    budget: str
    service: str
    granted_at_ms: int
    posted_nanos: int = Field(ge=0)


class Settle(Message):
    """pending → posted with the real cost. Also corrects a hold that expired or was posted unconfirmed."""

    kind: Literal["settle"] = "settle"
    hold_id: str
    cost_nanos: int = Field(ge=0)
    confirmed: bool = True
    """False: posted at this cost because nobody knows; a later settlement may still correct it."""
    tokens: int | None = None
    """Input and output as billed, to correct the estimate of the rate limit. None: unknown, the estimate stays."""
    served: bool = False
    """The service answered: its breaker closes."""
    failures: int = 0
    """Failed attempts under the hold, for those of which no report arrived."""
    epoch: str = ""
    """The books in which the hold was made."""
    corrects: UnconfirmedEntry | None = added(None)
    """Of a resolved attempt, the entry that says what it was posted at."""
    unknown_attempt: str | None = added(None)
    """The id of the attempt of which nobody knows whether it was billed, for whoever resolves it."""


class Reserve(Message):
    """Asks for a hold on the first candidate that may be called now."""

    kind: Literal["reserve"] = "reserve"
    hold_id: str
    """The call's run id and a number. The same id gets the same answer, and never a second grant."""
    call: CallRef
    budget: str
    candidates: tuple[Candidate, ...]
    input_bytes: int
    on_exhausted: Literal["wait", "fail"]
    deadline_at_ms: int
    """A parked call is denied at this time."""
    asked_at_ms: int
    """A time before which this hold id cannot have been used."""
    priority: int = 0


class Void(Message):
    """pending → nothing: nothing was billed. An unknown id is remembered, so that a late reserve finds it ended."""

    kind: Literal["void"] = "void"
    hold_id: str


Command = Annotated[Reserve | Settle | Void, Field(discriminator="kind")]


KEY_SOURCE_DOWN = "key_source_down"
"""The error class of an attempt whose key could not be asked for."""


class AttemptReport(Message):
    """A failed attempt, told at once and not only when its hold ends."""

    hold_id: str
    """Empty: it is about the service and no attempt."""
    service: str
    pause_ms: int | None = None
    """How long the service asked to be left alone. None: it did not."""
    trips_breaker: bool = False
    """The failure is the service's, not the request's."""
    error_class: str | None = None
    alert: str | None = None
    """Why somebody must act: pay, change the key or name another model. None: nobody must."""


class AttemptReports(Message):
    """Signal `report_attempts`."""

    reports: Annotated[tuple[AttemptReport, ...], Field(max_length=BATCH_ITEMS_MAX), FailFast()]


class Grant(Message):
    """Everything needed to make one call under one hold."""

    hold_id: str
    budget: str
    service: str
    model: str
    price: Price
    max_output_tokens: int
    bound_nanos: int
    granted_at_ms: int
    """Window sums use this time, in the desk as in the reports."""
    expires_at_ms: int
    epoch: str
    """The first run id of the budget workflow: which books this hold is in."""
    timeout_ms: int
    retry: RetrySettings
    max_retry_after_ms: int
    max_unconfirmed: int


class Granted(Message):
    kind: Literal["granted"] = "granted"
    grant: Grant


class Parked(Message):
    kind: Literal["parked"] = "parked"
    hold_id: str
    deadline_at_ms: int
    detail: str


class Denied(Message):
    kind: Literal["denied"] = "denied"
    hold_id: str
    reason: str
    detail: str


class Ended(Message):
    """This hold id is over: ask again with the next one."""

    kind: Literal["ended"] = "ended"
    hold_id: str


class Settled(Message):
    """The hold is posted or voided, now or by an earlier sending of the same command."""

    kind: Literal["settled"] = "settled"
    hold_id: str
    notices: tuple[BudgetNotice, ...] = ()


class UnknownHold(Message):
    """The desk does not know this hold (any more); nothing was posted. `reconcile` shows the difference."""

    kind: Literal["unknown_hold"] = "unknown_hold"
    hold_id: str


class Refused(Message):
    """The desk could not apply this settlement: a defect, not a decision."""

    kind: Literal["refused"] = "refused"
    hold_id: str
    detail: str


ReserveAnswer = Annotated[Granted | Parked | Denied | Ended, Field(discriminator="kind")]
SettleAnswer = Annotated[Settled | UnknownHold | Refused, Field(discriminator="kind")]
Answer = Annotated[Granted | Parked | Denied | Ended | Settled | UnknownHold | Refused, Field(discriminator="kind")]


class CommandBatch(Message):
    commands: Annotated[tuple[Command, ...], FailFast()]


class AnswerBatch(Message):
    answers: tuple[Answer, ...]


# ---------------------------------------------------------------- the desk's outbox


class ParkedAnswer(Message):
    """The end of a parking: the signal `budget_answer` to the call."""

    kind: Literal["answer"] = "answer"
    sequence: int
    call: CallRef
    answer: Annotated[Granted | Denied, Field(discriminator="kind")]


class Withdrawn(Message):
    """A grant that an admin took back: the signal `budget_withdrawn`. Nothing may be sent under this hold any more."""

    kind: Literal["withdrawn"] = "withdrawn"
    sequence: int
    call: CallRef
    hold_id: str
    detail: str


class ExpiredHold(Message):
    """A hold that nobody settled in time: posted at its bound; the database gets its unconfirmed entry."""

    kind: Literal["expired"] = "expired"
    sequence: int
    call: CallRef
    grant: Grant
    settled: bool = False
    """It ended after all, and the entries of its attempts have the cost: a final entry of zero supersedes that one."""


AlertKind = Literal[
    "threshold",
    "exhausted",
    "parked",
    "overage",
    "unconfirmed",
    "unknown_hold",
    "breaker_opened",
    "breaker_closed",
    "refused_message",
    "no_price",
    "queue_full",
    "service_refuses",
    "key_source_down",
    "state_size",
    "clock_jumped",
    "ledger_behind",
    "spending_missing",
    "spending_corrected",
    "config_changed",
    "config_kept",
    "empty_books",
    "price_fell",
]


class Alert(Message):
    """Something that an admin or operator should know of."""

    kind: Literal["alert"] = "alert"
    sequence: int
    at_ms: int
    what: AlertKind
    account: str | None = None
    window: Window | None = None
    text: str
    """A sentence for people."""


class CapChange(Message):
    """A cap that an admin changed, or such a cap that another value of the file ended; a row of `cap_changes`."""

    kind: Literal["cap_change"] = "cap_change"
    sequence: int
    at_ms: int
    account: str
    window: Window
    from_nanos: int | None
    """None: not capped before."""
    to_nanos: int | None
    """None: not capped any more."""
    by_nanos: int | None
    """Of a raise. None: the cap was set."""
    file_nanos: int | None
    """What the configuration said at that time. None: no cap."""
    until_window_end: bool
    who: str
    reason: str
    by_file: bool = added(False)
    """The file's value for this cap changed: what admins did to it before counts no more."""


class ConfigChange(Message):
    """A configuration that came into force; a row of `configurations`, which gets the configuration itself too."""

    kind: Literal["config_change"] = "config_change"
    sequence: int
    at_ms: int
    digest: str
    """Of the file."""
    who: str
    text: str
    """What it changed, cut to length. Empty: it is the first one."""


CallMessage = Annotated[ParkedAnswer | Withdrawn, Field(discriminator="kind")]
"""For one call: a signal to its workflow."""
Notice = Annotated[ExpiredHold | Alert | CapChange | ConfigChange, Field(discriminator="kind")]
"""For the database, the log and the webhook. Never holds up a call."""


class CallMessages(Message):
    """Input of the activity `answer_calls`."""

    messages: tuple[CallMessage, ...]


class Notices(Message):
    """Input of the activity `store_notices`."""

    ledger: str
    epoch: str
    notices: tuple[Notice, ...]
    config: CarriedConfig | None = added(None)
    """The configuration in force, where one of the notices says that it changed."""


class Alerts(Message):
    """Input of the activity `send_alerts`."""

    ledger: str
    epoch: str
    alerts: tuple[Alert, ...]


class Delivery(Message):
    """What became of a batch. An item in neither list stays in the outbox and is sent again."""

    delivered: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()
    """The call no longer exists: its hold is voided."""


# ---------------------------------------------------------------- admins and operators


class Signature(BaseModel):
    """Who gives a command. What is signed, and how, says paymaster/security/signatures.py."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str = Field(max_length=200)
    """The name of the key in `[admin.keys]`; it is kept with the change as who made it."""
    id: str = Field(min_length=1, max_length=64)
    """Each is good for one command."""
    expires_at_ms: int
    value: str = Field(max_length=200)
    """The signature in base64."""


class AdminMessage(BaseModel):
    """What an admin sends, as a signal or as an update of the same name; often by hand, so nothing is guessed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str = Field(default="", max_length=1_000)
    who: str = Field(default="", max_length=200)
    """Of a signed command its signer, whatever is written here."""
    signature: Signature | None = None
    """None: refused where `[admin] require_signature` is set."""


class RaiseCap(AdminMessage):
    """`raise_cap`: adds to a cap. Amounts are US dollars as exact text."""

    account: str = Field(max_length=300)
    """`budget:acme/content` or `service:openai`."""
    window: Window
    by: Annotated[str, Field(coerce_numbers_to_str=True, max_length=100)]
    until_window_end: bool = False
    """The raise lapses when the window ends."""


class SetCap(AdminMessage):
    """`set_cap`: sets a cap, or puts one where there was none."""

    account: str = Field(max_length=300)
    window: Window
    to: Annotated[str, Field(coerce_numbers_to_str=True, max_length=100)]


class PauseService(AdminMessage):
    """`pause_service`: nothing is sent to it until `resume_service`; calls fall back or park."""

    service: str = Field(max_length=300)


class ResumeService(AdminMessage):
    """`resume_service`: ends an admin's pause, a pause that the service asked for, and an open breaker."""

    service: str = Field(max_length=300)


class TakeClock(AdminMessage):
    """`take_clock`: the ledger's time goes back to that of the Temporal server, which was ahead and is right again.

    A signature of it may have expired: by a clock that is ahead every one has.
    """


class AcceptLower(AdminMessage):
    """`accept_lower`: the stored rows of an account are the truth, also where the ledger's books have more."""

    account: str = Field(max_length=300)
    """`budget:acme/content`, `service:openai`, or `all`."""


class CorrectSpend(AdminMessage):
    """`correct_spend`: the rows of a hold that the ledger does not have any more were corrected by a person."""

    hold_id: str = Field(max_length=600)
    budget: str = Field(max_length=300)
    service: str = Field(max_length=300)
    granted_at_ms: int = Field(ge=1)
    from_usd: Annotated[str, Field(coerce_numbers_to_str=True, max_length=100)]
    """What the rows said before."""
    to_usd: Annotated[str, Field(coerce_numbers_to_str=True, max_length=100)]


class ClockState(Message):
    """The answer to `take_clock`."""

    now_ms: int
    """The ledger's time so far; its next run begins with the server's."""


class ReadAgain(Message):
    """The accounts of which the ledger reads again what was spent."""

    accounts: tuple[str, ...]


class StoredRows(Message):
    """The update `compare_rows`: what the database has, for a ledger that may have been put back to an earlier time."""

    latest_granted_ms: int
    """When the newest of the ledger's rows was granted."""


class UnconfirmedHold(Message):
    """A hold of which nobody knows whether it was billed."""

    call: CallRef
    grant: Grant
    posted_nanos: int
    expired: bool
    """Nobody settled it in time."""


class UnconfirmedHolds(Message):
    """The answer to the query `unconfirmed_holds`: one page of them, by hold id."""

    holds: tuple[UnconfirmedHold, ...]
    more: bool


class Upgrade(AdminMessage):
    """The update `upgrade`: the ledger continues as new, by newer rules."""

    rules: int = Field(ge=1)


class Upgraded(Message):
    """The answer to the update `upgrade`."""

    before: int
    """The rules that the ledger goes by until it continues as new."""
    rules: int


class CapState(Message):
    account: str
    window: Window
    cap_nanos: int


class ServiceState(Message):
    service: str
    paused: bool


class WindowStatus(Message):
    window: Window
    cap_nanos: int | None
    """None: not capped; shown because the books are kept for `total` in any case."""
    cap_from: Literal["file", "admin"] = "file"
    posted_nanos: int
    pending_nanos: int
    ends_at_ms: int | None
    """None: never."""
    missing_nanos: int = added(0)
    """Part of what is posted that no stored row has."""


class LimitStatus(Message):
    """A rate limit of an account, and how much of its burst is in use."""

    what: Literal["requests_per_minute", "tokens_per_minute", "max_concurrent"]
    limit: int
    used: int
    """Requests or tokens that have not drained yet; for `max_concurrent`, calls that are running."""


class AccountStatus(Message):
    account: str
    windows: tuple[WindowStatus, ...]
    parked: int
    limits: tuple[LimitStatus, ...] = ()
    loading: bool = False
    """What was spent before is being read from the database; its calls wait."""
    folded: int = added(0)
    """Unconfirmed attempts that the ledger keeps only as a sum; `paymaster unconfirmed list` has each."""
    folded_nanos: int = added(0)
    """At what they are posted."""


class ServiceStatus(Message):
    service: str
    breaker: Literal["closed", "open", "half_open"]
    failures: int
    """In a row."""
    open_until_ms: int | None
    paused_until_ms: int | None
    """A pause that the service asked for. None: none."""
    paused_by: str | None
    """The admin who paused it, and why. None: nobody."""


class WaitingCall(Message):
    """A parked call, for operators."""

    workflow_id: str
    budget: str
    parked_at_ms: int
    deadline_at_ms: int
    detail: str
    """What is in its way."""


class LedgerStart(Message):
    """Input of the budget workflow."""

    ledger: str
    config: CarriedConfig
    """Of a new ledger. With a state only its digest: the state has the configuration in it."""
    state: str | None = None
    """A dump of the desk, carried by continue-as-new. None: an empty desk."""
    who: str = added("")
    """Who brings the configuration."""
    rules: int = added(1, ge=1)
    """By which an empty desk decides; a dump has its own."""


class Configure(Message):
    """The update `configure`."""

    config: CarriedConfig
    force: bool = False
    """Bring back a configuration that was superseded."""
    signature: Signature | None = None
    """Where `[admin] require_signature` is set, a configuration with other caps, budgets or `[admin]` needs one."""
    who: str = added("", max_length=300)
    """Who brings it, and from where, such as "worker on HOST". Of a signed one its signer, whatever is written here."""
    may_remove: bool = added(False)
    """Somebody agreed: budgets, services and caps that it lacks go. Default false, as of a worker: they stay."""


class ConfigState(Message):
    """The answer to the update `configure`."""

    digest: str
    """Of the configuration that is in force."""
    applied: bool
    detail: str
    kept: str = added("")
    """What stays in force although the configuration lacks it, in words, cut to length. Empty: nothing."""
    rules: int = added(1)
    """By which the ledger decides."""


class Configuration(Message):
    """The answer to the query `configuration`: what the ledger decides with."""

    config: CarriedConfig
    """Its digest is that of the file that came last."""
    admin_caps_nanos: dict[str, dict[Window, int]] = {}
    """By account, the caps that an admin changed since the file's value came into force."""
    prices: dict[str, tuple[int, int]] = {}
    """By `service/model`, nano-dollars per million tokens of input and output that the last call was granted with."""
    who: str = ""
    """Who brought it."""


def _packs(adapter: TypeAdapter[Any]) -> tuple[BeforeValidator, WrapSerializer]:
    """As JSON, a list is compressed where it is large: up to `CARRIED_BYTES_MAX`, in a payload of 2 MiB."""

    def read(value: object) -> object:
        if isinstance(value, dict) and "packed" in value:
            return adapter.validate_json(unpack(_PACKED.validate_python(value).packed, CARRIED_BYTES_MAX))
        return cast(object, value)

    def write(value: object, plain: SerializerFunctionWrapHandler) -> object:
        text = adapter.dump_json(value)
        return plain(value) if len(text) <= CONFIG_PLAIN_BYTES_MAX else {"packed": pack(text)}

    return BeforeValidator(read), WrapSerializer(write, when_used="json", return_type=object)


_READ_HOLDS, _WRITE_HOLDS = _packs(TypeAdapter(tuple[str, ...]))
_READ_CHANGES, _WRITE_CHANGES = _packs(TypeAdapter(tuple[CapChange, ...]))


class LoadSpend(Message):
    """Input of the activity `load_spend`."""

    number: int
    ledger: str
    accounts: tuple[str, ...]
    known_holds: Annotated[tuple[str, ...], _READ_HOLDS, _WRITE_HOLDS]
    """Holds that the desk counts itself: their entries are left out."""
    with_cap_changes: bool
    """The ledger began without a state: it needs to know too what admins changed before."""
    window_starts_ms: dict[Window, int]
    latest_ms: int | None = added(None)
    """Rows granted after this time are of a clock that was ahead. None: they count as they say."""
    returned_at_ms: int | None = added(None)
    """When that clock was put back; those rows count as granted then. None: now."""
    epoch: str = added("")
    """The books that ask: cap changes and configurations of their own are left out."""


class LoadedSpend(Message):
    number: int
    """Of the LoadSpend that this answers."""
    posted_nanos: dict[str, dict[Window, int]]
    """By account and window; what is missing is zero."""
    unconfirmed: dict[str, tuple[int, int]] = added({})
    """By account, how many unconfirmed entries are in the total, and their sum in nano-dollars."""
    cap_changes: Annotated[tuple[CapChange, ...], _READ_CHANGES, _WRITE_CHANGES] = ()
    """In the order in which they were made."""
    config: CarriedConfig | None = added(None)
    """The configuration that was last in force. None: none is stored."""
    superseded: tuple[str, ...] = added(())
    """The digests of earlier files that do not come back by themselves."""
    other_ledgers: tuple[str, ...] = added(())
    """Where nothing at all is stored of this ledger: of which ledgers something is."""


class StatusRequest(Message):
    """Argument of the query `status`; without one, its first page."""

    after: str = ""
    """Accounts after this one, in alphabetical order."""
    limit: int = Field(default=1_000, ge=1, le=2_000)
    """The most accounts in one answer: those of 10,000 budgets would not fit."""


class DeskStatus(Message):
    """The answer to the query `status`."""

    ledger: str
    epoch: str
    config_digest: str
    accounts: tuple[AccountStatus, ...]
    more_accounts: bool = False
    """There are further ones after the last of these."""
    holds: int
    parked: int
    outbox: int
    unconfirmed: int
    services: tuple[ServiceStatus, ...] = ()
    waiting: tuple[WaitingCall, ...] = ()
    """The first parked calls, in the order in which they will be served."""
    refused_messages: tuple[str, ...] = ()
    """The latest signals that could not be applied, with the reason."""
    state_bytes: int = added(0)
    """What the ledger's state takes when it continues as new, about. Temporal allows 2 MiB."""
    state_bytes_max: int = added(0)
    """Above it alerts and remembered ends of holds are dropped, and then new calls are denied."""
    ended_dropped: int = added(0)
    """Ends of holds that were forgotten early for that reason."""
    alerts_dropped: int = added(0)
    """Alerts that were not delivered, because too many waited, since the ledger began."""
    now_ms: int = added(0)
    """The ledger's time when it last did something."""
    doubted_until_ms: int = added(0)
    """Until then a jump of the clock is not believed: nothing is denied or expired because its time is over."""
    rules: int = added(1)
    """By which the ledger decides; `paymaster upgrade` moves it to newer ones."""


# ---------------------------------------------------------------- between the call workflow and its activities


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


class Reservation(Message):
    """What the local activity `reserve` answers."""

    answer: ReserveAnswer
    findable: bool = False
    """The namespace has Paymaster's search attributes, so that the call may set them. Here, because what a workflow
    does must follow from its history, and not from the worker that it happens to run on."""


class ServiceCall(Message):
    """Input of the activity `call_service`."""

    grant: Grant
    request: LLMRequest


class Completion(Message):
    """What a service answered."""

    text: str
    parsed: JsonValue = None
    tool_calls: tuple[ToolCall, ...] = ()
    refused: bool = False
    finish_reason: str | None
    attempts: tuple[Attempt, ...]
    """All attempts under this hold; the last one is the one that answered."""


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


class UsageEntry(Message):
    """One immutable row of `api_usage`: an attempt as it ended, or (`unconfirmed`) as it may have ended."""

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


class UsageRecord(Message):
    """Input of the local activity `record_usage`: how the attempts under one hold went."""

    call: CallRef
    grant: Grant
    attempts: tuple[Attempt, ...]
    answered: bool
    """The last attempt was answered."""
    metadata: dict[str, str] = {}


class Deferred(Message):
    """The ledger did not answer; the usage backlog settles as soon as it does."""

    kind: Literal["deferred"] = "deferred"
    hold_id: str


RecordAnswer = Annotated[Settled | UnknownHold | Refused | Deferred, Field(discriminator="kind")]


class BacklogBatch(Message):
    """Signal `add` of the usage backlog, and input of its activity `catch_up`."""

    records: tuple[UsageRecord, ...] = ()
    voids: tuple[str, ...] = ()
    """Hold ids."""


class CaughtUp(Message):
    rejected: tuple[str, ...] = ()
    """Holds whose records the database or the ledger refuses for good."""


class SetAsideSum(Message):
    """Records that are refused for good."""

    records: int = Field(default=0, ge=0)
    cost_nanos: int = Field(default=0, ge=0)

    def __add__(self, other: "SetAsideSum") -> "SetAsideSum":
        return SetAsideSum(records=self.records + other.records, cost_nanos=self.cost_nanos + other.cost_nanos)


class BacklogStart(Message):
    """Input of the usage backlog."""

    ledger: str
    waiting: str | None = None
    """A compressed BacklogBatch, carried by continue-as-new. None: nothing waits."""
    set_aside: tuple[UsageRecord, ...] = ()
    """Records that are refused for good, for a person to look at; without their metadata."""
    set_aside_more: SetAsideSum = added(SetAsideSum())
    """Older ones of that kind, which were too many to be kept."""
    pieces: int = added(0, ge=0)
    """How many workflows that took over a piece of what waited have not ended."""
    pieces_waiting: int = added(0, ge=0)
    """How many records and voids they took over."""


class BacklogPiece(Message):
    """Input of a workflow that takes over a piece of a usage backlog."""

    ledger: str
    waiting: str
    """A compressed BacklogBatch."""


class PieceEnded(Message):
    """Signal `piece_ended` to the usage backlog: a piece is stored and settled."""

    waited: int = Field(ge=0)
    """How many records and voids it took over."""
    set_aside: tuple[UsageRecord, ...] = ()
    set_aside_more: SetAsideSum = SetAsideSum()
