"""Commands of calls to the desk, and its answers."""

from typing import Annotated, Literal

from pydantic import (
    FailFast,
    Field,
)

from paymaster.messages.base import CountsForBudgets, Message, added
from paymaster.messages.config import RetrySettings
from paymaster.messages.results import BudgetNotice, Standing
from paymaster.messages.runs import RunTerms
from paymaster.values.limits import BATCH_ITEMS_MAX
from paymaster.values.money import Price


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
    """The most input tokens beside those that the bytes of the request say: of images, documents and kept thoughts, and
    of other words for it."""
    refused: str | None = None
    """Why no bound can be given for this request here, with the line to add. None: one can."""
    countable: bool = added(False)
    """Where money is in its way, the call wants to be answered CountFirst: its tokens may be far fewer than its
    bytes."""
    counted_tokens: int | None = added(None)
    """The input tokens of the request, as somebody counted them; media and kept thoughts may be counted in. None:
    nobody did, so each byte may be one."""
    shares: bool = added(False)
    """It shares the load with the candidate before it: of those that have room the one that is used least is called.
    False: it is called when none before it has room."""
    weight: int = added(1)
    """How much more of the load it gets than another one that shares it and has the same limits."""
    short_below: int | None = added(None)
    """It is for when the money is short: less than so many millionths of a cap of the call's budgets are unspent, or
    what is unspent has no room for any candidate that is not for that. Such candidates come last in the list, and first
    when less is unspent. None: it is for always."""
    purchase: bool = added(False)
    """It is bought elsewhere: `service` says what, which has no account, limits or breaker of its own."""


class UnconfirmedEntry(CountsForBudgets, Message):
    """The stored entry that a settlement supersedes, for a desk that does not keep its hold any more."""

    budget: str
    service: str
    granted_at_ms: int
    posted_nanos: int = Field(ge=0)
    further_budgets: tuple[str, ...] = added(())
    """Others that it counts for."""
    run: str | None = added(None)
    """The path of the run that it counts for. None: none."""


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


class Reserve(CountsForBudgets, Message):
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
    further_budgets: tuple[str, ...] = added(())
    """Others that it counts for."""
    run: str | None = added(None)
    """The path of the run that it counts for. None: none."""
    run_terms: tuple[RunTerms | None, ...] = added(())
    """What the request asks for its run and for each part below it, outermost first. None: nothing, and nothing for
    those that are not named."""
    digest: str = added("")
    """Of what the call asks for, keyed with its run: tells equal ones in a run apart from others, and nothing else.
    Empty: not known."""
    granted_before: bool = added(False)
    """The call had a grant already, and this one is for a further attempt: a run that counts calls counts it once."""


class Void(Message):
    """pending → nothing: nothing was billed. An unknown id is remembered, so that a late reserve finds it ended."""

    kind: Literal["void"] = "void"
    hold_id: str


class AskStanding(CountsForBudgets, Message):
    """Asks what is left of some budgets, those above them and a run. Only for a ledger of rules 2 and newer: an older
    one cannot read it."""

    kind: Literal["ask_standing"] = "ask_standing"
    hold_id: str = ""
    """It is about no hold."""
    budget: str
    further_budgets: tuple[str, ...] = ()
    run: str | None = None


Command = Annotated[Reserve | Settle | Void | AskStanding, Field(discriminator="kind")]

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
    model: str | None = added(None)
    """The pause is this model's, and others of the service may be called. None: the service's."""


class AttemptReports(Message):
    """Signal `report_attempts`."""

    reports: Annotated[tuple[AttemptReport, ...], Field(max_length=BATCH_ITEMS_MAX), FailFast()]


class Grant(CountsForBudgets, Message):
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
    further_budgets: tuple[str, ...] = added(())
    """Others that it counts for."""
    run: str | None = added(None)
    """The path of the run that it counts for. None: none."""
    counted_tokens: int | None = added(None)
    """The counted input tokens that the bound is made of. None: it is made of bytes."""
    money_short: bool = added(False)
    """The candidate is one for when the money is short."""


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
    in_the_way: tuple[BudgetNotice, ...] = added(())
    """The caps that have no room for the call: its own budget's first, then those above it, and services last."""


class CountFirst(Message):
    """Money is in the way of a candidate that would not be if the request had few tokens: count them, then ask again
    under the same hold id, of which nothing is remembered."""

    kind: Literal["count_first"] = "count_first"
    hold_id: str
    candidate: Candidate
    """Without its price."""


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


class StandingAnswer(Message):
    """What is left, or why that is not known."""

    kind: Literal["standing"] = "standing"
    standing: Standing | None = None
    unknown: str = ""
    """Why there is no standing."""
    passing: bool = False
    """Asked again in a moment, it may be known."""


class Refused(Message):
    """The desk could not apply this settlement: a defect, not a decision."""

    kind: Literal["refused"] = "refused"
    hold_id: str
    detail: str


ReserveAnswer = Annotated[Granted | Parked | Denied | CountFirst | Ended, Field(discriminator="kind")]

SettleAnswer = Annotated[Settled | UnknownHold | Refused, Field(discriminator="kind")]

Answer = Annotated[
    Granted | Parked | Denied | CountFirst | Ended | Settled | UnknownHold | Refused | StandingAnswer,
    Field(discriminator="kind"),
]


class CommandBatch(Message):
    commands: Annotated[tuple[Command, ...], FailFast()]
    sender: str = added("")
    """The name that a process gave itself, by which the ledger counts how many there are. Empty: one that does not wait
    for its turn."""
    was_refused: bool = added(False)
    """Temporal refused an update of this process since its last answer, because too many were in flight."""
    reads_compressed: bool = added(False)
    """The process reads an answer that is compressed."""


class AnswerBatch(Message):
    answers: tuple[Answer, ...]
    next_after_ms: int = added(0)
    """How long this process should wait before its next update. 0: not at all."""
    alone: bool = added(False)
    """No other process has sent of late, so that this one may have two updates in flight."""
    reads_compressed: bool = added(False)
    """The ledger, and whoever may take it over, reads commands that are compressed."""
