"""What happens at a desk, as its reference model knows it: holds, calls that wait, caps, runs, the configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Literal, TypeVar

from paymaster.messages import ApproverConfig, Candidate, Grant, Reserve, RunawayTerms, RunTerms, Window
from paymaster.values.money import Price
from paymaster.values.windows import WINDOWS

START_MS = int(datetime(2028, 2, 28, 23, 30, tzinfo=UTC).timestamp() * 1000)
"""Half an hour before a leap day."""
EARLIER_MS = 20 * 3_600_000
"""How long before that there was spending in rolling windows."""
SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
HOLD_EXPIRES_AFTER_MS = 15 * MINUTE
SERVICES = ("s", "t")
ACCOUNTS = (*(f"budget:{path}" for path in ("acme", "acme/team", "solo")), *(f"service:{name}" for name in SERVICES))
"""Those that every configuration names."""
TEMPLATE = "budget:acme/users/*"
NAMES = ("budget:acme/users/ann", "budget:acme/users/bob", "budget:acme/users/cy")
"""For which the template stands, where a configuration has it and no table of their own."""
UNIT = 1_000_000
"""Caps and bounds are small multiples of this many nano-dollars, so that they often meet exactly."""
WHOLE = Price(input_nanos=0, output_nanos=1_000 * UNIT, source="test")
HALF = Price(input_nanos=0, output_nanos=500 * UNIT, source="test")
ODD = Price(input_nanos=333_333_333, cached_input_nanos=400_000_001, output_nanos=1_000_000_007, source="test")

Place = tuple[str, Window]
Mode = Literal["wait", "fail"]
Verdict = Literal["fits", "perhaps", "held", "stopped", "gone", "open", "never"]
"""perhaps: its service is being probed after a failure, and only the desk knows by whom. stopped: until an admin lets
its run go on."""
T = TypeVar("T")


@dataclass
class HeldMoney:
    grant: Grant
    accounts: tuple[str, ...]
    state: Literal["pending", "unconfirmed", "posted", "voided"] = "pending"
    posted_nanos: int = 0
    expired: bool = False
    bought: bool = False
    """It is no call, but a purchase."""
    settled: bool = False
    """Its call has said what it cost, if only as far as it knew."""
    failed: bool = False
    """It was told of a failed attempt, of which there is an entry."""
    ended_at_ms: int = 0

    @property
    def was_used(self) -> bool:
        """Something was sent, or will be: its call counts for its run."""
        return self.state != "voided" or self.failed

    @property
    def is_open(self) -> bool:
        """The desk counts it itself, and not the stored entries."""
        return self.state in ("pending", "unconfirmed")

    @property
    def is_unsettled(self) -> bool:
        """Nobody has said what it cost, or that it was not used."""
        return self.state == "pending" or (self.state == "unconfirmed" and not self.settled)

    @property
    def runs(self) -> bool:
        """It takes a place among the calls at once."""
        return self.is_unsettled and not self.bought


@dataclass
class Waiting:
    request: Reserve
    arrival: int
    parked_at_ms: int
    busy_since_ms: int | None = None
    """Since when only holds are in its way, as far as was seen."""
    kept: frozenset[str] = frozenset()
    """Accounts that the desk keeps for it from those behind it, as long as only holds are in its way."""
    claims: frozenset[str] = frozenset()
    """Accounts that the desk says it keeps."""
    counts: bool = False
    """It was told to count its tokens, and has not asked again."""

    def is_ahead_of(self, request: Reserve, arrival: int) -> bool:
        return (-self.request.priority, self.arrival) < (-request.priority, arrival)


@dataclass
class Cap:
    nanos: int
    lapsing: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """Raises that hold in one window only: its name, and by how much."""

    def in_force(self, name: str) -> int:
        return self.nanos + sum(by for window, by in self.lapsing if window == name)


@dataclass
class GivenRaise:
    """What an approver raised a cap by."""

    by: str
    nonce: str
    nanos: int
    at_ms: int


@dataclass
class Part:
    """A run, or a part of one, that has an account."""

    asked: RunTerms | None = None
    """The first limits that one of its calls named."""
    budgets: frozenset[str] = frozenset()
    """Accounts of budgets whose limits for each run hold for it."""
    more_calls: int = 0
    more_in: dict[tuple[Window, str], int] = field(default_factory=dict[tuple[Window, str], int])
    """By window and its name, the calls that admins added to that one alone."""
    more_ms: int = 0
    ended: bool = False
    held: bool = False
    """It is a runaway, and waits for an admin."""
    asked_for: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """What its calls asked for, and when they got their first grants, since it began or was let go on."""
    granted_ms: tuple[int, ...] = ()
    """When its calls got grants: those on hold when it got its account, and all later ones, also if given back."""

    @property
    def is_changed(self) -> bool:
        return bool(self.more_calls or self.more_ms or self.ended or self.held)


@dataclass(frozen=True)
class File:
    """A configuration, as far as it is about money and calls at once."""

    caps_nanos: Mapping[Place, int] = field(default_factory=dict[Place, int])
    concurrent_max: Mapping[str, int] = field(default_factory=dict[str, int])
    per_run: Mapping[str, RunTerms] = field(default_factory=dict[str, RunTerms])
    """By budget's account or template, what each run may take."""
    runaway: Mapping[str, RunawayTerms] = field(default_factory=dict[str, RunawayTerms])
    """Likewise, when each run is held."""
    watched: frozenset[str] = frozenset()
    """Accounts, or the template, whose caps and limits hold up nobody."""
    tables: frozenset[str] = frozenset()
    """Of the names those with a table of their own, and the template where there is one."""
    max_parked: int = 100
    approvers: Mapping[str, ApproverConfig] = field(default_factory=dict[str, ApproverConfig])

    def table_of(self, account: str) -> str | None:
        """The account or the template that says everything of this account. None: nothing does."""
        if account in ACCOUNTS or account in self.tables:
            return account
        return TEMPLATE if account in NAMES and TEMPLATE in self.tables else None

    def cap(self, place: Place) -> int | None:
        table = self.table_of(place[0])
        return None if table is None else self.caps_nanos.get((table, place[1]))

    def limits_runs(self, account: str) -> RunTerms | None:
        """What the account allows each run; nothing that limits it where it only says when a run is held."""
        table = self.table_of(account) or ""
        return self.per_run.get(table, RunTerms() if table in self.runaway else None)

    def runaway_of(self, account: str) -> RunawayTerms:
        return self.runaway.get(self.table_of(account) or "", RunawayTerms())


