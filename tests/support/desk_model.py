"""What must be true of a desk, kept in lists and added up from scratch: it can be checked by eye.

Written without the desk's code, which it is compared with (tests/unit/admission/test_desk_machine.py), but for two of
its times: after how long a call claims, and for how long ends are remembered.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Literal, TypeVar

from paymaster.admission.parked_call import CLAIM_AFTER_MS
from paymaster.admission.settling import REMEMBER_ENDED_MS
from paymaster.messages import (
    Candidate,
    Denied,
    Grant,
    Reserve,
    RunTerms,
    ServiceStatus,
    Window,
)
from paymaster.values.money import Price
from paymaster.values.windows import WINDOWS

START_MS = int(datetime(2028, 2, 28, 23, 30, tzinfo=UTC).timestamp() * 1000)
"""Half an hour before a leap day."""
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
    """Accounts that the desk keeps for it from those behind it, as long as only holds are in its way."""
    claims: frozenset[str] = frozenset()
    """Accounts that the desk says it keeps."""

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
class Part:
    """A run, or a part of one, that has an account."""

    asked: RunTerms | None = None
    """The first limits that one of its calls named."""
    budgets: frozenset[str] = frozenset()
    """Accounts of budgets whose limits for each run hold for it."""
    more_calls: int = 0
    more_ms: int = 0
    ended: bool = False
    granted_ms: tuple[int, ...] = ()
    """When its calls got grants since it has its account, those that gave them back included."""

    @property
    def is_changed(self) -> bool:
        return bool(self.more_calls or self.more_ms or self.ended)


@dataclass(frozen=True)
class File:
    """A configuration, as far as it is about money and calls at once."""

    caps_nanos: Mapping[Place, int] = field(default_factory=dict[Place, int])
    concurrent_max: Mapping[str, int] = field(default_factory=dict[str, int])
    per_run: Mapping[str, RunTerms] = field(default_factory=dict[str, RunTerms])
    """By budget's account or template, what each run may take."""
    watched: frozenset[str] = frozenset()
    """Accounts, or the template, whose caps and limits hold up nobody."""
    tables: frozenset[str] = frozenset()
    """Of the names those with a table of their own, and the template where there is one."""
    max_parked: int = 100

    def table_of(self, account: str) -> str | None:
        """The account or the template that says everything of this account. None: nothing does."""
        if account in ACCOUNTS or account in self.tables:
            return account
        return TEMPLATE if account in NAMES and TEMPLATE in self.tables else None

    def cap(self, place: Place) -> int | None:
        table = self.table_of(place[0])
        return None if table is None else self.caps_nanos.get((table, place[1]))

    def limits_runs(self, account: str) -> RunTerms | None:
        return self.per_run.get(self.table_of(account) or "")


