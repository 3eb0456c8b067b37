"""An account: its caps and its money in each window, and the thresholds at which it alerts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Annotated

from pydantic import PlainSerializer

from paymaster.admission.limiter import Limiter
from paymaster.admission.runs import Run
from paymaster.messages import Window
from paymaster.values.money import NANOS_MAX
from paymaster.values.time_zones import UTC_NAME, Zone
from paymaster.values.windows import STEPS_MS, step_ms, window_ends_ms

UNCAPPED = 2**63
"""Above any amount."""


@dataclass(slots=True)
class Balance:
    """One account's money in one window, as of now."""

    account: str
    window: Window
    cap_nanos: int | None = None
    """What is in force. None: not capped."""
    file_cap_nanos: int | None = None
    """What the configuration said last; a cap that an admin changed stays until the file's own value changes."""
    lapsing_nanos: int = 0
    """The part of the cap that is taken away when the window ends."""
    by_admin: bool = False
    """An admin changed it since the file's value came into force."""
    posted_nanos: int = 0
    pending_nanos: int = 0
    alerted: Annotated[frozenset[str], PlainSerializer(sorted)] = frozenset()
    """What was alerted already in this window. Sorted when dumped: equal states make equal dumps."""
    alert_from_nanos: int = 0
    """The lowest threshold that was not crossed yet, in nano-dollars; looking earlier is harmless."""
    kept_nanos: int = 0
    """While the account loads: what it had posted before, less what the holds here say. Loading never gives less."""
    kept_steps: dict[int, int] | None = None
    """Of a rolling window, what was kept, by step: what leaves the window is kept no more."""
    missing_nanos: int = 0
    """The part of what is posted that no stored row has. It stays until an admin accepts less, or the window ends."""
    steps: dict[int, int] | None = None
    """Of a rolling window: what is posted, by when its step began; it is the sum of these. None: of the calendar."""
    let_through: int = 0
    """Calls that were granted although this cap, which is watched only, had no room for them."""

    def post(self, nanos: int, made_at_ms: int) -> None:
        """Adds what was spent, or takes off, by a hold of that time."""
        self.posted_nanos += nanos
        if self.steps is not None:
            step = step_ms(self.window, made_at_ms)
            self.steps[step] = self.steps.get(step, 0) + nanos

    def load_steps(self, steps: Mapping[int, int], start_ms: int) -> int:
        """Adds what was spent in each step of a rolling window that begins there; the sum of it."""
        counted = {step: nanos for step, nanos in steps.items() if step >= start_ms}
        for step, nanos in counted.items():
            self.post(nanos, step)
        return sum(counted.values())

    def counted_nanos(self, start_ms: int) -> int:
        """What is posted of a rolling window that begins there."""
        return sum(nanos for step, nanos in (self.steps or {}).items() if step >= start_ms)

    def leave_steps_before(self, start_ms: int) -> None:
        """The rolling window begins there now."""
        self.steps = {step: nanos for step, nanos in (self.steps or {}).items() if step >= start_ms}
        self.posted_nanos = sum(self.steps.values())
        if self.kept_steps is not None:
            self.kept_steps = {step: nanos for step, nanos in self.kept_steps.items() if step >= start_ms}
            self.kept_nanos = min(self.kept_nanos, sum(self.kept_steps.values()))

    def keep(self, posted_nanos: int, steps: dict[int, int] | None) -> None:
        """While it loads, what was posted before and is not any more."""
        self.kept_nanos += max(0, posted_nanos - self.posted_nanos)
        if self.steps is not None and steps:
            kept = self.kept_steps or {}
            for step, nanos in steps.items():
                kept[step] = kept.get(step, 0) + max(0, nanos - self.steps.get(step, 0))
            self.kept_steps = kept

    def begin_anew(self) -> None:
        """A window begins, in which nothing was spent."""
        self.posted_nanos = self.pending_nanos = 0
        self.steps = None if self.steps is None else {}


