"""A desk with a clock of its own, for tests that say in a line or two what happens at the desk.

Money is in whole dollars: a candidate of `max_output_tokens=3` can cost at most $3, and its prompt costs nothing.
"""

from datetime import UTC, datetime
from typing import Literal, TypedDict, Unpack

from paymaster.admission.accounts import Balance
from paymaster.admission.desk import Desk
from paymaster.admission.state import RULES, DeskState
from paymaster.messages import (
    AccountConfig,
    Alert,
    AlertKind,
    Answer,
    AttemptReport,
    CallRef,
    Candidate,
    CapChange,
    CountFirst,
    Delivery,
    Denied,
    DeskConfig,
    Ended,
    Grant,
    Granted,
    LoadedSpend,
    Parked,
    ParkedAnswer,
    RaiseCap,
    Reserve,
    ReserveAnswer,
    RunTerms,
    ServiceConfig,
    SetCap,
    Settle,
    Settled,
    UnsetCap,
    Void,
    Window,
    Withdrawn,
)
from paymaster.values.money import Price
from paymaster.values.windows import WINDOWS

USD = 1_000_000_000
SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
DOLLAR_PER_TOKEN = Price(input_nanos=0, output_nanos=1_000_000 * USD, source="test")


def at(year: int, month: int = 1, day: int = 1, hour: int = 0, minute: int = 0, second: int = 0) -> int:
    """Milliseconds since the epoch of a time in UTC."""
    return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()) * 1000


NOON = at(2027, 3, 10, 12)


def candidate(service: str = "s", usd: int = 1, price: Price | None = DOLLAR_PER_TOKEN) -> Candidate:
    """A model of the service that can cost at most so many dollars."""
    return Candidate(service=service, model="m", max_output_tokens=usd, price=price)


def usd_caps(**caps: int) -> dict[Window, int]:
    """`usd_caps(day=5)`: the nano-dollars by window."""
    return {window: caps[window] * USD for window in WINDOWS if window in caps}


def capped(**caps: int) -> AccountConfig:
    """A budget with these caps in dollars, which alerts at nothing."""
    return AccountConfig(caps_nanos=usd_caps(**caps), alert_at=())


def service(
    requests: int | None = None,
    tokens: int | None = None,
    concurrent: int | None = None,
    failures: int = 5,
    cooldown_ms: int = 30 * SECOND,
    **caps: int,
) -> ServiceConfig:
    return ServiceConfig(
        caps_nanos=usd_caps(**caps),
        alert_at=(),
        requests_per_minute=requests,
        tokens_per_minute=tokens,
        max_concurrent=concurrent,
        breaker_failures=failures,
        breaker_cooldown_ms=cooldown_ms,
    )


def config(
    digest: str = "first",
    budgets: dict[str, AccountConfig] | None = None,
    services: dict[str, ServiceConfig] | None = None,
    max_parked: int = 2_000,
) -> DeskConfig:
    """A configuration; without more, one budget `acme` with $10 a day and one service `s`."""
    return DeskConfig(
        digest=digest,
        budgets={"acme": capped(day=10)} if budgets is None else budgets,
        services={"s": service()} if services is None else services,
        max_parked=max_parked,
    )


class Asked(TypedDict, total=False):
    """What a call may say of itself; see `Site.request` for the rest."""

    budget: str | tuple[str, ...]
    mode: Literal["wait", "fail"]
    wait_ms: int
    priority: int
    input_bytes: int
    hold_id: str | None
    run: str | None
    run_terms: tuple[RunTerms | None, ...]
    granted_before: bool
    digest: str