ROLLING: Mapping[Window, tuple[int, int]] = {"24h": (24 * HOUR, HOUR), "7d": (168 * HOUR, 6 * HOUR)}
"""How far back they reach, and in what steps."""
PLACES: tuple[Window, ...] = (*WINDOWS, *ROLLING)
"""Windows that are capped."""


def counts(window: Window, at_ms: int, now_ms: int) -> bool:
    """Whether what was granted then is in the window of now: in a rolling one, while any moment of its step is."""
    if window not in ROLLING:
        return window_name(window, at_ms) == window_name(window, now_ms)
    length_ms, step_ms = ROLLING[window]
    return (at_ms // step_ms + 1) * step_ms > now_ms - length_ms


@lru_cache(maxsize=10_000)
def window_name(window: Window, at_ms: int) -> str:
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    if window == "week":
        return at.strftime("%G-W%V")
    letters = {"minute": 16, "hour": 13, "day": 10, "month": 7}.get(window, 0)
    return at.isoformat()[:letters]


def levels(path: str | None) -> list[str]:
    """The path and what is above it, nearest first."""
    parts = [] if path is None else path.split("/")
    return ["/".join(parts[:number]) for number in range(len(parts), 0, -1)]


@lru_cache(maxsize=10_000)
def charged(budgets: tuple[str, ...], service: str | None = None, run: str | None = None) -> tuple[str, ...]:
    """All names that a call counts for, whether they have accounts or not."""
    paths = dict.fromkeys(path for budget in budgets for path in levels(budget))
    services = () if service is None else (f"service:{service}",)
    return (*(f"budget:{path}" for path in paths), *services, *(f"run:{path}" for path in levels(run)))


def charged_by(request: Reserve) -> tuple[str, ...]:
    """Whichever of its candidates is called."""
    return charged(request.budgets, None, request.run)


def bound_of(request: Reserve, candidate: Candidate, tokens: int) -> int:
    """What it can cost with so many tokens of text."""
    price = candidate.price
    if price is None:
        return 0
    dearest = max(price.input_nanos, price.cached_input_nanos or 0)
    exact = (tokens + 1024) * dearest + candidate.max_output_tokens * price.output_nanos
    return ceil(Fraction(exact, 1_000_000)) + price.request_nanos


def next_end_ms(window: Window, now_ms: int) -> int:
    now = datetime.fromtimestamp(now_ms // 1000, UTC)
    match window:
        case "minute":
            end = now.replace(second=0) + timedelta(minutes=1)
        case "hour":
            end = now.replace(minute=0, second=0) + timedelta(hours=1)
        case "day":
            end = now.replace(hour=0, minute=0, second=0) + timedelta(days=1)
        case "week":
            end = now.replace(hour=0, minute=0, second=0) + timedelta(days=8 - now.isoweekday())
        case "month" | "total":
            first = now.replace(day=1, hour=0, minute=0, second=0)
            end = first.replace(month=now.month % 12 + 1, year=now.year + now.month // 12)
        case _:
            raise ValueError(window)
    return int(end.timestamp()) * 1000


def counted(request: Reserve, candidate: Candidate) -> tuple[Candidate, ...]:
    """The candidates of the call, of which it has counted one: four bytes were a token."""
    count = {"countable": False, "counted_tokens": request.input_bytes // 4}
    is_it = [each.model_copy(update={"price": None}) == candidate for each in request.candidates]
    return tuple(
        each.model_copy(update=count) if same else each for each, same in zip(request.candidates, is_it, strict=True)
    )
