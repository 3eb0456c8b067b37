"""The desk's outbox: signals to calls, and notices for the database, the log and the webhook."""

from typing import Annotated, Literal

from pydantic import (
    Field,
)

from paymaster.messages.base import Message, added
from paymaster.messages.commands import CallRef, CountFirst, Denied, Grant, Granted
from paymaster.messages.config import CarriedConfig
from paymaster.values.windows import Window


class ParkedAnswer(Message):
    """The end of a parking: the signal `budget_answer` to the call."""

    kind: Literal["answer"] = "answer"
    sequence: int
    call: CallRef
    answer: Annotated[Granted | Denied | CountFirst, Field(discriminator="kind")]


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
    "books_anew",
    "price_fell",
    "price_changed",
    "watched",
    "accounts_full",
    "run_changed",
    "runaway",
    "cap_changed",
    "service_changed",
    "forecast",
    "anomaly",
]


class RaiseOffer(Message):
    """What approvers may do about an alert: raise the cap of its account in its window, until that ends."""

    cap_nanos: int
    window_ends_at_ms: int
    by_nanos: tuple[int, ...]
    """By one of these."""


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
    offer: RaiseOffer | None = added(None)
    """None: nobody may raise anything because of it."""


class CapChange(Message):
    """A cap that an admin changed or took back, or one that another value of the file ended; a row of `cap_changes`."""

    kind: Literal["cap_change"] = "cap_change"
    sequence: int
    at_ms: int
    account: str
    window: Window
    from_nanos: int | None
    """None: not capped before."""
    to_nanos: int | None
    """None: not capped any more, or, unless it is `by_file`, whatever the configuration says."""
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