@dataclass
class Model:
    """What must be true of the books and the queue, with nothing remembered that can be computed."""

    now_ms: int = START_MS
    file: File = field(default_factory=File)
    changed: dict[Place, Cap] = field(default_factory=dict[Place, Cap])
    """Caps that an admin changed since the file's value came into force."""
    open: frozenset[str] = frozenset()
    """The accounts in the books. Of those that nobody named the desk alone decides when they go."""
    accounts_max: int = 12_000
    """Where so many are open, no further name or run gets an account."""
    loading: set[str] = field(default_factory=set[str])
    """Accounts of which it is not known yet what was spent before."""
    used_ms: dict[str, int] = field(default_factory=dict[str, int])
    """When a call asked for an account last."""
    parts: dict[str, Part] = field(default_factory=dict[str, Part])
    """Runs and their parts that have accounts, by path."""
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
        cap = self.changed.get(place)
        return self.cap_unchanged(place) if cap is None else cap.in_force(window_name(place[1], self.now_ms))

    def cap_unchanged(self, place: Place) -> int | None:
        """What it would be if no admin had changed it."""
        account, window = place
        if account.startswith("run:"):
            return self.terms(account).usd_nanos if window == "total" else None
        return self.file.cap(place)

    def capped(self, accounts: Iterable[str]) -> list[tuple[str, Window, int]]:
        """The caps that bind."""
        binding = [account for account in accounts if account in self.open and not self.is_watched(account)]
        return [(a, w, cap) for a in binding for w in WINDOWS if (cap := self.cap((a, w))) is not None]

    def limited(self, accounts: Iterable[str]) -> list[tuple[str, int]]:
        """The most calls at once that bind."""
        tables = [(account, self.file.table_of(account)) for account in accounts if not self.is_watched(account)]
        return [
            (a, self.file.concurrent_max[table]) for a, table in tables if table and table in self.file.concurrent_max
        ]

    def is_watched(self, account: str) -> bool:
        part = self.parts.get(account.removeprefix("run:"))
        if part is not None:
            limiting = [budget for budget in part.budgets if self.file.limits_runs(budget)]
            return part.asked is None and bool(limiting) and all(map(self.is_watched, limiting))
        return self.file.table_of(account) in self.file.watched

    # ------------------------------------------------------------ accounts that nobody named

    def may_go(self, account: str) -> bool:
        """Whether nothing is lost when this account leaves the books: its name comes back with what is stored."""
        held = any(hold.is_open and account in hold.accounts for hold in self.holds.values())
        waited_for = any(account in charged_by(waiting.request) for waiting in self.queue)
        by_admin = any(changed == account for changed, _ in self.changed)
        return not (held or waited_for or by_admin or account in self.loading or self.stays(account))

    def stays(self, account: str) -> bool:
        """Whether it is there whoever uses it."""
        part = self.parts.get(account.removeprefix("run:"))
        others = any(p[0] == account and self.cap(p) != self.cap_unchanged(p) for p in self.changed)
        return others or (part is not None and part.is_changed) or self.file.table_of(account) == account

    def before_all(self, request: Reserve) -> Verdict:
        """What is in the way of a call whichever of its candidates is called: held, where an account that it needs is
        not in the books; never, where its run was given other limits before, or none of its services is known."""
        if all(candidate.service not in SERVICES for candidate in request.candidates):
            return "never"
        if any(self.file.table_of(account) and account not in self.open for account in charged_by(request)):
            return "held"
        for path, asked, needed in self._parts_of(request):
            part = self.parts.get(path)
            if part is None and needed:
                return "held"
            if part is not None and self._differs(part, asked):
                return "never"
        return "fits"

    def is_missing(self, request: Reserve) -> bool:
        """Whether it needs an account that is not in the books."""
        return self.before_all(request) == "held"

    def _parts_of(self, request: Reserve) -> Iterator[tuple[str, RunTerms | None, bool]]:
        """Of the run and its parts, outermost first: the path, what the call asks for it, and whether that needs an
        account."""
        limiting = bool(self._limiting(request))
        for number, path in enumerate(reversed(levels(request.run))):
            asked = request.run_terms[number] if number < len(request.run_terms) else None
            yield path, asked, asked is not None or (limiting and number == 0)

    def _limiting(self, request: Reserve) -> frozenset[str]:
        return frozenset(account for account in charged_by(request) if self.file.limits_runs(account))

    # ------------------------------------------------------------ runs

    def take_part(self, request: Reserve) -> None:
        """What a call that the desk looks at says of its run: the first limits stand, and each budget adds its own."""
        if any(self.file.table_of(account) and account not in self.open for account in charged_by(request)):
            return
        limiting = self._limiting(request)
        for path, asked, needed in self._parts_of(request):
            place: Place = (f"run:{path}", "total")
            part = self.parts.get(path)
            if part is None and needed:
                return  # it waits for room
            if part is not None:
                if self._differs(part, asked):
                    return
                before = self.cap_unchanged(place)
                part.asked, part.budgets = part.asked or asked, part.budgets | limiting
                if self.cap_unchanged(place) != before:
                    self.changed.pop(place, None)
            limiting = frozenset[str]()

    def _differs(self, part: Part, asked: RunTerms | None) -> bool:
        return asked is not None and part.asked is not None and asked != part.asked

    def terms(self, account: str) -> RunTerms:
        """The lowest of what limits a run that has an account, of budgets that are watched only where nothing else
        does."""
        part = self.parts.get(account.removeprefix("run:"), Part())
        counted = [budget for budget in part.budgets if self.is_watched(account) or not self.is_watched(budget)]
        every = [part.asked, *(self.file.limits_runs(budget) for budget in counted)]
        return RunTerms(
            usd_nanos=min((e.usd_nanos for e in every if e and e.usd_nanos is not None), default=None),
            calls=min((e.calls for e in every if e and e.calls is not None), default=None),
            lasts_ms=min((e.lasts_ms for e in every if e and e.lasts_ms is not None), default=None),
        )

    def calls(self, path: str) -> int:
        """How many calls of the run got grants, by whichever of their attempts."""
        return len({hold.grant.hold_id.partition("/")[0] for hold in self.used_by(path)})

    def used_by(self, path: str) -> list[HeldMoney]:
        account = f"run:{path}"
        return [hold for hold in self.holds.values() if account in hold.accounts and hold.was_used]

    def calls_max(self, path: str) -> int | None:
        most = self.terms(path).calls
        return None if most is None else most + self.parts[path].more_calls

    def ends_ms(self, path: str) -> int | None:
        part, lasts_ms = self.parts[path], self.terms(path).lasts_ms
        grants = [*part.granted_ms, *(hold.grant.granted_at_ms for hold in self.used_by(path))]
        return None if lasts_ms is None or not grants else min(grants) + lasts_ms + part.more_ms

    def run_is_over(self, request: Reserve) -> bool:
        """Whether its run, or a part that it belongs to, has used up its calls or its time."""
        for path in levels(request.run):
            if path in self.parts and not self.is_watched(f"run:{path}"):
                most, ends_ms = self.calls_max(path), self.ends_ms(path)
                if ends_ms is not None and self.now_ms >= ends_ms:
                    return True
                if most is not None and not request.granted_before and self.calls(path) >= most:
                    return True
        return False

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
        capped = self.capped(charged_by(request))
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
            for _, _, cap in self.capped(charged(request.budgets, candidate.service, request.run))
        )
        return set(possible) <= {"gone"} and (bool(possible) or too_large)

    def verdict(self, request: Reserve, candidate: Candidate) -> Verdict:
        accounts = [a for a in charged(request.budgets, candidate.service, request.run) if a in self.open]
        if not all(all(budget.split("/")) for budget in request.budgets):
            return "never"
        if (verdict := self.before_all(request)) != "fits":
            return verdict
        if candidate.price is None or candidate.service not in SERVICES:
            return "never"
        if any(self.open.isdisjoint(charged((budget,))) for budget in request.budgets):
            # Until everything stored is known, there may be such a budget.
            return "never" if self.began else "held"
        if not self.loading.isdisjoint(accounts):
            return "held"
        is_spare = candidate.short_below is not None and not self.is_first(request, candidate)
        if is_spare and not self.lacks_money(request):
            return "never"
        bound = bound_of(request, candidate)
        capped = [(self.posted(a, w), self.pending(a, w), cap) for a, w, cap in self.capped(accounts)]
        is_ended = any(self.parts[path].ended for path in levels(request.run) if path in self.parts)
        if is_ended or any(bound > cap for _, _, cap in capped):
            return "never"
        if self.run_is_over(request) or any(posted + bound > cap for posted, _, cap in capped):
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
        wanted = charged(request.budgets, candidate.service, request.run)
        return any(
            self.posted(account, window) + self.pending(account, window) + both_bounds > cap
            for account, window, cap in self.capped(charged(ahead.request.budgets, other.service, ahead.request.run))
            if account in wanted
        )

    def may_be_claimed(self, request: Reserve, candidate: Candidate, arrival: int) -> bool:
        """Whether a call ahead has waited so long for holds that what it needs may be kept for it."""
        wanted = charged(request.budgets, candidate.service, request.run)
        return any(
            self.is_in_the_way_of(ahead, other, request, candidate) or not ahead.claims.isdisjoint(wanted)
            for ahead in self.queue
            if ahead.is_ahead_of(request, arrival) and self.now_ms >= ahead.parked_at_ms + CLAIM_AFTER_MS
            for other in self.busy_candidates(ahead.request)
        )

    def use(self, request: Reserve, numbers: Iterable[int]) -> dict[int, Fraction]:
        """How much these candidates, which share the load, are used for the weight of their services."""
        of = {number: request.candidates[number] for number in numbers}
        limited = all(f"service:{candidate.service}" in self.file.concurrent_max for candidate in of.values())
        return {
            number: Fraction(
                self.running(f"service:{candidate.service}"),
                (self.file.concurrent_max[f"service:{candidate.service}"] if limited else 1)
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
        for (_, window), cap in self.changed.items():
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
        for part in self.parts.values():
            part.granted_ms = tuple(min(at_ms, to_ms) for at_ms in part.granted_ms)
        self.used_ms = {account: min(at_ms, to_ms) for account, at_ms in self.used_ms.items()}
        self.now_ms, self.loading = to_ms, set(self.open)


@lru_cache(maxsize=10_000)
def window_name(window: Window, at_ms: int) -> str:
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    if window == "week":
        return at.strftime("%G-W%V")
    letters = {"minute": 16, "hour": 13, "day": 10, "month": 7, "total": 0}[window]
    return at.isoformat()[:letters]


def levels(path: str | None) -> list[str]:
    """The path and what is above it, nearest first."""
    parts = [] if path is None else path.split("/")
    return ["/".join(parts[:number]) for number in range(len(parts), 0, -1)]


def charged(budgets: Sequence[str], service: str | None = None, run: str | None = None) -> tuple[str, ...]:
    """All names that a call counts for, whether they have accounts or not."""
    paths = dict.fromkeys(path for budget in budgets for path in levels(budget))
    services = () if service is None else (f"service:{service}",)
    return (*(f"budget:{path}" for path in paths), *services, *(f"run:{path}" for path in levels(run)))


def charged_by(request: Reserve) -> tuple[str, ...]:
    """Whichever of its candidates is called."""
    return charged(request.budgets, None, request.run)


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
        case _:
            raise ValueError(window)
    return int(end.timestamp()) * 1000
