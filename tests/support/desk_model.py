"""What must be true of a desk, kept in lists and added up from scratch: it can be checked by eye.

Written without the desk's code, which it is compared with (tests/unit/admission/test_desk_machine.py), but for two of
its times: after how long a call claims, and for how long ends are remembered.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import ceil
from typing import Literal, TypeVar

from paymaster.admission.parked_call import CLAIM_AFTER_MS
from paymaster.admission.settling import REMEMBER_ENDED_MS
from paymaster.messages import (
    Candidate,
    Denied,
    Grant,
    Reserve,
    ServiceStatus,
    Window,
)
from paymaster.values.money import Price
from paymaster.values.windows import WINDOWS

START_MS = int(datetime(2028, 2, 28, 23, 30, tzinfo=UTC).timestamp() * 1000)
"""Half an hour before a leap day."""
SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
HOLD_EXPIRES_AFTER_MS = 15 * MINUTE
BUDGETS = ("acme", "acme/team", "solo")
SERVICES = ("s", "t")
ACCOUNTS = (*(f"budget:{path}" for path in BUDGETS), *(f"service:{name}" for name in SERVICES))
UNIT = 1_000_000
"""Caps and bounds are small multiples of this many nano-dollars, so that they often meet exactly."""
WHOLE = Price(input_nanos=0, output_nanos=1_000 * UNIT, source="test")
ODD = Price(input_nanos=333_333_333, cached_input_nanos=400_000_001, output_nanos=1_000_000_007, source="test")

Place = tuple[str, Window]
Mode = Literal["wait", "fail"]
Verdict = Literal["fits", "perhaps", "held", "gone", "open", "never"]
"""perhaps: its service is being probed after a failure, and only the desk knows by whom."""
T = TypeVar("T")


@dataclass
class HeldMoney:
    grant: Grant
    accounts: tuple[str, ...]
    state: Literal["pending", "unconfirmed", "posted", "voided"] = "pending"
    posted_nanos: int = 0
    expired: bool = False
    settled: bool = False
    """Its call has said what it cost, if only as far as it knew."""
    ended_at_ms: int = 0

    @property
    def runs(self) -> bool:
        """It takes a place among the calls at once."""
        return self.state == "pending" or (self.state == "unconfirmed" and not self.settled)


@dataclass
class Waiting:
    request: Reserve
    arrival: int
    parked_at_ms: int
    busy_since_ms: int | None = None
    """Since when only holds are in its way, as far as was seen."""
    kept: frozenset[str] = frozenset()
    """Accounts that the desk keeps for it from those behind it."""

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
class Model:
    """What must be true of the books and the queue, with nothing remembered that can be computed."""

    now_ms: int = START_MS
    file_caps: dict[Place, int] = field(default_factory=dict[Place, int])
    caps: dict[Place, Cap] = field(default_factory=dict[Place, Cap])
    concurrent_max: dict[str, int] = field(default_factory=dict[str, int])
    watched: frozenset[str] = frozenset()
    """Accounts whose caps and limits hold up nobody."""
    max_parked: int = 0
    loading: bool = False
    """What was spent before is not known yet."""
    began: bool = False
    """What was stored before the desk began is known."""
    earlier: dict[Place, int] = field(default_factory=dict[Place, int])
    """What was spent before the desk began, in the windows in which it began."""
    gates: dict[str, ServiceStatus] = field(default_factory=dict[str, ServiceStatus])
    holds: dict[str, HeldMoney] = field(default_factory=dict[str, HeldMoney])
    queue: list[Waiting] = field(default_factory=list[Waiting])
    over: dict[str, tuple[int, Denied | None]] = field(default_factory=dict[str, tuple[int, Denied | None]])
    """Ids that ended without ever being a hold: when, and with which denial."""
    arrivals: int = 0

    # ------------------------------------------------------------ sums

    def posted(self, account: str, window: Window) -> int:
        is_first = window_name(window, START_MS) == window_name(window, self.now_ms)
        earlier = self.earlier.get((account, window), 0) if is_first else 0
        return earlier + sum(hold.posted_nanos for hold in self._in_window(account, window))

    def pending(self, account: str, window: Window) -> int:
        return sum(hold.grant.bound_nanos for hold in self._in_window(account, window) if hold.state == "pending")

    def running(self, account: str) -> int:
        return sum(hold.runs for hold in self.holds.values() if account in hold.accounts)

    def _in_window(self, account: str, window: Window) -> Iterable[HeldMoney]:
        now = window_name(window, self.now_ms)
        return (
            hold
            for hold in self.holds.values()
            if account in hold.accounts and window_name(window, hold.grant.granted_at_ms) == now
        )

    def cap(self, place: Place) -> int | None:
        cap = self.caps.get(place)
        return None if cap is None else cap.in_force(window_name(place[1], self.now_ms))

    def capped(self, accounts: Iterable[str]) -> list[tuple[str, Window, int]]:
        """The caps that bind."""
        binding = [account for account in accounts if account not in self.watched]
        return [(a, w, cap) for a in binding for w in WINDOWS if (cap := self.cap((a, w))) is not None]

    def limited(self, accounts: Iterable[str]) -> list[tuple[str, int]]:
        """The most calls at once that bind."""
        binding = [account for account in accounts if account not in self.watched]
        return [(a, self.concurrent_max[a]) for a in binding if a in self.concurrent_max]

    # ------------------------------------------------------------ decisions

    def brackets(self, request: Reserve) -> list[list[int]]:
        """The numbers of the candidates in the order of preference; those in one list share the load."""
        candidates = request.candidates
        brackets: list[list[int]] = []
        for number, candidate in enumerate(candidates):
            if candidate.shares and number and candidates[number - 1].short_below == candidate.short_below:
                brackets[-1].append(number)
            else:
                brackets.append([number])
        return sorted(brackets, key=lambda bracket: not self.is_first(request, candidates[bracket[0]]))

    def is_first(self, request: Reserve, candidate: Candidate) -> bool:
        """Whether it is one for when the money is short, and so little is unspent."""
        below = Fraction(-1 if candidate.short_below is None else candidate.short_below, 1_000_000)
        capped = self.capped(account for account in charged(request.budgets, "") if account != "service:")
        parts = [Fraction(cap - self.posted(a, w), cap) if cap else Fraction(0) for a, w, cap in capped]
        return candidate.short_below is not None and any(part < below for part in parts)

    def lacks_money(self, request: Reserve) -> bool:
        """Whether what is unspent has no room for those that are asked before the ones for when money is short."""
        asked = [c for c in request.candidates if c.short_below is None or self.is_first(request, c)]
        verdicts = [(candidate, self.verdict(request, candidate)) for candidate in asked]
        possible = [verdict for _, verdict in verdicts if verdict != "never"]
        too_large = any(
            bound_of(request, candidate) > cap
            for candidate, verdict in verdicts
            if verdict == "never" and candidate.price is not None and candidate.service in SERVICES
            for _, _, cap in self.capped(charged(request.budgets, candidate.service))
        )
        return set(possible) <= {"gone"} and (bool(possible) or too_large)

    def verdict(self, request: Reserve, candidate: Candidate) -> Verdict:
        accounts = charged(request.budgets, candidate.service)
        all_are_paths = all(all(budget.split("/")) for budget in request.budgets)
        if candidate.price is None or candidate.service not in SERVICES or not all_are_paths:
            return "never"
        if any(len(charged((budget,), candidate.service)) < 2 for budget in request.budgets):
            # Until everything stored is known, there may be such a budget.
            return "never" if self.began else "held"
        if self.loading:
            return "held"
        is_spare = candidate.short_below is not None and not self.is_first(request, candidate)
        if is_spare and not self.lacks_money(request):
            return "never"
        bound = bound_of(request, candidate)
        capped = [(self.posted(a, w), self.pending(a, w), cap) for a, w, cap in self.capped(accounts)]
        if any(bound > cap for _, _, cap in capped):
            return "never"
        if any(posted + bound > cap for posted, _, cap in capped):
            return "gone"
        if any(posted + pending + bound > cap for posted, pending, cap in capped):
            return "held"
        gate = self.gates[candidate.service]
        if gate.paused_by is not None or (gate.paused_until_ms or 0) > self.now_ms:
            return "held"
        if gate.open_until_ms is not None and self.now_ms < gate.open_until_ms:
            return "open"
        if any(self.running(a) >= most for a, most in self.limited(accounts)):
            return "held"
        return "fits" if gate.open_until_ms is None else "perhaps"

    def verdicts(self, request: Reserve) -> list[Verdict]:
        return [self.verdict(request, candidate) for candidate in request.candidates]

    def busy_candidates(self, request: Reserve) -> list[Candidate]:
        return [c for c in request.candidates if self.verdict(request, c) in ("held", "fits", "perhaps")]

    def may_be_shut(self, request: Reserve) -> bool:
        """Whether the desk may have seen only open breakers, before somebody behind took money that it needs, too."""
        gates = [self.gates[candidate.service] for candidate in self.busy_candidates(request)]
        return all(gate.open_until_ms is not None and self.now_ms < gate.open_until_ms for gate in gates)

    def is_in_the_way_of(self, ahead: Waiting, other: Candidate, request: Reserve, candidate: Candidate) -> bool:
        """Whether this call could take money that the one ahead needs for its own candidate."""
        both_bounds = bound_of(ahead.request, other) + bound_of(request, candidate)
        wanted = charged(request.budgets, candidate.service)
        return any(
            self.posted(account, window) + self.pending(account, window) + both_bounds > cap
            for account, window, cap in self.capped(charged(ahead.request.budgets, other.service))
            if account in wanted
        )

    def may_be_claimed(self, request: Reserve, candidate: Candidate, arrival: int) -> bool:
        """Whether a call ahead has waited so long for holds that what it needs may be kept for it."""
        return any(
            self.is_in_the_way_of(ahead, other, request, candidate)
            for ahead in self.queue
            if ahead.is_ahead_of(request, arrival) and self.now_ms >= ahead.parked_at_ms + CLAIM_AFTER_MS
            for other in self.busy_candidates(ahead.request)
        )

    def use(self, request: Reserve, numbers: Iterable[int]) -> dict[int, Fraction]:
        """How much these candidates, which share the load, are used for the weight of their services."""
        of = {number: request.candidates[number] for number in numbers}
        limited = all(f"service:{candidate.service}" in self.concurrent_max for candidate in of.values())
        return {
            number: Fraction(
                self.running(f"service:{candidate.service}"),
                (self.concurrent_max[f"service:{candidate.service}"] if limited else 1)
                * sum(other.weight for other in of.values() if other.service == candidate.service),
            )
            for number, candidate in of.items()
        }

    def open_candidates(self, request: Reserve, arrival: int) -> list[int]:
        """Those that fit now and that nobody ahead can have claimed."""
        return [
            number
            for number, candidate in enumerate(request.candidates)
            if self.verdict(request, candidate) == "fits" and not self.may_be_claimed(request, candidate, arrival)
        ]

    def is_recent(self, at_ms: int) -> bool:
        return self.now_ms - at_ms < REMEMBER_ENDED_MS

    def go_back(self, to_ms: int) -> None:
        """The clock was ahead: what happened meanwhile happened now."""
        for (_, window), cap in self.caps.items():
            now, then = window_name(window, self.now_ms), window_name(window, to_ms)
            cap.lapsing = [(then, by) for name, by in cap.lapsing if name == now]
        for hold in self.holds.values():
            expires_at_ms = min(hold.grant.expires_at_ms, to_ms + HOLD_EXPIRES_AFTER_MS)
            granted_at_ms = min(hold.grant.granted_at_ms, to_ms)
            hold.grant = hold.grant.model_copy(update={"granted_at_ms": granted_at_ms, "expires_at_ms": expires_at_ms})
            hold.ended_at_ms = min(hold.ended_at_ms, to_ms)
        for waiting in self.queue:
            ahead_ms = max(0, waiting.request.asked_at_ms - to_ms)
            deadline_at_ms = waiting.request.deadline_at_ms - ahead_ms
            waiting.request = waiting.request.model_copy(update={"deadline_at_ms": deadline_at_ms})
            waiting.parked_at_ms = min(waiting.parked_at_ms, to_ms)
            waiting.busy_since_ms = None if waiting.busy_since_ms is None else min(waiting.busy_since_ms, to_ms)
        self.over = {hold_id: (min(at_ms, to_ms), denied) for hold_id, (at_ms, denied) in self.over.items()}
        self.now_ms, self.loading = to_ms, True


def window_name(window: Window, at_ms: int) -> str:
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    if window == "week":
        return at.strftime("%G-W%V")
    letters = {"minute": 16, "hour": 13, "day": 10, "month": 7, "total": 0}[window]
    return at.isoformat()[:letters]


def charged(budgets: Sequence[str], service: str) -> tuple[str, ...]:
    inside = [path for path in BUDGETS if any(f"{budget}/".startswith(f"{path}/") for budget in budgets)]
    return (*(f"budget:{path}" for path in inside), f"service:{service}")


def bound_of(request: Reserve, candidate: Candidate) -> int:
    price = candidate.price
    if price is None:
        return 0
    dearest = max(price.input_nanos, price.cached_input_nanos or 0)
    exact = (request.input_bytes + 1024) * dearest + candidate.max_output_tokens * price.output_nanos
    return ceil(Fraction(exact, 1_000_000))


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
    return int(end.timestamp()) * 1000