class Site:
    """A desk, the time, and what came out of its outbox so far."""

    def __init__(
        self,
        configuration: DeskConfig | None = None,
        now_ms: int = NOON,
        *,
        load: bool = True,
        epoch: str = "this run",
        rules: int = RULES,
    ) -> None:
        self.now_ms = now_ms
        self.desk = Desk(DeskState(ledger="test", epoch=epoch, rules=rules))
        self.calls = 0
        self.desk.configure(configuration or config(), now_ms)
        while load and self.desk.to_load() is not None:
            self.load()

    def load(self, posted_nanos: dict[str, dict[Window, int]] | None = None) -> None:
        """The database answers what was spent before; nothing, if nothing is said."""
        wanted = self.desk.to_load()
        assert wanted is not None
        self.desk.loaded(LoadedSpend(number=wanted.number, posted_nanos=posted_nanos or {}), self.now_ms)

    def cut(self) -> None:
        """Continue-as-new."""
        self.desk = Desk.load(self.desk.dump())

    # ------------------------------------------------------------ calls

    def request(
        self,
        *candidates: Candidate,
        budget: str | tuple[str, ...] = "acme",
        mode: Literal["wait", "fail"] = "wait",
        wait_ms: int = 24 * HOUR,
        priority: int = 0,
        input_bytes: int = 0,
        hold_id: str | None = None,
        run: str | None = None,
        run_terms: tuple[RunTerms | None, ...] = (),
        granted_before: bool = False,
        digest: str = "",
    ) -> Reserve:
        self.calls += 1
        hold_id = hold_id or f"run-{self.calls}/1"
        budgets = (budget,) if isinstance(budget, str) else budget
        return Reserve(
            hold_id=hold_id,
            call=CallRef(workflow_id=f"call/{hold_id}", run_id=hold_id),
            budget=budgets[0],
            further_budgets=budgets[1:],
            candidates=candidates or (candidate(),),
            input_bytes=input_bytes,
            on_exhausted=mode,
            deadline_at_ms=self.now_ms + wait_ms,
            asked_at_ms=self.now_ms,
            priority=priority,
            run=run,
            run_terms=run_terms,
            granted_before=granted_before,
            digest=digest,
        )

    def reserve(self, *candidates: Candidate, **asked: Unpack[Asked]) -> ReserveAnswer:
        answer = self.desk.handle(self.request(*candidates, **asked), self.now_ms)
        assert isinstance(answer, Granted | Parked | Denied | CountFirst | Ended), answer
        return answer

    def granted(self, *candidates: Candidate, **asked: Unpack[Asked]) -> Grant:
        answer = self.reserve(*candidates, **asked)
        assert isinstance(answer, Granted), answer
        return answer.grant

    def parked(self, *candidates: Candidate, **asked: Unpack[Asked]) -> str:
        """The hold id of a call that had to wait."""
        answer = self.reserve(*candidates, **asked)
        assert isinstance(answer, Parked), answer
        return answer.hold_id

    def denied(self, *candidates: Candidate, **asked: Unpack[Asked]) -> Denied:
        """Of a call that does not want to wait, where nothing else is said."""
        asked.setdefault("mode", "fail")
        answer = self.reserve(*candidates, **asked)
        assert isinstance(answer, Denied), answer
        return answer

    def settle(
        self,
        grant: Grant | str,
        usd: float = 0,
        *,
        confirmed: bool = True,
        tokens: int | None = None,
        served: bool = True,
        failures: int = 0,
    ) -> Settled:
        """The call ended, and what it freed is given to who waits."""
        hold_id = grant if isinstance(grant, str) else grant.hold_id
        command = Settle(
            hold_id=hold_id,
            cost_nanos=round(usd * USD),
            confirmed=confirmed,
            tokens=tokens,
            served=served,
            failures=failures,
            epoch="this run",
        )
        answer = self.desk.handle(command, self.now_ms)
        assert isinstance(answer, Settled), answer
        self.desk.advance(self.now_ms)
        return answer

    def void(self, grant: Grant | str) -> Settled:
        hold_id = grant if isinstance(grant, str) else grant.hold_id
        answer = self.desk.handle(Void(hold_id=hold_id), self.now_ms)
        assert isinstance(answer, Settled), answer
        self.desk.advance(self.now_ms)
        return answer

    def report(self, grant: Grant, pause_ms: int | None = None, *, trips_breaker: bool = True) -> None:
        report = AttemptReport(
            hold_id=grant.hold_id, service=grant.service, pause_ms=pause_ms, trips_breaker=trips_breaker
        )
        self.desk.report(report, self.now_ms)

    def fail(self, grant: Grant) -> None:
        """The call failed by a fault of the service, which did not bill it."""
        self.report(grant)
        self.settle(grant, 0, served=False, failures=1)

    # ------------------------------------------------------------ time and admins

    def wait(self, ms: int) -> None:
        self.wait_until(self.now_ms + ms)

    def wait_until(self, at_ms: int) -> None:
        """Time passes; the desk wakes whenever it asked to be woken, and not else, as the workflow does it."""
        assert at_ms >= self.now_ms
        while self.desk.due_ms <= at_ms:
            self.now_ms = max(self.desk.due_ms, self.now_ms)
            before = self.desk.due_ms
            self.desk.advance(self.now_ms)
            assert self.desk.due_ms > before, "the desk asks to be woken again and again"
        self.now_ms = at_ms

    def raise_cap(self, by: str, account: str = "budget:acme", window: Window = "day", *, lapses: bool = False) -> int:
        """The new cap in nano-dollars."""
        change = RaiseCap(account=account, window=window, by=by, until_window_end=lapses, who="ada", reason="more work")
        return self.desk.raise_cap(change, self.now_ms).cap_nanos or 0

    def set_cap(self, to: str, account: str = "budget:acme", window: Window = "day") -> int:
        change = SetCap(account=account, window=window, to=to, who="ada", reason="new plan")
        return self.desk.set_cap(change, self.now_ms).cap_nanos or 0

    def unset_cap(self, account: str = "budget:acme", window: Window = "day") -> int | None:
        """The cap that is in force then, in nano-dollars."""
        change = UnsetCap(account=account, window=window, who="ada", reason="as it was")
        return self.desk.unset_cap(change, self.now_ms).cap_nanos

    # ------------------------------------------------------------ what it shows

    def balance(self, account: str = "budget:acme", window: Window = "day") -> Balance:
        return self.desk.ledger.accounts[account].balances[window]

    def posted(self, account: str = "budget:acme", window: Window = "day") -> float:
        """In dollars."""
        self.desk.advance(self.now_ms)
        return self.balance(account, window).posted_nanos / USD

    def pending(self, account: str = "budget:acme", window: Window = "day") -> float:
        """In dollars."""
        self.desk.advance(self.now_ms)
        return self.balance(account, window).pending_nanos / USD

    def answers(self) -> dict[str, Granted | Denied | CountFirst]:
        """What parked calls were answered since the last time, in order. Acknowledges it."""
        messages = [m for m in self.desk.state.outbox.messages if isinstance(m, ParkedAnswer)]
        self.desk.delivered(Delivery(delivered=tuple(m.sequence for m in messages)), self.now_ms)
        return {_hold_id(message.answer): message.answer for message in messages}

    def served(self) -> list[str]:
        """The hold ids of the parked calls that were granted since the last time, in order."""
        answers = self.answers()
        assert all(isinstance(answer, Granted) for answer in answers.values()), answers
        return list(answers)

    def withdrawn(self) -> list[str]:
        """The hold ids of the grants that were taken back since the last time."""
        messages = [m for m in self.desk.state.outbox.messages if isinstance(m, Withdrawn)]
        self.desk.delivered(Delivery(delivered=tuple(m.sequence for m in messages)), self.now_ms)
        return [message.hold_id for message in messages]

    def alerts(self, what: AlertKind | None = None) -> list[Alert]:
        """The alerts that were not stored yet. Without `what`, all of them."""
        found = [n for n in self.desk.state.outbox.notices if isinstance(n, Alert)]
        return [alert for alert in found if what is None or alert.what == what]

    def new_alerts(self) -> list[AlertKind]:
        """What was alerted since the last time. The database stores it."""
        found = self.alerts()
        self.desk.delivered(Delivery(delivered=tuple(alert.sequence for alert in found)), self.now_ms)
        return [alert.what for alert in found]

    def cap_changes(self) -> list[CapChange]:
        return [notice for notice in self.desk.state.outbox.notices if isinstance(notice, CapChange)]


def _hold_id(answer: Granted | Denied | CountFirst) -> str:
    return answer.grant.hold_id if isinstance(answer, Granted) else answer.hold_id


def is_ended(answer: Answer) -> bool:
    return isinstance(answer, Ended)
