"""What an agent gets, and what became of each attempt."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Self

from pydantic import (
    Field,
    JsonValue,
)

from paymaster.messages.base import Message, added
from paymaster.messages.requests import ChatMessage, ProviderState, ToolCall
from paymaster.messages.wire import WireAnswer
from paymaster.values.cost_lines import CostLine
from paymaster.values.money import TokenUsage, nanos_to_usd
from paymaster.values.windows import Window


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
    paid_for: tuple[CostLine, ...] | None = added(None)
    """What the cost was paid for, kind by kind. None: the provider did not say, or the worker was an older one."""


@dataclass(slots=True)
class BudgetNotice:
    """How a capped account stands in one window.

    A dataclass, because the desk makes several for each settlement.
    """

    account: str
    window: Window
    cap_nanos: int
    posted_nanos: int
    pending_nanos: int
    crossed: tuple[float, ...] = ()
    """The alert thresholds that this settlement crossed."""
    ends_at_ms: Annotated[int | None, Field(exclude_if=lambda ends: ends is None)] = None
    """When the window ends and the cap is whole again. None: never; or the ledger is of version 0.1.0."""
    enforced: Annotated[bool, Field(exclude_if=lambda enforced: enforced)] = True
    """False: the cap is watched only, and holds up nobody."""

    @property
    def left_nanos(self) -> int:
        """What is neither posted nor held. Below zero after a bill above its bound, and when a cap was lowered."""
        return self.cap_nanos - self.posted_nanos - self.pending_nanos

    @property
    def left_usd(self) -> Decimal:
        return nanos_to_usd(self.left_nanos)


class Standing(Message):
    """What is left of the money that calls under some budgets may spend, as of one moment."""

    accounts: tuple[BudgetNotice, ...] = ()
    """Each window of each capped account, the one with the least left first."""

    @classmethod
    def of(cls, notices: Iterable[BudgetNotice]) -> Self:
        """Without accounts that are only watched."""
        binding = (notice for notice in notices if notice.enforced)
        return cls(accounts=tuple(sorted(binding, key=lambda notice: notice.left_nanos)))

    @property
    def left_nanos(self) -> int | None:
        """What is left where the least is. None: nothing is capped, or nobody could say."""
        return self.accounts[0].left_nanos if self.accounts else None

    @property
    def left_usd(self) -> Decimal | None:
        return self.accounts[0].left_usd if self.accounts else None


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
    """The answer as data when the request had a `json_schema` and the answer follows it."""
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
    """How the capped accounts of the call stood when its last attempt was settled; of a denied call, those that had no
    room for it, the nearest first."""
    reason: str | None = None
    """When not completed: a word for programs, such as `cap_reached`."""
    detail: str | None = None
    """When not completed: a sentence for people."""
    request_digest: str = ""
    state: ProviderState | None = added(None)
    """What the provider wants back with this answer."""
    schema_problem: str | None = added(None)
    """Where the answer breaks the request's `json_schema`, in words; `text` has it as it came. None: nowhere."""
    wire: WireAnswer | None = added(None)
    """Of a wire call: the answer as the provider wrote it, or the last refusal where none answered. Of any call with
    the reason `answer_too_large`: that answer."""
    money_short: bool = added(False)
    """The model that answered is one of the route's `when_short`: the money was short when it was chosen."""

    def message(self) -> ChatMessage:
        """The answer as the next message of the conversation, with what its provider wants back.

        Raises ValueError when the call was not completed.
        """
        if self.outcome is not Outcome.COMPLETED:
            raise ValueError(f"the call is {self.outcome}: there is no answer to go on from")
        return ChatMessage(role="assistant", content=self.text, tool_calls=self.tool_calls, state=self.state)

    @property
    def may_be_asked_again(self) -> bool:
        """Whether it ended without an answer and nothing was billed, or may have been: its call id is free again."""
        return self.outcome is not Outcome.COMPLETED and self.cost_nanos == 0

    @property
    def standing(self) -> Standing:
        """What was left after this call in each capped account that it counts for, and until when.

        Of a denied call, in those without room for it. Empty where nothing is capped, where something else was in the
        way, and where the ledger did not answer in time.
        """
        return Standing.of(self.budget)

    @property
    def cost_usd(self) -> Decimal:
        return nanos_to_usd(self.cost_nanos)