@dataclass(slots=True)
class Account:
    """Every window is kept, capped or not, so that a new cap on any of them is exact from its first moment."""

    key: str
    alert_at: tuple[float, ...]
    balances: dict[Window, Balance]
    limiter: Limiter = field(default_factory=Limiter)
    time_zone: str = UTC_NAME
    """In which its days, weeks and months begin."""
    enforced: bool = True
    """False: its caps and limits are watched only."""
    loading: bool = False
    """What was spent before is being read from the database; until then nothing is granted."""
    folded: int = 0
    """Unconfirmed attempts that are posted here and are no holds any more: their entries keep each of them."""
    folded_nanos: int = 0
    """At what they are posted, of all windows."""
    run: Run | None = None
    """Of a run, or of a part of one: what no budget has."""
    fresh: bool = False
    """It was opened at its first use and has never been loaded: no hold is charged to it."""
    used_minute: int = 0
    """When a call asked for it last, in minutes since 1970, where it is forgotten when nobody does."""

    @property
    def is_on_demand(self) -> bool:
        """Opened at its first use."""
        return self.used_minute > 0

    @property
    def is_changed_by_admin(self) -> bool:
        by_admin = any(balance.by_admin for balance in self.balances.values())
        return by_admin or (self.run is not None and self.run.is_changed_by_admin)

    def rolling(self) -> list[Balance]:
        """Of its rolling windows, which are kept only where they are capped."""
        return [balance for balance in self.balances.values() if balance.steps is not None]

    def newly_crossed(self, balance: Balance) -> tuple[float, ...]:
        """The thresholds of the balance that are reached and were not before; each is told once per window."""
        crossed = tuple(p for p in self.alert_at if str(p) not in balance.alerted and reached(balance, str(p)))
        balance.alerted = balance.alerted.union(map(str, crossed))
        balance.alert_from_nanos = next_threshold(self.alert_at, balance)
        return crossed

    def tell_no_more(self) -> None:
        """What was spent before the account came back into the books has been told then."""
        for balance in self.balances.values():
            if balance.cap_nanos is not None:
                self.newly_crossed(balance)

    def tell_again(self, balance: Balance) -> None:
        """Thresholds that are not reached any more alert again."""
        balance.alert_from_nanos = 0
        parts = map(str, self.alert_at)
        balance.alerted = frozenset(part for part in parts if part in balance.alerted and reached(balance, part))

    def _binding(self) -> Iterable[Balance]:
        return self.balances.values() if self.enforced else ()

    def lowest_cap_nanos(self) -> int:
        """No bound above it fits, ever."""
        return min((b.cap_nanos for b in self._binding() if b.cap_nanos is not None), default=UNCAPPED)

    def unspent_nanos(self) -> int:
        """No bound above it fits before a window ends or a cap is raised; below 0 when more than a cap is spent."""
        caps = ((b.cap_nanos, b) for b in self._binding())
        return min((cap - b.posted_nanos for cap, b in caps if cap is not None), default=UNCAPPED)

    def unspent_millionths(self) -> int:
        """The smallest part of a cap that is unspent, in millionths, rounded down; below 0 when more than a cap is
        spent."""
        caps = ((b.cap_nanos, b) for b in self._binding())
        return min((_unspent_millionths(cap, b) for cap, b in caps if cap is not None), default=UNCAPPED)

    def headroom_nanos(self) -> int:
        """A bound above it does not fit now."""
        caps = ((b.cap_nanos, b) for b in self._binding())
        return min((cap - b.posted_nanos - b.pending_nanos for cap, b in caps if cap is not None), default=UNCAPPED)

    def next_end_ms(self, bound_nanos: int, now_ms: int, zone: Zone) -> int | None:
        """When the first of the windows ends that are in the way of this bound; None if none does."""
        for window, end_ms in window_ends_ms(now_ms, zone):  # when a ledger begins a run, each account is asked
            b = self.balances.get(window)
            if (
                b is not None
                and b.cap_nanos is not None
                and b.posted_nanos + b.pending_nanos + bound_nanos > b.cap_nanos
            ):
                return end_ms
        return None

    def short_until_ms(self, below: int, now_ms: int, zone: Zone) -> int | None:
        """When the first of the windows ends in which fewer millionths of the cap are unspent; None if none does."""
        for window, end_ms in window_ends_ms(now_ms, zone):
            b = self.balances.get(window)
            if b is not None and b.cap_nanos is not None and _unspent_millionths(b.cap_nanos, b) < below:
                return end_ms
        return None


def _unspent_millionths(cap_nanos: int, balance: Balance) -> int:
    """Of its cap, rounded down; below 0 when more is spent."""
    return (cap_nanos - balance.posted_nanos) * 1_000_000 // max(cap_nanos, 1)


def new_balance(account: str, window: Window, cap_nanos: int | None = None) -> Balance:
    """In which nothing was spent."""
    return Balance(account, window, cap_nanos, cap_nanos, steps={} if window in STEPS_MS else None)


@lru_cache(maxsize=1_000)
def first_ahead(parts: tuple[float, ...], alerted: frozenset[str]) -> float | None:
    """The lowest of the thresholds, as parts of a cap, that was not crossed yet."""
    return min((part for part in parts if str(part) not in alerted), default=None)


def next_threshold(parts: tuple[float, ...], balance: Balance) -> int:
    """The lowest threshold that was not crossed yet, in nano-dollars, rounded down."""
    part = first_ahead(parts, balance.alerted)
    return NANOS_MAX if part is None else int(part * (balance.cap_nanos or 0))


def reached(balance: Balance, part: str) -> bool:
    """Whether posted money has reached this part of the cap, exactly as it is written in the configuration."""
    return balance.cap_nanos is not None and balance.posted_nanos >= Decimal(part) * balance.cap_nanos
