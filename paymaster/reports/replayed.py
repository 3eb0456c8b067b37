"""What a replay is given and what it tells: stored holds, and the calls that caps and limits would have held up."""

from dataclasses import dataclass, field
from typing import NamedTuple

from paymaster.calls.purchases import PURCHASE
from paymaster.messages import LimitName, Window

WINDOWS_KEPT = 100
"""Windows of one cap that are told one by one, the first ones."""


@dataclass(frozen=True, slots=True)
class StoredHold:
    """A hold as its rows tell of it. Times are in milliseconds since the epoch."""

    call_id: str
    budgets: tuple[str, ...]
    """Those that the call named, its own one first."""
    service: str
    model: str
    granted_at_ms: int
    cost_nanos: int
    tokens: int
    """Input and output of all attempts, as far as services said."""
    run: str | None
    """The path of the run that it counts for. None: none."""
    attempts_ended_ms: tuple[int, ...]
    """When its attempts ended, in order. Empty: nobody knows of any."""

    @property
    def is_purchase(self) -> bool:
        return self.model == PURCHASE


class Call(NamedTuple):
    granted_at_ms: int
    call_id: str
    cost_nanos: int


class Span(NamedTuple):
    """A window of the calendar."""

    began_at_ms: int
    ends_at_ms: int | None
    """None: it never ends."""


class Obstacle(NamedTuple):
    """A cap or a limit that has no room for one call."""

    account: str
    what: Window | LimitName
    most: int
    """The cap in nano-dollars, or the limit."""
    wait_ms: int | None
    """Until the window ends, or the rate leaves room. None: nobody can say."""
    said_by: tuple[str, ...]
    """The accounts whose configuration says it."""
    window: Span | None = None
    """None: it is a limit."""
    never_fits: bool = False
    """The call costs more than the whole cap."""


class Refusal(NamedTuple):
    """Why a call got no hold of a desk that only watches its budgets: of no cap or limit of theirs."""

    reason: str
    """A word for programs."""
    detail: str
    waits: bool
    """It would have waited, unless it wants to be denied then. False: it would have been denied."""


@dataclass(slots=True)
class InWindow:
    window: Span
    first: Call
    calls: int = 0
    cost_nanos: int = 0


@dataclass(slots=True)
class HeldUp:
    """The calls for which one cap or limit had no room."""

    account: str
    what: Window | LimitName
    most: int
    """The cap in nano-dollars, or the limit."""
    enforced: bool
    """False: the configuration only watches it, and the calls would have gone on."""
    first: Call
    calls: int = 0
    cost_nanos: int = 0
    never_fit: int = 0
    """Of them, those that cost more than the whole cap."""
    longest_ms: int | None = None
    """The longest wait. None: nobody can say."""
    windows: int = 0
    """In how many windows such calls were. 0: it is a limit."""
    by_window: list[InWindow] = field(default_factory=list[InWindow])
    """The first `WINDOWS_KEPT` of them."""
    _newest: Span | None = None

    def add(self, obstacle: Obstacle, call: Call) -> None:
        """One more call, granted no earlier than those before."""
        self.calls += 1
        self.cost_nanos += call.cost_nanos
        self.never_fit += obstacle.never_fits
        if obstacle.wait_ms is not None:
            self.longest_ms = max(self.longest_ms or 0, obstacle.wait_ms)
        if obstacle.window is not None:
            self._add_to_window(obstacle.window, call)

    def _add_to_window(self, window: Span, call: Call) -> None:
        if window != self._newest:
            self._newest = window
            self.windows += 1
            if self.windows <= WINDOWS_KEPT:
                self.by_window.append(InWindow(window, call))
        if self.windows <= WINDOWS_KEPT:
            self.by_window[-1].calls += 1
            self.by_window[-1].cost_nanos += call.cost_nanos


@dataclass(slots=True)
class Totals:
    """Calls, each once, and what they did cost."""

    calls: int = 0
    cost_nanos: int = 0
    held_up: int = 0
    """They would have waited, or been denied, as each of them asks for."""
    held_up_nanos: int = 0
    denied: int = 0
    """They would have been denied, whatever they ask for."""
    denied_nanos: int = 0

    def add(self, call: Call, *, held_up: bool, denied: bool) -> None:
        """`denied` counts where both are true."""
        self.calls += 1
        self.cost_nanos += call.cost_nanos
        if denied:
            self.denied += 1
            self.denied_nanos += call.cost_nanos
        elif held_up:
            self.held_up += 1
            self.held_up_nanos += call.cost_nanos


@dataclass(slots=True)
class Refusals:
    """Calls that got no hold for one reason."""

    detail: str
    """Of the first."""
    first: Call
    calls: int = 0
