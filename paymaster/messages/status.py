"""What the ledger tells operators and admins about itself."""

from typing import Literal

from pydantic import (
    Field,
)

from paymaster.messages.base import CountsForBudgets, Message, added
from paymaster.messages.commands import CallRef, Grant
from paymaster.messages.config import CarriedConfig, LimitName
from paymaster.values.windows import Window


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


class Upgraded(Message):
    """The answer to the update `upgrade`."""

    before: int
    """The rules that the ledger goes by until it continues as new."""
    rules: int


class CapState(Message):
    account: str
    window: Window
    cap_nanos: int | None
    """None: no cap."""
    version: int = added(0)
    """Of the first copy of the ledger's status that has it. 0: there are no copies."""


class RunState(Message):
    """How a run, or a part of one, stands besides its money, and the answer to `raise_run` and `end_run`."""

    run: str
    """Its path."""
    cap_nanos: int | None
    """None: its money is not limited."""
    calls: int
    """That got a grant."""
    calls_max: int | None
    """None: not limited."""
    began_at_ms: int
    """When its first call was granted; 0: none was."""
    ends_at_ms: int | None
    """None: never, or not known before its first call."""
    ended_by: str = ""
    """The admin who ended it."""
    held: str = ""
    """Why it is held as a runaway. Empty: it is not."""
    version: int = added(0)
    """Of the first copy of the ledger's status that has it. 0: there are no copies, or this is not such an answer."""
    renews: Window | None = added(None)
    """It has money and calls anew in each such window: `cap_nanos`, `calls` and `calls_max` are of the open one."""
    renews_at_ms: int | None = added(None)
    """When the next one begins."""
    lapsing_calls: int = added(0)
    """The part of `calls_max` that an admin added to the open one alone."""


class ServiceState(Message):
    service: str
    paused: bool
    paused_by: str | None = added(None)
    """By whom, and why; after it was resumed, by whom it had been. None: by no admin."""
    version: int = added(0)
    """Of the first copy of the ledger's status that has it. 0: there are no copies."""


class WindowStatus(Message):
    window: Window
    cap_nanos: int | None
    """None: not capped; shown because the books are kept for `total` in any case."""
    cap_from: Literal["file", "admin"] = "file"
    posted_nanos: int
    pending_nanos: int
    ends_at_ms: int | None
    """None: never."""
    began_at_ms: int = added(0)
    """0: with the ledger."""
    missing_nanos: int = added(0)
    """Part of what is posted that no stored row has."""
    let_through: int = added(0)
    """Calls that went on although this cap, which is watched only, had no room for them."""
    lapsing_nanos: int = added(0)
    """The part of the cap that is taken away when the window ends."""
    steps_nanos: dict[int, int] = added({})
    """In a copy, of a rolling window: what was posted, by when its step began."""


class LimitStatus(Message):
    """A rate limit of an account, and how much of its burst is in use."""

    what: LimitName
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
    time_zone: str = added("UTC")
    """In which its days, weeks and months begin."""
    enforced: bool = added(True)
    """False: its caps and limits are watched only."""
    folded: int = added(0)
    """Unconfirmed attempts that the ledger keeps only as a sum; `paymaster unconfirmed list` has each."""
    folded_nanos: int = added(0)
    """At what they are posted."""
    run: RunState | None = added(None)
    """Of a run. None: it is a budget's or a service's."""
    tag: str = added("")
    """In a copy: of what admins decide about it. It is another one when that has changed."""

    @property
    def window_of_run(self) -> WindowStatus:
        """Of a run: the open one where its money is renewed, else that of all time."""
        renews = None if self.run is None else self.run.renews
        return max(self.windows, key=lambda each: (each.window == renews, each.window == "total"))


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
    paused_models: tuple[str, ...] = added(())
    """Models of it that are paused, because their limit was reached."""
    tag: str = added("")
    """In a copy: of what admins decide about it. It is another one when that has changed."""


class WaitingCall(CountsForBudgets, Message):
    """A parked call, for operators."""

    workflow_id: str
    budget: str
    parked_at_ms: int
    deadline_at_ms: int
    detail: str
    """What is in its way."""
    further_budgets: tuple[str, ...] = added(())
    """Others that it counts for."""
    run: str | None = added(None)
    """The path of the run that it counts for. None: none."""


class ShortOf(Message):
    """A cap that has no room for a parked call."""

    account: str
    window: Window


class CopiedCall(Message):
    """A parked call in a copy of the status."""

    hold_id: str
    priority: int
    sequence: int
    """Of those of one priority the smallest is served first."""
    call: WaitingCall
    bound_nanos: int = added(0)
    """What it can cost, where caps have no room for it. 0: money is not what it waits for."""
    short_of: tuple[ShortOf, ...] = added(())
    """The caps that have no room for it, by the candidate that needs least."""


class Configuration(Message):
    """The answer to the query `configuration`: what the ledger decides with."""

    config: CarriedConfig
    """Its digest is that of the file that came last."""
    admin_caps_nanos: dict[str, dict[Window, int]] = {}
    """By account, the caps that an admin changed since the file's value came into force."""
    prices: dict[str, tuple[int, ...]] = {}
    """By `service/model`, the rates that the last call was granted with, as paymaster/admission/price_changes has
    them."""
    who: str = ""
    """Who brought it."""


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
