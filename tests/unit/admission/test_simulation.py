"""A month of an organisation, on the real desk and a virtual clock.

200 agents in 10 departments of one company call 5 services on 4 routes. Services fail for hours, ask to be left alone,
and lose calls; a bill is sometimes above its bound; an admin raises a cap half an hour after each alert `exhausted` or
`parked`; a person resolves what stayed unconfirmed a day later. Books of our own, kept from the answers
alone, say on the way and at the end whether the promises were kept.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from time import perf_counter

from desk_kit import DAY, HOUR, MINUTE, SECOND, USD, Site, at, config, usd_caps

from paymaster.messages import (
    AccountConfig,
    Alert,
    Answer,
    AttemptReport,
    CallRef,
    Candidate,
    CapChange,
    ConfigChange,
    Delivery,
    Denied,
    Ended,
    ExpiredHold,
    Grant,
    Granted,
    Parked,
    ParkedAnswer,
    RaiseCap,
    Reserve,
    ServiceConfig,
    Settle,
    Settled,
    Window,
)
from paymaster.values.money import Price, format_usd

START, END = at(2028, 2, 1), at(2028, 3, 1)
"""A February with 29 days."""
DEPARTMENTS, AGENTS = 10, 20
CALLS_A_DAY = 3
"""Of each agent on a working day, in the mean."""
WAIT_AT_MOST = 24 * HOUR
WINDOWS: tuple[Window, ...] = ("hour", "day", "month", "total")


def priced(input_usd: int, output_usd: int) -> Price:
    """Dollars per million tokens."""
    return Price(input_nanos=input_usd * USD, output_nanos=output_usd * USD, source="simulation")


PRICES = {
    "anthropic": priced(3, 15),
    "openai": priced(2, 10),
    "gemini": priced(1, 5),
    "mistral": priced(1, 3),
    "local": priced(0, 1),
}
ROUTES = (
    ("anthropic", "openai"),
    ("openai", "gemini", "anthropic"),
    ("gemini", "mistral", "local"),
    ("mistral", "local"),
)
OUTAGES = {
    "anthropic": [(at(2028, 2, 3, 9), at(2028, 2, 3, 13)), (at(2028, 2, 17, 14), at(2028, 2, 17, 15))],
    "openai": [(at(2028, 2, 3, 11), at(2028, 2, 3, 12)), (at(2028, 2, 22, 8), at(2028, 2, 22, 18))],
    "gemini": [(at(2028, 2, 10, 10), at(2028, 2, 10, 16))],
    "mistral": [(at(2028, 2, 10, 12), at(2028, 2, 10, 14))],
    "local": [],
}


def organisation() -> tuple[dict[str, AccountConfig], dict[str, ServiceConfig]]:
    budgets = {"acme": AccountConfig(caps_nanos=usd_caps(day=28, month=400))}
    for department in range(DEPARTMENTS):
        name = f"acme/dep-{department}"
        budgets[name] = AccountConfig(caps_nanos=usd_caps(day=2 + department // 3))
        for agent in range(AGENTS):
            budgets[f"{name}/agent-{agent}"] = AccountConfig(caps_nanos=usd_caps(hour=1, day=1))
    services = {
        "anthropic": ServiceConfig(requests_per_minute=50, tokens_per_minute=200_000, max_concurrent=15),
        "openai": ServiceConfig(requests_per_minute=30, max_concurrent=10, caps_nanos=usd_caps(day=7)),
        "gemini": ServiceConfig(requests_per_minute=20, max_concurrent=6),
        "mistral": ServiceConfig(tokens_per_minute=60_000, max_concurrent=5, caps_nanos=usd_caps(month=36)),
        "local": ServiceConfig(max_concurrent=2, breaker_failures=3),
    }
    return budgets, services


# ---------------------------------------------------------------- books of our own


def window_number(window: Window, at_ms: int) -> int:
    match window:
        case "hour":
            return at_ms // HOUR
        case "day":
            return at_ms // DAY
        case "month":
            return int(at_ms >= END)
        case _:
            return 0


@dataclass
class Entry:
    made_at_ms: int
    bound: int
    accounts: tuple[str, ...]
    state: str = "pending"
    posted: int = 0


@dataclass
class Books:
    """Every hold with what it is charged to, and the sums for every account and window."""

    caps: dict[tuple[str, Window], int]
    lapsing: Counter[tuple[str, Window, int]] = field(default_factory=Counter[tuple[str, Window, int]])
    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])
    posted: Counter[tuple[str, Window, int]] = field(default_factory=Counter[tuple[str, Window, int]])
    pending: Counter[tuple[str, Window, int]] = field(default_factory=Counter[tuple[str, Window, int]])
    overage: Counter[tuple[str, Window, int]] = field(default_factory=Counter[tuple[str, Window, int]])

    def lines(self, entry: Entry) -> Iterator[tuple[str, Window, int]]:
        for account in entry.accounts:
            for window in WINDOWS:
                yield account, window, window_number(window, entry.made_at_ms)

    def hold(self, grant: Grant, accounts: tuple[str, ...]) -> None:
        """Promise 1: no grant takes an account over its cap."""
        assert grant.hold_id not in self.entries, "granted twice"
        entry = self.entries[grant.hold_id] = Entry(grant.granted_at_ms, grant.bound_nanos, accounts)
        for line in self.lines(entry):
            self.pending[line] += entry.bound
            cap = self.cap(line)
            assert cap is None or self.posted[line] + self.pending[line] <= cap, f"over the cap: {line}"

    def end(self, hold_id: str, state: str, nanos: int) -> None:
        """Promise 2: pending, perhaps unconfirmed, and then one end for good."""
        entry = self.entries[hold_id]
        assert entry.state in ("pending", "unconfirmed"), f"{hold_id} was {entry.state} and became {state}"
        assert not (entry.state == state == "unconfirmed"), "unconfirmed twice"
        for line in self.lines(entry):
            self.pending[line] -= entry.bound if entry.state == "pending" else 0
            self.posted[line] += nanos - entry.posted
            self.overage[line] += max(0, nanos - entry.bound)
        entry.state, entry.posted = state, nanos

    def cap(self, line: tuple[str, Window, int]) -> int | None:
        cap = self.caps.get(line[:2])
        return None if cap is None else cap + self.lapsing[line]

    def is_spent(self, accounts: tuple[str, ...], bound: int, now_ms: int) -> bool:
        """Money that was really spent, and no hold, is in the way."""
        for account in accounts:
            for window in WINDOWS:
                line = account, window, window_number(window, now_ms)
                cap = self.cap(line)
                if cap is not None and self.posted[line] + bound > cap:
                    return True
        return False


# ---------------------------------------------------------------- the organisation


@dataclass
class Call:
    number: int
    budget: str
    candidates: tuple[Candidate, ...]
    input_bytes: int
    mode: str
    priority: int
    deadline_at_ms: int
    tries: int = 0
    parked_at_ms: int | None = None


class Organisation:
    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        budgets, services = organisation()
        self.site = Site(config(budgets=budgets, services=services, max_parked=500), START)
        caps: dict[tuple[str, Window], int] = {}
        for kind, accounts in (("budget", budgets), ("service", services)):
            for name, account in accounts.items():
                for window, cap in account.caps_nanos.items():
                    caps[f"{kind}:{name}", window] = cap
        self.books = Books(caps)
        self.calls: dict[str, Call] = {}
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.count: Counter[str] = Counter()
        self.seen = 0
        self.longest_wait_ms = 0

    @property
    def now_ms(self) -> int:
        return self.site.now_ms

    def later(self, at_ms: int, do: Callable[[], None]) -> None:
        self.count["events"] += 1
        heappush(self.events, (at_ms, self.count["events"], do))

    def run(self) -> None:
        for day in range((END - START) // DAY):
            self.plan(START + day * DAY)
            self.later(START + day * DAY + 3 * HOUR, self.site.cut)  # continue-as-new, every night
        self.go_on()

    def go_on(self) -> None:
        """Until nothing is left to happen. The desk wakes when it asked to be woken."""
        desk = self.site.desk
        while self.events or len(desk.queue) or desk.ledger.holds:
            if self.events and self.events[0][0] < desk.due_ms:
                self.site.now_ms, _, do = heappop(self.events)
                do()
            else:
                self.site.now_ms = max(self.now_ms, desk.due_ms)
            desk = self.site.desk
            self.look()
            self.count["steps"] += 1
            if self.count["steps"] % 2_000 == 0:
                self.check_books()
        self.check_books()

    def look(self) -> None:
        self.site.desk.advance(self.now_ms)
        self.take_in_outbox()

    def plan(self, day_ms: int) -> None:
        """Few calls at the weekend and most of them in working hours; some agents work at night."""
        working = (day_ms // DAY + 4) % 7 not in (0, 6)
        for department in range(DEPARTMENTS):
            for agent in range(AGENTS):
                mean = CALLS_A_DAY if working else 1
                for _ in range(self.chance.randint(0, 2 * mean)):
                    begin, hours = (0, 24) if agent == 0 else (8, 10)
                    at_ms = day_ms + begin * HOUR + self.chance.randrange(hours * HOUR)
                    budget = f"acme/dep-{department}/agent-{agent}"
                    # an outline and then its sections at once
                    for _ in range(4 if self.chance.random() < 0.1 else 1):
                        self.later(at_ms + self.chance.randrange(2 * SECOND), lambda b=budget: self.ask(b))

    # ------------------------------------------------------------ a call

    def ask(self, budget: str) -> None:
        self.count["calls"] += 1
        chance = self.chance
        route = chance.choice(ROUTES)
        tokens = chance.choice((500, 1_000, 2_000, 8_000, 32_000))
        call = Call(
            number=self.count["calls"],
            budget=budget,
            candidates=tuple(
                Candidate(service=name, model="m", max_output_tokens=tokens, price=PRICES[name]) for name in route
            ),
            input_bytes=chance.choice((500, 4_000, 20_000, 120_000)),
            mode=chance.choice(("wait", "wait", "fail")),
            priority=chance.choice((0, 0, 0, 5)),
            deadline_at_ms=self.now_ms + chance.choice((10 * MINUTE, 2 * HOUR, WAIT_AT_MOST)),
        )
        self.reserve(call)

    def reserve(self, call: Call) -> None:
        call.tries += 1
        hold_id = f"run-{call.number}/{call.tries}"
        self.calls[hold_id] = call
        request = Reserve(
            hold_id=hold_id,
            call=CallRef(workflow_id=f"call/{call.number}", run_id=f"run-{call.number}"),
            budget=call.budget,
            candidates=call.candidates,
            input_bytes=call.input_bytes,
            on_exhausted="wait" if call.mode == "wait" else "fail",
            deadline_at_ms=call.deadline_at_ms,
            asked_at_ms=self.now_ms,
            priority=call.priority,
        )
        self.take_in(self.site.desk.handle(request, self.now_ms))

    def take_in(self, answer: Answer) -> None:
        match answer:
            case Granted(grant=grant):
                call = self.calls[grant.hold_id]
                self.books.hold(grant, accounts_of(call, grant.service))
                self.unpark(call)
                self.send(call, grant)
            case Parked():
                self.calls[answer.hold_id].parked_at_ms = self.now_ms
                self.count["parked"] += 1
            case Denied():
                call = self.calls.pop(answer.hold_id)
                self.unpark(call)
                self.count[f"denied: {answer.reason}"] += 1
                self.check_denial(call, answer)
            case _:
                assert not isinstance(answer, Ended), "a fresh id was refused"

    def unpark(self, call: Call) -> None:
        if call.parked_at_ms is not None:
            waited_ms = self.now_ms - call.parked_at_ms
            self.longest_wait_ms = max(self.longest_wait_ms, waited_ms)
            call.parked_at_ms = None
            assert self.now_ms <= call.deadline_at_ms, "it waited longer than it wanted to"

    def send(self, call: Call, grant: Grant) -> None:
        """What the service makes of it."""
        chance, takes_ms = self.chance, self.chance.randrange(SECOND, 40 * SECOND)
        fails = any(begins <= self.now_ms < ends for begins, ends in OUTAGES[grant.service])
        fate = chance.random()
        if fails:
            self.later(self.now_ms + takes_ms // 4, lambda: self.failed(call, grant, None, trips=True))
        elif fate < 0.01:
            self.later(self.now_ms + takes_ms, lambda: self.failed(call, grant, 20 * SECOND, trips=False))
        elif fate < 0.015:
            self.later(self.now_ms + takes_ms, lambda: self.unknown(grant))
        elif fate < 0.018:
            self.count["lost"] += 1  # its worker died; a person finds out what it cost
            self.later(self.now_ms + DAY, lambda: self.settle(grant, grant.bound_nanos // 3))
        else:
            share = chance.random() * 0.6 if fate < 0.999 else 1.3
            self.later(self.now_ms + takes_ms, lambda: self.answered(grant, int(grant.bound_nanos * share)))

    def answered(self, grant: Grant, cost: int) -> None:
        self.count["completed"] += 1
        self.settle(grant, cost, served=True)

    def failed(self, call: Call, grant: Grant, pause_ms: int | None, *, trips: bool) -> None:
        """Reported at once, settled with what it cost (nothing), and the next candidate is asked."""
        self.count["failed attempts"] += 1
        if self.chance.random() < 0.9:  # a report may get lost; the settlement makes up for it
            report = AttemptReport(hold_id=grant.hold_id, service=grant.service, pause_ms=pause_ms, trips_breaker=trips)
            self.site.desk.report(report, self.now_ms)
        self.settle(grant, 0, failures=1 if trips else 0)
        call.candidates = tuple(c for c in call.candidates if c.service != grant.service)
        self.count["fell back"] += bool(call.candidates)
        self.reserve(call)

    def unknown(self, grant: Grant) -> None:
        self.count["unknown"] += 1
        self.settle(grant, grant.bound_nanos, confirmed=False)
        self.later(self.now_ms + DAY, lambda: self.settle(grant, grant.bound_nanos // 2))

    def settle(
        self, grant: Grant, cost: int, *, confirmed: bool = True, served: bool = False, failures: int = 0
    ) -> None:
        command = Settle(
            hold_id=grant.hold_id,
            cost_nanos=cost,
            confirmed=confirmed,
            tokens=cost * 2_000_000 // (grant.price.output_nanos + grant.price.input_nanos) if served else None,
            served=served,
            failures=failures,
            epoch=grant.epoch,
        )
        self.look()  # it may just have expired
        answers = [self.site.desk.handle(command, self.now_ms)]
        self.books.end(grant.hold_id, "posted" if confirmed else "unconfirmed", cost)
        if self.chance.random() < 0.02:  # the group commit may send it again
            answers.append(self.site.desk.handle(command, self.now_ms))
        assert all(isinstance(answer, Settled) for answer in answers), answers
        self.look()

    # ------------------------------------------------------------ the outbox, and the admin

    def take_in_outbox(self) -> None:
        outbox = self.site.desk.state.outbox
        if outbox.sequence == self.seen:
            return
        items = [item for item in (*outbox.messages, *outbox.notices) if item.sequence > self.seen]
        self.seen = outbox.sequence
        for item in sorted(items, key=lambda item: item.sequence):
            match item:
                case ParkedAnswer(answer=answer):
                    self.take_in(answer)
                case ExpiredHold(settled=True):
                    self.count["expired and settled late"] += 1
                case ExpiredHold(grant=grant):
                    self.count["expired"] += 1
                    self.books.end(grant.hold_id, "unconfirmed", grant.bound_nanos)
                case Alert():
                    self.count[f"alert: {item.what}"] += 1
                    if item.what in ("exhausted", "parked") and item.account and item.window:
                        raise_it = partial(self.raise_cap, item.account, item.window)
                        self.later(self.now_ms + HOUR // 2, raise_it)
                case CapChange():
                    self.count["raises"] += 1
                case ConfigChange():
                    self.count["configurations"] += 1
                case _:
                    raise AssertionError(f"nobody took anything back: {item}")
        done = tuple(item.sequence for item in items)
        for _ in range(2):  # stored, and sent to the webhook
            self.site.desk.delivered(Delivery(delivered=done), self.now_ms)
        self.take_in_outbox()

    def raise_cap(self, account: str, window: Window) -> None:
        """A fifth more: until the window ends, or of a month for good."""
        by = self.books.caps[account, window] // 5
        lapses = window != "month"
        change = RaiseCap(
            account=account, window=window, by=f"{by / USD:.9f}", until_window_end=lapses, who="ada", reason="exhausted"
        )
        self.look()
        if lapses:
            self.books.lapsing[account, window, window_number(window, self.now_ms)] += by
        else:
            self.books.caps[account, window] += by
        state = self.site.desk.raise_cap(change, self.now_ms)
        assert state.cap_nanos == self.books.cap((account, window, window_number(window, self.now_ms)))

    # ------------------------------------------------------------ promises

    def check_denial(self, call: Call, denied: Denied) -> None:
        """Promise 6: nobody is refused while money is only on hold, nor before the wait has ended."""
        match denied.reason:
            case "cap_reached":
                assert call.mode == "fail"
                for candidate in call.candidates:
                    works = self.site.desk.state.gates[candidate.service].breaker.state(self.now_ms) == "closed"
                    accounts = accounts_of(call, candidate.service)
                    assert self.books.is_spent(accounts, bound_of(call, candidate), self.now_ms) or not works
            case "waited_too_long":
                assert self.now_ms >= call.deadline_at_ms
            case "breaker_open" | "no_candidate":
                assert (
                    any(  # the service that was asked last failed at most a cooldown and a call ago
                        begins <= self.now_ms < ends + HOUR for outages in OUTAGES.values() for begins, ends in outages
                    )
                    or call.tries > 1
                )
            case reason:
                raise AssertionError(f"nobody has asked for what cannot be: {reason}")

    def check_books(self) -> None:
        """Promise 3: for every account and window the desk's books are the sums of the entries."""
        for key, account in self.site.desk.ledger.accounts.items():
            for window in WINDOWS:
                line = key, window, window_number(window, self.site.desk.state.now_ms)
                balance = account.balances[window]
                assert balance.posted_nanos == self.books.posted[line], f"posted: {line}"
                assert balance.pending_nanos == self.books.pending[line], f"pending: {line}"
                assert balance.cap_nanos == self.books.cap(line), f"cap: {line}"

    def report(self) -> str:
        spent = {s: self.books.posted[f"service:{s}", "total", 0] for s in PRICES}
        lines = [f"spent   {format_usd(sum(spent.values()))}"]
        lines += [f"        {format_usd(nanos):>16} {name}" for name, nanos in spent.items()]
        lines += [f"{self.count[what]:>7} {what}" for what in sorted(self.count)]
        return "\n".join([*lines, f"longest wait {self.longest_wait_ms / HOUR:.1f} h"])


