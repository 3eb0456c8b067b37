"""What must be true of a desk, kept in lists and added up from scratch: it can be checked by eye.

Written without the desk's code, which it is compared with (tests/unit/admission/test_desk_machine.py), but for two of
its times: after how long a call claims, and for how long ends are remembered.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from desk_facts import (
    HOLD_EXPIRES_AFTER_MS,
    HOUR,
    SERVICES,
    START_MS,
    Cap,
    File,
    HeldMoney,
    Part,
    Place,
    Verdict,
    Waiting,
    bound_of,
    charged,
    charged_by,
    levels,
    window_name,
)

from paymaster.admission.parked_call import CLAIM_AFTER_MS
from paymaster.admission.settling import REMEMBER_ENDED_MS
from paymaster.messages import Candidate, Denied, Reserve, RunTerms, ServiceStatus, Window
from paymaster.values.windows import WINDOWS


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
    returned_ms: int = 0
    """To when the clock was put back last."""

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
        is_named = self.file.table_of(account) == account
        return not (held or waited_for or is_named or account in self.loading or self.is_changed(account))

    def is_changed(self, account: str) -> bool:
        """An admin did something to it, which no stored entry says."""
        part = self.parts.get(account.removeprefix("run:"))
        return any(changed == account for changed, _ in self.changed) or (part is not None and part.is_changed)

    def stays(self, account: str) -> bool:
        """Whether it is there whoever uses it. What admins did to a run is forgotten a week after its last call."""
        if account.startswith("run:"):
            return self.is_changed(account) and self.now_ms < self.used_ms[account] + 7 * 24 * HOUR
        others = any(place[0] == account and self.cap(place) != self.cap_unchanged(place) for place in self.changed)
        return others or self.file.table_of(account) == account

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

    def may_be_forgotten(self, asked_at_ms: int) -> bool:
        """Whether an id of this time may have ended, and nobody knows any more how: long ago, or while the clock was
        ahead. For some minutes a clock may be behind the time to which it was put back."""
        return not self.is_recent(asked_at_ms) or asked_at_ms < self.returned_ms

    def go_back(self, to_ms: int) -> None:
        """The clock was ahead: what happened meanwhile happened now, and what was forgotten meanwhile stays so."""
        for (_, window), cap in self.changed.items():
            now, then = window_name(window, self.now_ms), window_name(window, to_ms)
            cap.lapsing = [(then, by) for name, by in cap.lapsing if name == now]
        for hold in self.holds.values():
            expires_at_ms = min(hold.grant.expires_at_ms, to_ms + HOLD_EXPIRES_AFTER_MS)
            granted_at_ms = min(hold.grant.granted_at_ms, to_ms)
            hold.grant = hold.grant.model_copy(update={"granted_at_ms": granted_at_ms, "expires_at_ms": expires_at_ms})
            hold.ended_at_ms = self._ended_ms(hold.ended_at_ms, to_ms)
        for waiting in self.queue:
            ahead_ms = max(0, waiting.request.asked_at_ms - to_ms)
            deadline_at_ms = waiting.request.deadline_at_ms - ahead_ms
            times = {"deadline_at_ms": deadline_at_ms, "asked_at_ms": min(waiting.request.asked_at_ms, to_ms)}
            waiting.request = waiting.request.model_copy(update=times)
            waiting.parked_at_ms = min(waiting.parked_at_ms, to_ms)
            waiting.busy_since_ms = None if waiting.busy_since_ms is None else min(waiting.busy_since_ms, to_ms)
        self.over = {hold_id: (self._ended_ms(at_ms, to_ms), denied) for hold_id, (at_ms, denied) in self.over.items()}
        for part in self.parts.values():
            part.granted_ms = tuple(min(at_ms, to_ms) for at_ms in part.granted_ms)
        self.used_ms = {account: min(at_ms, to_ms) for account, at_ms in self.used_ms.items()}
        self.now_ms = self.returned_ms = to_ms
        self.loading = set(self.open)

    def _ended_ms(self, at_ms: int, to_ms: int) -> int:
        return min(at_ms, to_ms) if self.is_recent(at_ms) else 0
