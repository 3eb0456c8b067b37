"""What must be true of a desk's books, kept in lists and added up from scratch: it can be checked by eye.

Written without the desk's code, which it is compared with (tests/unit/admission/test_desk_machine.py).
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil

from desk_facts import (
    EARLIER_MS,
    HOUR,
    MINUTE,
    PLACES,
    ROLLING,
    SERVICES,
    START_MS,
    Cap,
    File,
    GivenRaise,
    HeldMoney,
    Part,
    Place,
    Verdict,
    Waiting,
    bound_of,
    charged_by,
    counts,
    levels,
    next_end_ms,
    window_name,
)

from paymaster.messages import (
    Approval,
    Candidate,
    Denied,
    Grant,
    RaiseOffer,
    Reserve,
    RunawayTerms,
    RunTerms,
    ServiceStatus,
    Window,
)


@dataclass
class Sums:
    """What must be true of the books, with nothing remembered that can be computed."""

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
    given: list[GivenRaise] = field(default_factory=list[GivenRaise])
    """By approvers."""
    let_through_ms: dict[Place, int] = field(default_factory=dict[Place, int])
    """When a watched cap let a call through last that it had no room for."""
    parts: dict[str, Part] = field(default_factory=dict[str, Part])
    """Runs and their parts that have accounts, by path."""
    began: bool = False
    """What was stored before the desk began is known."""
    earlier: dict[Place, int] = field(default_factory=dict[Place, int])
    """What was spent before the desk began, in the windows in which it began; in rolling ones `EARLIER_MS` before."""
    earlier_ms: int = START_MS
    """When that was, but in rolling windows: no later than the clock was put back to."""
    gates: dict[str, ServiceStatus] = field(default_factory=dict[str, ServiceStatus])
    holds: dict[str, HeldMoney] = field(default_factory=dict[str, HeldMoney])
    queue: list[Waiting] = field(default_factory=list[Waiting])
    over: dict[str, tuple[int, Denied | None]] = field(default_factory=dict[str, tuple[int, Denied | None]])
    """Ids that ended without ever being a hold: when, and with which denial."""
    margins: dict[str, int] = field(default_factory=dict[str, int])
    """By service, the percent that bounds add to counted tokens, where bills taught that 2 are too few."""
    arrivals: int = 0
    returned_ms: int = 0
    """To when the clock was put back last."""
    _sums: dict[tuple[str, Place], int] | None = None
    """Those that were made since the last change of a hold, where none changes for a while."""

    # ------------------------------------------------------------ sums

    @contextmanager
    def while_no_hold_changes(self) -> Generator[None]:
        """Each sum is made once."""
        self._sums = {}
        try:
            yield
        finally:
            self._sums = None

    def _once(self, what: str, place: Place, make: Callable[[str, Window], int]) -> int:
        if self._sums is None:
            return make(*place)
        if (what, place) not in self._sums:
            self._sums[what, place] = make(*place)
        return self._sums[what, place]

    def posted(self, account: str, window: Window) -> int:
        return self._once("posted", (account, window), self._posted)

    def pending(self, account: str, window: Window) -> int:
        return self._once("pending", (account, window), self._pending)

    def _posted(self, account: str, window: Window) -> int:
        is_first = counts(window, START_MS - EARLIER_MS if window in ROLLING else self.earlier_ms, self.now_ms)
        earlier = self.earlier.get((account, window), 0) if is_first else 0
        return earlier + sum(hold.posted_nanos for hold in self._in_window(account, window))

    def _pending(self, account: str, window: Window) -> int:
        return sum(hold.grant.bound_nanos for hold in self._in_window(account, window) if hold.state == "pending")

    def running(self, account: str) -> int:
        return sum(hold.runs for hold in self.holds.values() if account in hold.accounts)

    def _in_window(self, account: str, window: Window) -> Iterable[HeldMoney]:
        return (
            hold
            for hold in self.holds.values()
            if account in hold.accounts and counts(window, hold.grant.granted_at_ms, self.now_ms)
        )

    def cap(self, place: Place) -> int | None:
        cap = self.changed.get(place)
        return self.cap_unchanged(place) if cap is None else cap.in_force(window_name(place[1], self.now_ms))

    def cap_unchanged(self, place: Place) -> int | None:
        """What it would be if no admin had changed it."""
        account, window = place
        if account.startswith("run:"):
            return self.terms(account, None if window == "total" else window).usd_nanos
        return self.file.cap(place)

    def capped(self, accounts: Iterable[str]) -> list[tuple[str, Window, int]]:
        """The caps that bind."""
        return self._caps(account for account in accounts if account in self.open and not self.is_watched(account))

    def _caps(self, accounts: Iterable[str]) -> list[tuple[str, Window, int]]:
        return [(a, w, cap) for a in accounts for w in PLACES if (cap := self.cap((a, w))) is not None]

    def limited(self, accounts: Iterable[str]) -> list[tuple[str, int]]:
        """The most calls at once that bind."""
        tables = [(account, self.file.table_of(account)) for account in accounts if not self.is_watched(account)]
        return [
            (a, self.file.concurrent_max[table]) for a, table in tables if table and table in self.file.concurrent_max
        ]

    def is_watched(self, account: str) -> bool:
        part = self.parts.get(account.removeprefix("run:"))
        if part is not None and "/" in account:
            return False
        if part is not None:
            limiting = [budget for budget in part.budgets if self.file.limits_runs(budget)]
            return part.asked is None and bool(limiting) and all(map(self.is_watched, limiting))
        return self.file.table_of(account) in self.file.watched

    def count_let_through(self, accounts: Iterable[str]) -> None:
        """After a grant: which of the caps that only watch it had no room for it."""
        for account, window, cap in self._caps(account for account in accounts if self.is_watched(account)):
            if self.posted(account, window) + self.pending(account, window) > cap:
                self.let_through_ms[account, window] = self.now_ms

    # ------------------------------------------------------------ approvers

    def may_give(self, place: Place, nanos: int, approval: Approval) -> bool:
        """Whether an approver may raise the cap until its window ends: each button once, and so much in a day."""
        account, window = place
        approver = self.file.approvers.get(approval.by)
        kind, _, budget = account.partition(":")
        if approver is None or kind != "budget" or not set(approver.budgets).intersection(levels(budget)):
            return False
        if window == "total" or window in ROLLING or approval.window_ends_at_ms != next_end_ms(window, self.now_ms):
            return False
        if self.cap(place) is None or self.cap(place) != approval.cap_nanos:
            return False
        if any(each.nonce == approval.nonce for each in self.given):
            return False
        today = window_name("day", self.now_ms)
        of_day = [e.nanos for e in self.given if e.by == approval.by and window_name("day", e.at_ms) == today]
        return 0 < nanos <= approver.per_raise_nanos and sum(of_day) + nanos <= approver.per_day_nanos

    def offer(self, place: Place) -> RaiseOffer | None:
        """What an alert of this cap lets approvers do."""
        account, window = place
        cap, kind, budget = self.cap(place), *account.split(":", 1)
        if cap is None or kind != "budget" or window == "total" or window in ROLLING:
            return None
        may_raise = [each for each in self.file.approvers.values() if set(each.budgets).intersection(levels(budget))]
        by_nanos = sorted({nanos for each in may_raise for nanos in each.offers_nanos})
        ends_at_ms = next_end_ms(window, self.now_ms)
        return RaiseOffer(cap_nanos=cap, window_ends_at_ms=ends_at_ms, by_nanos=tuple(by_nanos)) if by_nanos else None

    # ------------------------------------------------------------ accounts that nobody named

    def is_to_tell(self, account: str) -> bool:
        """Whether somebody is told of what it let through when its window ends, as that of `total` never does."""
        return any(
            of == account and window != "total" and counts(window, at_ms, self.now_ms)
            for (of, window), at_ms in self.let_through_ms.items()
        )

    def may_go(self, account: str) -> bool:
        """Whether nothing is lost when this account leaves the books: its name comes back with what is stored."""
        held = any(hold.is_open and account in hold.accounts for hold in self.holds.values())
        waited_for = any(account in charged_by(waiting.request) for waiting in self.queue)
        is_named = self.file.table_of(account) == account
        return not (held or waited_for or is_named or account in self.loading or self.is_changed(account))

    def is_changed(self, account: str) -> bool:
        """An admin did something to it, which no stored entry says."""
        part = self.parts.get(account.removeprefix("run:"))
        more_in = part is not None and any(name == window_name(w, self.now_ms) for w, name in part.more_in)
        by_admin = any(changed == account for changed, _ in self.changed)
        return by_admin or more_in or (part is not None and part.is_changed)

    def stays(self, account: str) -> bool:
        """Whether it is there whoever uses it. What admins did to a run is forgotten a week after its last call."""
        if account.startswith("run:"):
            return self.is_changed(account) and self.now_ms < self.used_ms[account] + 7 * 24 * HOUR
        others = any(place[0] == account and self.cap(place) != self.cap_unchanged(place) for place in self.changed)
        return others or self.file.table_of(account) == account

    def before_all(self, request: Reserve) -> Verdict:
        """What is in the way of a call whichever of its candidates is called: held, where an account that it needs is
        not in the books; never, where its run was given other limits before, or none of its services is known."""
        if all(candidate.service not in SERVICES and not candidate.purchase for candidate in request.candidates):
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

    # ------------------------------------------------------------ bounds

    def bound(self, request: Reserve, candidate: Candidate) -> int:
        """A byte is at most a token; a count may be too low by the margin of the service."""
        tokens, counted = request.input_bytes, candidate.counted_tokens
        if counted is not None:
            tokens = min(tokens, counted * (100 + self.margins.get(candidate.service, 2)) // 100)
        return bound_of(request, candidate, tokens)

    def learn_from_bill(self, grant: Grant, cost_nanos: int) -> None:
        """One above a counted bound would not have been with a larger margin."""
        counted, dearest = grant.counted_tokens, max(grant.price.input_nanos, grant.price.cached_input_nanos or 0)
        if counted is not None and cost_nanos > grant.bound_nanos:
            of_count = Fraction(counted * dearest, 1_000_000)
            lacked = ceil((cost_nanos - grant.bound_nanos) / of_count * 100) if of_count else 100
            self.margins[grant.service] = min(self.margins.get(grant.service, 2) + lacked, 10_000)

    # ------------------------------------------------------------ runs

    def take_part(self, request: Reserve) -> None:
        """What a call that the desk looks at says of its run: the first limits stand, and each budget adds its own."""
        if any(self.file.table_of(account) and account not in self.open for account in charged_by(request)):
            return
        limiting = self._limiting(request)
        for path, asked, needed in self._parts_of(request):
            account = f"run:{path}"
            part = self.parts.get(path)
            if part is None and needed:
                return  # it waits for room
            if part is not None:
                if self._differs(part, asked):
                    return
                places: list[Place] = [(account, window) for window in PLACES]
                before = {place: self.cap_unchanged(place) for place in places}
                renewed = self.renewed(account)
                part.asked, part.budgets = part.asked or asked, part.budgets | limiting
                self.is_limited_anew(account, renewed)
                for place, cap in before.items():
                    if self.cap_unchanged(place) != cap:
                        self.changed.pop(place, None)
            limiting = frozenset(b for b in limiting if (of := self.file.limits_runs(b)) and of.renews)

    def _differs(self, part: Part, asked: RunTerms | None) -> bool:
        return asked is not None and part.asked is not None and asked != part.asked

    def _said_by_budgets(self, account: str) -> list[RunTerms]:
        """Of budgets that are watched only where nothing else limits it."""
        part = self.parts.get(account.removeprefix("run:"), Part())
        counted = [budget for budget in part.budgets if self.is_watched(account) or not self.is_watched(budget)]
        return [of for budget in counted if (of := self.file.limits_runs(budget))]

    def renewed(self, account: str) -> list[Window]:
        """The windows in which a run has anything anew, the shortest first."""
        said = {terms.renews for terms in self._said_by_budgets(account)}
        every: list[Window] = [window for window in ("hour", "day", "week") if window in said]
        return every[:1] if "/" in account else every

    def is_limited_anew(self, account: str, before: Sequence[Window]) -> None:
        """What it took in a window in which nobody counted is to be read."""
        now = self.renewed(account)
        if not set(now) <= set(before) and account in self.open:
            self.loading.add(account)
        part = self.parts[account.removeprefix("run:")]
        part.more_in = {of: more for of, more in part.more_in.items() if of[0] in now}

    def terms(self, account: str, renews: Window | None = None) -> RunTerms:
        """The lowest of what limits a run that has an account: of all time, or in each window of a kind. What was asked
        for is renewed with the shortest."""
        asked = self.parts.get(account.removeprefix("run:"), Part()).asked
        said = [] if "/" in account else self._said_by_budgets(account)
        of_kind = [terms for terms in said if terms.renews == renews]
        if asked is not None and next(iter(self.renewed(account)), None) == renews:
            of_kind.append(asked)
        lasting = [*said, *([] if asked is None else [asked])] if renews is None else []
        return RunTerms(
            usd_nanos=min((e.usd_nanos for e in of_kind if e.usd_nanos is not None), default=None),
            calls=min((e.calls for e in of_kind if e.calls is not None), default=None),
            lasts_ms=min((e.lasts_ms for e in lasting if e.lasts_ms is not None), default=None),
        )

    def calls(self, path: str, window: Window | None = None) -> int:
        """How many calls of the run got grants, by whichever of their attempts; or their first one in this window."""
        first_ms: dict[str, int] = {}
        for hold in self.used_by(path):
            call, at_ms = hold.grant.hold_id.partition("/")[0], hold.grant.granted_at_ms
            first_ms[call] = min(at_ms, first_ms.get(call, at_ms))
        return sum(window is None or counts(window, at_ms, self.now_ms) for at_ms in first_ms.values())

    def used_by(self, path: str) -> list[HeldMoney]:
        account = f"run:{path}"
        return [hold for hold in self.holds.values() if account in hold.accounts and hold.was_used]

    def calls_max(self, path: str, window: Window | None = None) -> int | None:
        part, most = self.parts[path], self.terms(f"run:{path}", window).calls
        more = part.more_calls if window is None else part.more_in.get((window, window_name(window, self.now_ms)), 0)
        return None if most is None else most + more

    def calls_used_up(self, path: str) -> bool:
        """Of all time, or of a window in which they are renewed."""
        return any(
            (most := self.calls_max(path, window)) is not None and self.calls(path, window) >= most
            for window in (None, *self.renewed(f"run:{path}"))
        )

    def ends_ms(self, path: str) -> int | None:
        part, lasts_ms = self.parts[path], self.terms(f"run:{path}").lasts_ms
        grants = [*part.granted_ms, *(hold.grant.granted_at_ms for hold in self.used_by(path))]
        return None if lasts_ms is None or not grants else min(grants) + lasts_ms + part.more_ms

    def run_is_over(self, request: Reserve) -> bool:
        """Whether its run, or a part that it belongs to, has used up its calls or its time."""
        for path in levels(request.run):
            if path in self.parts and not self.is_watched(f"run:{path}"):
                ends_ms = self.ends_ms(path)
                if ends_ms is not None and self.now_ms >= ends_ms:
                    return True
                if not request.granted_before and self.calls_used_up(path):
                    return True
        return False

    def may_run_away(self, path: str) -> bool:
        """Whether anything says when it is held."""
        return self.runaway_terms(path) != RunawayTerms()

    def runaway_terms(self, path: str) -> RunawayTerms:
        """The lowest of what its budgets say, of those that are watched only where nothing else limits it."""
        part, is_watched = self.parts[path], self.is_watched(f"run:{path}")
        of = [] if "/" in path else part.budgets
        every = [self.file.runaway_of(b) for b in of if is_watched or not self.is_watched(b)]
        money = [e.usd_nanos_per_minute for e in every if e.usd_nanos_per_minute is not None]
        return RunawayTerms(
            identical_calls=min((e.identical_calls for e in every if e.identical_calls is not None), default=None),
            calls_per_minute=min((e.calls_per_minute for e in every if e.calls_per_minute is not None), default=None),
            usd_nanos_per_minute=min(money, default=None),
        )

    def is_runaway(self, path: str, request: Reserve) -> bool:
        """Whether the run is held, or is by this call: if the call has had no grant before."""
        part = self.parts.get(path)
        if part is None or self.is_watched(f"run:{path}"):
            return False
        if part.held or request.granted_before:
            return part.held
        terms = self.runaway_terms(path)
        same = [digest for digest, _ in part.asked_for if digest and digest == request.digest]
        minute = [at_ms for _, at_ms in part.asked_for if at_ms // MINUTE == self.now_ms // MINUTE]
        spent = self.posted(f"run:{path}", "minute")
        return (
            (terms.identical_calls is not None and len(same) >= terms.identical_calls)
            or (terms.calls_per_minute is not None and len(minute) >= terms.calls_per_minute)
            or (terms.usd_nanos_per_minute is not None and spent >= terms.usd_nanos_per_minute)
        )