def accounts_of(call: Call, service: str) -> tuple[str, ...]:
    company, department, agent = call.budget.split("/")
    paths = (company, f"{company}/{department}", f"{company}/{department}/{agent}")
    return (*(f"budget:{path}" for path in paths), f"service:{service}")


def bound_of(call: Call, candidate: Candidate) -> int:
    price = PRICES[candidate.service]
    return -(
        -((call.input_bytes + 1_024) * price.input_nanos + candidate.max_output_tokens * price.output_nanos) // 10**6
    )


def test_a_month_of_an_organisation_keeps_the_promises() -> None:
    """Promises 1, 2, 3 and 6, at every grant, end and denial, and at the end of the month."""
    began = perf_counter()
    organisation = Organisation(seed=2028)
    organisation.run()
    print(f"\n{organisation.report()}\n{perf_counter() - began:.1f} s")

    books, count, desk = organisation.books, organisation.count, organisation.site.desk
    states = Counter(entry.state for entry in books.entries.values())
    assert states.keys() == {"posted"}, "every hold has ended, and a person has resolved what was unconfirmed"
    assert (len(desk.queue), len(desk.ledger.holds), desk.status().outbox) == (0, 0, 0)
    assert count["calls"] == count["completed"] + count["unknown"] + count["lost"] + denials(count)
    assert organisation.longest_wait_ms <= WAIT_AT_MOST
    for line, nanos in books.posted.items():
        cap = books.cap(line)
        assert cap is None or nanos <= cap + books.overage[line], f"over its cap: {line}"
    for what in ("parked", "expired", "fell back", "raises", "denied: cap_reached", "denied: waited_too_long"):
        assert count[what] > 0, f"this month has seen no {what}"
    for what in ("threshold", "exhausted", "parked", "overage", "unconfirmed", "breaker_opened", "breaker_closed"):
        assert count[f"alert: {what}"] > 0, f"this month has seen no alert: {what}"
    assert desk.state.outbox.alerts_dropped == 0


def test_the_same_day_twice_ends_the_same() -> None:
    """The desk is deterministic: a day of it, twice, to the same state."""
    dumps: list[str] = []
    for _ in range(2):
        organisation = Organisation(seed=7)
        organisation.plan(START + 2 * DAY)  # the day of the first outages
        organisation.go_on()
        dumps.append(organisation.site.desk.dump())
    assert dumps[0] == dumps[1]


def denials(count: Counter[str]) -> int:
    return sum(number for what, number in count.items() if what.startswith("denied: "))
