"""A desk that judges stored holds under another configuration, and lets all of them go on.

It is the ledger's own (paymaster/admission), in books that begin empty, with every cap and limit watched only. What
rows do not say is taken from what they do: a hold is as large as the bill that came, and a rate limit is charged with
the tokens that were used.
"""

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import NamedTuple

from paymaster.admission.accounts import Account, Balance
from paymaster.admission.book_changes import why_short
from paymaster.admission.desk import Desk
from paymaster.admission.state import DeskState
from paymaster.messages import (
    AttemptReport,
    CallRef,
    Candidate,
    Delivery,
    DeskConfig,
    LoadedSpend,
    Parked,
    Reserve,
    Settle,
    Void,
)
from paymaster.reports.replayed import Obstacle, Refusal, Span, StoredHold
from paymaster.reports.replayed_spend import ReplayedSpend, Spent
from paymaster.values.money import AT_CHOICE, Price

_NAME = "what-if"
_NEVER_MS = 10**12
"""Longer than any replay."""


class Judged(NamedTuple):
    obstacles: list[Obstacle]
    """Every cap and limit that had no room for the call."""
    refusal: Refusal | None
    """Why the call got no hold as it asked for one. None: it got one."""


class ReplayedDesk:
    def __init__(self, config: DeskConfig) -> None:
        self._expires_after_ms = config.hold_expires_after_ms
        self._spend = ReplayedSpend()
        self._ends: list[tuple[int, int, AttemptReport | Settle]] = []
        """What is still to come of the holds in flight: when, a number that orders what comes at once, and what."""
        self._numbers = 0
        self._desk = Desk(DeskState(ledger=_NAME, epoch=_NAME))
        self._ledger = self._desk.ledger
        self._desk.configure(_watched(config), 0)
        self._load()

    @property
    def _now_ms(self) -> int:
        return self._desk.state.now_ms

    def judge(self, stored: StoredHold) -> Judged:
        """Replays one hold. They are given in the order of their grants."""
        self._end_until(stored.granted_at_ms)
        self._desk.advance(stored.granted_at_ms)
        request = self._request(stored)
        limits = [] if stored.is_purchase else list(self._limits(request, stored))
        refusal = self._ask(request)
        hold = self._ledger.holds.get(request.hold_id)
        if hold is None:
            return Judged(limits, refusal)
        caps = list(self._caps(hold.accounts, stored.cost_nanos))
        self._remember(hold.accounts)
        self._will_end(request.hold_id, stored)
        return Judged(limits + caps, None)

    # ------------------------------------------------------------ a hold

    def _request(self, stored: StoredHold) -> Reserve:
        """Under an id of its own: what a Temporal that was put back sent again was another request."""
        hold_id = str(self._next_number())
        # By its source, the price is this call's alone: one that differs from the last is nothing to tell.
        price = Price(input_nanos=0, output_nanos=0, request_nanos=stored.cost_nanos, source=f"{_NAME}{AT_CHOICE}")
        candidate = Candidate(
            service=stored.service,
            model=stored.model,
            max_output_tokens=0,
            media_tokens=stored.tokens,
            price=price,
            purchase=stored.is_purchase,
        )
        return Reserve(
            hold_id=hold_id,
            call=CallRef(workflow_id=stored.call_id, run_id=hold_id),
            budget=stored.budgets[0],
            further_budgets=stored.budgets[1:],
            run=stored.run,
            candidates=(candidate,),
            input_bytes=0,
            on_exhausted="wait",
            deadline_at_ms=stored.granted_at_ms + _NEVER_MS,
            asked_at_ms=stored.granted_at_ms,
        )

    def _ask(self, request: Reserve) -> Refusal | None:
        """Asks for a hold. None: there is one."""
        answer = self._desk.handle(request, self._now_ms)
        if isinstance(answer, Parked):
            self._let_wait(request.hold_id)
        return None if request.hold_id in self._ledger.holds else self._refusal(request.hold_id)

    def _let_wait(self, hold_id: str) -> None:
        """Does what the desk has to read first, or has put off to the next moment."""
        desk, at_ms = self._desk, self._now_ms
        self._load()
        if desk.queue.get(hold_id) is not None:
            desk.advance(at_ms + 1)
        desk.delivered(Delivery(delivered=tuple(each.sequence for each in desk.state.outbox.messages)), self._now_ms)

    def _refusal(self, hold_id: str) -> Refusal:
        """What the call would wait for, or why it was denied. It waits no longer."""
        call = self._desk.queue.get(hold_id)
        if call is not None:
            self._desk.handle(Void(hold_id=hold_id), self._now_ms)
            return Refusal(call.waits[0][0], call.detail, waits=True)
        ended = self._desk.state.end_of(hold_id)
        assert ended is not None
        assert ended.denied is not None  # a new hold id ends by a denial alone
        return Refusal(ended.denied.reason, ended.denied.detail, waits=False)

    def _will_end(self, hold_id: str, stored: StoredHold) -> None:
        """After each attempt but the last there was one more request, of which the ledger heard a moment later."""
        *failed, last = stored.attempts_ended_ms or (stored.granted_at_ms + self._expires_after_ms,)
        for at_ms in failed:
            self._later(at_ms + 1, AttemptReport(hold_id=hold_id, service=stored.service))
        self._later(last, Settle(hold_id=hold_id, cost_nanos=stored.cost_nanos, epoch=_NAME))

    def _later(self, at_ms: int, what: AttemptReport | Settle) -> None:
        heappush(self._ends, (at_ms, self._next_number(), what))

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _end_until(self, now_ms: int) -> None:
        while self._ends and self._ends[0][0] <= now_ms:
            at_ms, _, what = heappop(self._ends)
            at_ms = max(at_ms, self._now_ms)  # by its worker's clock, it may have ended before it began
            if isinstance(what, Settle):
                self._desk.handle(what, at_ms)
            else:
                self._desk.report(what, at_ms)

    # ------------------------------------------------------------ what was spent before

    def _load(self) -> None:
        """Answers the desk as the database would, if it had the replayed calls alone."""
        while (wanted := self._desk.to_load()) is not None:
            posted = {account: self._spend.of(account, self._now_ms) for account in wanted.accounts}
            self._desk.loaded(LoadedSpend(number=wanted.number, posted_nanos=posted), self._now_ms)

    def _remember(self, accounts: Iterable[str]) -> None:
        """The desk forgets accounts of templates and runs, and asks for them when they come back."""
        for account in map(self._ledger.accounts.__getitem__, accounts):
            if account.is_on_demand:
                capped = (balance for balance in account.balances.values() if balance.cap_nanos is not None)
                self._spend.remember(account.key, tuple(map(self._spent, capped)), self._now_ms)

    def _spent(self, balance: Balance) -> Spent:
        ends_ms = self._ledger.end_ms(balance)
        return Spent(balance.window, ends_ms, balance.posted_nanos + balance.pending_nanos)

    # ------------------------------------------------------------ what is in the way

    def _limits(self, request: Reserve, stored: StoredHold) -> Iterable[Obstacle]:
        """Those that have no room for a call that asks now."""
        for key in self._ledger.charged_accounts(request, stored.service):
            limiter = self._ledger.accounts[key].limiter
            if limiter.concurrent_max is not None and limiter.is_full:
                yield Obstacle(key, "max_concurrent", limiter.concurrent_max, None, (key,))
            if limiter.requests is not None and (wait_ms := limiter.requests.wait_ms(1, self._now_ms)):
                yield Obstacle(key, "requests_per_minute", limiter.requests.per_minute, wait_ms, (key,))
            if limiter.tokens is not None and (wait_ms := limiter.tokens.wait_ms(stored.tokens, self._now_ms)):
                yield Obstacle(key, "tokens_per_minute", limiter.tokens.per_minute, wait_ms, (key,))

    def _caps(self, accounts: Iterable[str], cost_nanos: int) -> Iterable[Obstacle]:
        """Those that the last grant was let through by. Takes the count away: what is there next is of the next one."""
        for account in map(self._ledger.accounts.__getitem__, accounts):
            for balance in account.balances.values():
                if balance.let_through and balance.cap_nanos is not None:
                    balance.let_through = 0
                    yield self._cap(account, balance, balance.cap_nanos, cost_nanos)

    def _cap(self, account: Account, balance: Balance, cap_nanos: int, cost_nanos: int) -> Obstacle:
        ends_ms = self._ledger.end_ms(balance)
        name, said_by = _name(account)
        return Obstacle(
            name,
            balance.window,
            cap_nanos,
            said_by=said_by,
            wait_ms=None if ends_ms is None else ends_ms - self._now_ms,
            window=Span(self._ledger.calendars.starts_ms(account.time_zone)[balance.window], ends_ms),
            never_fits=why_short(balance, cap_nanos, cost_nanos) == "impossible",
        )


def _name(account: Account) -> tuple[str, tuple[str, ...]]:
    """What an account is called, and whose configuration says its caps. There are many runs, and all that the same
    budgets limit have one name."""
    if account.run is None:
        return account.key, (account.key,)
    budgets = account.run.budgets
    return f"runs of {' and '.join(each.removeprefix('budget:') for each in budgets)}", budgets


def _watched(config: DeskConfig) -> DeskConfig:
    """The configuration with all of its accounts watched only, and holds that end when their rows say."""
    quiet = {"enforce": False, "alert_at": ()}
    return config.model_copy(
        update={
            "budgets": {path: each.model_copy(update=quiet) for path, each in config.budgets.items()},
            "services": {name: each.model_copy(update=quiet) for name, each in config.services.items()},
            "hold_expires_after_ms": _NEVER_MS,
        }
    )
