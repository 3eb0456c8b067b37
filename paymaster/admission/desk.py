"""The desk: one state, one command at a time, one answer. Ledger + routing + the queue of parked calls + the outbox.

The desk is deterministic: the same commands at the same times give the same answers and the same state, also when it is
cut anywhere through `dump` and `Desk.load`. Its time never goes back.
"""

import zlib
from base64 import b64decode, b64encode
from bisect import insort
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from paymaster.admission.ledger import WINDOWS, Hold, Ledger, LedgerState, window_end_ms, window_start_ms
from paymaster.admission.routing import Choice, Obstacle, choose
from paymaster.budget_path import check_budget_path
from paymaster.messages import (
    AccountConfig,
    AccountStatus,
    Answer,
    CapState,
    Command,
    Delivery,
    Denied,
    DeskConfig,
    DeskStatus,
    Ended,
    ExpiredHold,
    Grant,
    Granted,
    OutboxItem,
    Parked,
    ParkedAnswer,
    RaiseCap,
    Reserve,
    ServiceConfig,
    Settle,
    Settled,
    UnknownHold,
    Void,
    WaitingCall,
    WindowStatus,
)
from paymaster.money import NANOS_MAX, format_usd, usd_to_nanos

NEVER_MS = 2**62
CLAIM_AFTER_MS = 60_000
"""A parked call that waits only for holds lets smaller calls pass for this long; then its accounts are kept for it."""
REMEMBER_ENDED_MS = 3_600_000
"""How long the end of a hold is remembered, to answer a command that is sent again."""
REMEMBER_ENDED_MAX = 10_000
"""… and for how many holds at most; a reserve from before what is remembered is answered `ended`."""

WAITING_SHOWN = 20
"""Parked calls in a status; the whole queue can be too large for an answer."""


@dataclass(slots=True)
class ParkedCall:
    reserve: Reserve
    sequence: int
    parked_at_ms: int
    waits_for: frozenset[str] = frozenset()
    """Accounts in which something must be freed."""
    retry_at_ms: int | None = None
    """… or a time that must come."""
    busy_since_ms: int | None = None
    """Since when only holds, limits or pauses are in the way. None: money is gone."""
    detail: str = ""

    def place(self) -> tuple[int, int]:
        """By priority, then order of arrival."""
        return (-self.reserve.priority, self.sequence)

    def claims_at_ms(self) -> int | None:
        return None if self.busy_since_ms is None else self.busy_since_ms + CLAIM_AFTER_MS


@dataclass(slots=True)
class EndedHold:
    at_ms: int
    posted: bool = False
    expired: bool = False
    denied: Denied | None = None


@dataclass(slots=True)
class DeskState:
    """Everything that the desk knows; what continue-as-new carries."""

    ledger: str
    epoch: str
    rules: int = 1
    now_ms: int = 0
    config: DeskConfig = field(default_factory=lambda: DeskConfig(digest=""))
    books: LedgerState = field(default_factory=LedgerState)
    parked: dict[str, ParkedCall] = field(default_factory=dict[str, ParkedCall])
    ended: dict[str, EndedHold] = field(default_factory=dict[str, EndedHold])
    forgotten_until_ms: int = 0
    """Ends of holds before this time are no longer remembered."""
    outbox: list[OutboxItem] = field(default_factory=list[OutboxItem])
    sequence: int = 0
    refused_messages: list[str] = field(default_factory=list[str])


_STATE = TypeAdapter(DeskState)


class Desk:
    def __init__(self, state: DeskState) -> None:
        self.state = state
        self.ledger = Ledger(state.books)
        self._queue = sorted(state.parked.values(), key=ParkedCall.place)
        self._freed: set[str] = set()
        self._claims: dict[str, tuple[int, int]] = {}
        self._minute_ends_ms = 0
        self.due_ms = 0
        """When something may happen by itself. Looking earlier is harmless, looking later delays it."""

    @classmethod
    def load(cls, dumped: str) -> "Desk":
        return cls(_STATE.validate_json(zlib.decompress(b64decode(dumped))))

    def dump(self) -> str:
        """The whole state as compressed text: 10,000 budgets fit into a Temporal payload (2 MiB) only so."""
        return b64encode(zlib.compress(_STATE.dump_json(self.state))).decode()

    # ------------------------------------------------------------ commands

    def handle(self, command: Command, now_ms: int) -> Answer:
        """Answers one command. What it frees is given to parked calls before anybody who comes later."""
        self.advance(now_ms)
        match command:
            case Reserve():
                return self._reserve(command)
            case Settle():
                return self._settle(command)
            case Void():
                return self._void(command)

    def advance(self, now_ms: int) -> None:
        """Lets time pass: windows end, holds expire, parked calls come to their deadline or get what was freed."""
        state = self.state
        state.now_ms = now_ms = max(state.now_ms, now_ms)
        if now_ms >= self._minute_ends_ms:
            self._freed |= self.ledger.roll_windows(now_ms)
            self._minute_ends_ms = window_start_ms("minute", now_ms) + 60_000
            self._forget_ended()
        if now_ms >= self.due_ms:
            self._expire_holds()
            self._deny_overdue()
            self._serve_parked()
            self._set_due()
        elif self._freed:
            self._serve_parked()

    def configure(self, config: DeskConfig, now_ms: int) -> None:
        """Applies a configuration. Caps that an admin changed stay until the file's own value changes."""
        self.advance(now_ms)
        if config.digest == self.state.config.digest:
            return
        before, self.state.config = self.state.config, config
        wanted = _account_configs(config)
        for key in _account_configs(before).keys() - wanted.keys():
            self.ledger.configure(key, AccountConfig())
        for key, account in wanted.items():
            self.ledger.configure(key, account)
        self._freed |= self.ledger.accounts.keys()
        self.advance(now_ms)

    def raise_cap(self, change: RaiseCap, now_ms: int) -> CapState:
        """Adds to a cap. Raises ValueError, which says what exists, for an account or a cap that does not."""
        self.advance(now_ms)
        account = self.ledger.accounts.get(change.account)
        if account is None:
            known = ", ".join(sorted(self.ledger.accounts)) or "none"
            raise ValueError(f"there is no account {change.account!r}; there are: {known}")
        cap = account.balances[change.window].cap_nanos
        if cap is None:
            capped = ", ".join(w for w, b in account.balances.items() if b.cap_nanos is not None) or "none"
            raise ValueError(f"{change.account} has no cap for {change.window!r}; capped windows: {capped}")
        by = usd_to_nanos(change.by)
        if by <= 0:
            raise ValueError(f"a cap is raised by a positive amount, not by {change.by}")
        if cap + by > NANOS_MAX:
            raise ValueError(f"a cap of {format_usd(cap + by)} is more than the books can hold")
        self.ledger.set_cap(change.account, change.window, cap + by)
        self._freed.add(change.account)
        self.advance(now_ms)
        return CapState(account=change.account, window=change.window, cap_nanos=cap + by)

    def refuse_message(self, text: str) -> None:
        """Keeps a message that could not be applied where operators see it."""
        self.state.refused_messages = [*self.state.refused_messages[-19:], text]

    def delivered(self, delivery: Delivery, now_ms: int) -> None:
        """Takes delivered items out of the outbox. A call that is gone gets nothing: its hold is free again."""
        done = {*delivery.delivered, *delivery.gone}
        gone = set(delivery.gone)
        for item in self.state.outbox:
            if item.sequence in gone and isinstance(item, ParkedAnswer) and isinstance(item.answer, Granted):
                self._void(Void(hold_id=item.answer.grant.hold_id))
        self.state.outbox = [item for item in self.state.outbox if item.sequence not in done]
        self.advance(now_ms)

    def status(self) -> DeskStatus:
        waiting: dict[str, int] = {}
        for call in self._queue:
            for key in call.waits_for:
                waiting[key] = waiting.get(key, 0) + 1
        return DeskStatus(
            ledger=self.state.ledger,
            epoch=self.state.epoch,
            config_digest=self.state.config.digest,
            accounts=tuple(
                AccountStatus(
                    account=key,
                    parked=waiting.get(key, 0),
                    windows=tuple(
                        WindowStatus(
                            window=window,
                            cap_nanos=account.balances[window].cap_nanos,
                            posted_nanos=account.balances[window].posted_nanos,
                            pending_nanos=account.balances[window].pending_nanos,
                            ends_at_ms=window_end_ms(window, self.state.now_ms),
                        )
                        for window in WINDOWS
                        if window == "total" or account.balances[window].cap_nanos is not None
                    ),
                )
                for key, account in sorted(self.ledger.accounts.items())
            ),
            holds=sum(hold.state == "pending" for hold in self.ledger.holds.values()),
            parked=len(self._queue),
            outbox=len(self.state.outbox),
            unconfirmed=sum(hold.state == "unconfirmed" for hold in self.ledger.holds.values()),
            waiting=tuple(
                WaitingCall(
                    workflow_id=call.reserve.call.workflow_id,
                    budget=call.reserve.budget,
                    parked_at_ms=call.parked_at_ms,
                    deadline_at_ms=call.reserve.deadline_at_ms,
                    detail=call.detail,
                )
                for call in self._queue[:WAITING_SHOWN]
            ),
            refused_messages=tuple(self.state.refused_messages),
        )

    # ------------------------------------------------------------ reserve

    def _reserve(self, request: Reserve) -> Answer:
        hold_id = request.hold_id
        if hold := self.ledger.holds.get(hold_id):
            return Granted(grant=hold.grant) if hold.state == "pending" else Ended(hold_id=hold_id)
        if call := self.state.parked.get(hold_id):
            return Parked(hold_id=hold_id, deadline_at_ms=call.reserve.deadline_at_ms, detail=call.detail)
        if ended := self.state.ended.get(hold_id):
            return ended.denied or Ended(hold_id=hold_id)
        if request.asked_at_ms < self.state.forgotten_until_ms:
            return Ended(hold_id=hold_id)
        try:
            check_budget_path(request.budget)
        except ValueError as error:
            return self._deny(hold_id, "bad_budget", str(error))

        place = (-request.priority, self.state.sequence + 1)
        found = self._choose(request, place)
        if isinstance(found, Choice):
            return self._grant(request, found)
        return self._park_or_deny(request, found)

    def _choose(self, request: Reserve, place: tuple[int, int]) -> Choice | list[Obstacle]:
        def is_claimed(accounts: tuple[str, ...]) -> str | None:
            return next((key for key in accounts if key in self._claims and self._claims[key] < place), None)

        return choose(request, self.ledger, self.state.now_ms, is_claimed)

    def _grant(self, request: Reserve, choice: Choice) -> Granted:
        candidate, config = choice.candidate, self.state.config
        service = config.services.get(candidate.service, ServiceConfig())
        assert candidate.price is not None  # `choose` passes over a candidate without a price
        now_ms = self.state.now_ms
        grant = Grant(
            hold_id=request.hold_id,
            budget=request.budget,
            service=candidate.service,
            model=candidate.model,
            price=candidate.price,
            max_output_tokens=candidate.max_output_tokens,
            bound_nanos=choice.bound_nanos,
            granted_at_ms=now_ms,
            expires_at_ms=now_ms + config.hold_expires_after_ms,
            epoch=self.state.epoch,
            timeout_ms=service.timeout_ms,
            retry=service.retry,
            max_retry_after_ms=service.max_retry_after_ms,
            max_unconfirmed=service.max_unconfirmed,
        )
        self.ledger.hold(Hold(request.call, grant, choice.accounts))
        self._remind(grant.expires_at_ms)
        return Granted(grant=grant)

    def _park_or_deny(self, request: Reserve, obstacles: list[Obstacle]) -> Answer:
        deciding = _deciding(obstacles)
        if deciding is None:
            return self._deny(request.hold_id, "no_candidate", "no candidate of the route is left")
        if deciding.kind == "never" or (deciding.kind == "gone" and request.on_exhausted == "fail"):
            details = dict.fromkeys(
                o.detail for o in obstacles
            )  # once each: an unknown budget is so for every candidate
            return self._deny(request.hold_id, deciding.reason, "; ".join(details))
        if request.deadline_at_ms <= self.state.now_ms:
            return self._deny(request.hold_id, "waited_too_long", deciding.detail)
        if len(self._queue) >= self.state.config.max_parked:
            return self._deny(request.hold_id, "queue_full", f"{len(self._queue)} calls are parked already")
        self.state.sequence += 1
        call = ParkedCall(request, self.state.sequence, self.state.now_ms)
        self._note_obstacles(call, obstacles)
        self.state.parked[request.hold_id] = call
        insort(self._queue, call, key=ParkedCall.place)
        self._remind(request.deadline_at_ms)
        return Parked(hold_id=request.hold_id, deadline_at_ms=request.deadline_at_ms, detail=deciding.detail)

    def _deny(self, hold_id: str, reason: str, detail: str) -> Denied:
        denied = Denied(hold_id=hold_id, reason=reason, detail=detail)
        self.state.ended[hold_id] = EndedHold(self.state.now_ms, denied=denied)
        return denied

    # ------------------------------------------------------------ settle and void

    def _settle(self, command: Settle) -> Answer:
        hold = self.ledger.holds.get(command.hold_id)
        if hold is None:
            ended = self.state.ended.get(command.hold_id)
            if ended is not None and ended.posted:
                return Settled(hold_id=command.hold_id, expired=ended.expired)
            return UnknownHold(hold_id=command.hold_id)
        notices = self.ledger.post(command.hold_id, command.cost_nanos, confirmed=command.confirmed)
        self._freed.update(hold.accounts)
        if command.confirmed:
            self.state.ended[command.hold_id] = EndedHold(self.state.now_ms, posted=True, expired=hold.expired)
        return Settled(hold_id=command.hold_id, notices=notices, expired=hold.expired)

    def _void(self, command: Void) -> Answer:
        hold = self.ledger.holds.get(command.hold_id)
        if hold is not None:
            self.ledger.post(command.hold_id, 0, confirmed=True)
            self._freed.update(hold.accounts)
            self.state.ended[command.hold_id] = EndedHold(self.state.now_ms, expired=hold.expired)
            return Settled(hold_id=command.hold_id, expired=hold.expired)
        if call := self.state.parked.pop(command.hold_id, None):
            self._queue.remove(call)
            self._renew_claims()
            self._freed.update(call.waits_for)  # somebody behind it may have been kept waiting by its claim
        ended = self.state.ended.setdefault(command.hold_id, EndedHold(self.state.now_ms))
        return Settled(hold_id=command.hold_id, expired=ended.expired)

    # ------------------------------------------------------------ what happens by itself

    def _expire_holds(self) -> None:
        """Nobody settled in time: the money may have been spent, so the bound stays charged, as unconfirmed."""
        for hold_id, hold in self.ledger.holds.items():
            if hold.state == "pending" and hold.grant.expires_at_ms <= self.state.now_ms:
                self.ledger.post(hold_id, hold.grant.bound_nanos, confirmed=False)
                hold.expired = True
                self._freed.update(hold.accounts)
                self.state.sequence += 1
                self.state.outbox.append(ExpiredHold(sequence=self.state.sequence, call=hold.call, grant=hold.grant))

    def _deny_overdue(self) -> None:
        for call in list(self._queue):
            if call.reserve.deadline_at_ms <= self.state.now_ms:
                waited_s = (self.state.now_ms - call.parked_at_ms) // 1000
                self._answer_parked(
                    call, self._deny(call.reserve.hold_id, "waited_too_long", f"parked for {waited_s} s")
                )

    def _serve_parked(self) -> None:
        """Grants, in the queue's order, what fits now. Only calls that wait for what was freed are looked at."""
        freed, self._freed = self._freed, set()
        if not self._queue:
            return
        self._renew_claims()
        now_ms = self.state.now_ms
        for call in list(self._queue):
            due = call.retry_at_ms is not None and call.retry_at_ms <= now_ms
            if not due and freed.isdisjoint(call.waits_for):
                continue
            found = self._choose(call.reserve, call.place())
            if isinstance(found, Choice):
                self._answer_parked(call, self._grant(call.reserve, found))
                continue
            deciding = _deciding(found)
            # never: a cap was lowered below its bound. gone: what it waited for, money on hold, was spent after all.
            hopeless = {"never", "gone"} if call.reserve.on_exhausted == "fail" else {"never"}
            if deciding is None or deciding.kind in hopeless:
                reason, detail = (deciding.reason, deciding.detail) if deciding else ("no_candidate", "")
                self._answer_parked(call, self._deny(call.reserve.hold_id, reason, detail))
            else:
                self._note_obstacles(call, found)
        self._renew_claims()

    def _answer_parked(self, call: ParkedCall, answer: Granted | Denied) -> None:
        del self.state.parked[call.reserve.hold_id]
        self._queue.remove(call)
        self.state.sequence += 1
        self.state.outbox.append(ParkedAnswer(sequence=self.state.sequence, call=call.reserve.call, answer=answer))

    def _note_obstacles(self, call: ParkedCall, obstacles: list[Obstacle]) -> None:
        deciding = _deciding(obstacles)
        busy = deciding is not None and deciding.kind == "busy"
        call.waits_for = frozenset(o.account for o in obstacles if o.account is not None)
        call.retry_at_ms = min((o.until_ms for o in obstacles if o.until_ms is not None), default=None)
        call.busy_since_ms = (call.busy_since_ms or self.state.now_ms) if busy else None
        call.detail = deciding.detail if deciding else ""
        for at_ms in (call.retry_at_ms, call.claims_at_ms()):
            if at_ms is not None:
                self._remind(at_ms)

    def _renew_claims(self) -> None:
        """Accounts are kept for the first call that has waited long enough for holds in them."""
        self._claims = {}
        for call in self._queue:
            claims_at = call.claims_at_ms()
            if claims_at is not None and claims_at <= self.state.now_ms:
                for key in call.waits_for:
                    self._claims.setdefault(key, call.place())

    def _forget_ended(self) -> None:
        """The dict is in order of time: the oldest ends come first."""
        ended, state = self.state.ended, self.state
        for hold_id in list(ended):
            at_ms = ended[hold_id].at_ms
            if at_ms > state.now_ms - REMEMBER_ENDED_MS and len(ended) <= REMEMBER_ENDED_MAX:
                break
            del ended[hold_id]
            state.forgotten_until_ms = max(state.forgotten_until_ms, at_ms + 1)

    def _remind(self, at_ms: int) -> None:
        self.due_ms = min(self.due_ms, at_ms)

    def _set_due(self) -> None:
        self.due_ms = NEVER_MS
        for hold in self.ledger.holds.values():
            if hold.state == "pending":
                self._remind(hold.grant.expires_at_ms)
        for call in self._queue:
            self._remind(call.reserve.deadline_at_ms)
            for at_ms in (call.retry_at_ms, call.claims_at_ms()):
                if at_ms is not None and at_ms > self.state.now_ms:
                    self._remind(at_ms)


def _account_configs(config: DeskConfig) -> dict[str, AccountConfig]:
    return {f"budget:{path}": account for path, account in config.budgets.items()} | {
        f"service:{name}": account for name, account in config.services.items()
    }


def _deciding(obstacles: list[Obstacle]) -> Obstacle | None:
    """The obstacle that clears soonest decides what happens to the call."""
    for kind in ("busy", "gone", "never"):
        for obstacle in obstacles:
            if obstacle.kind == kind:
                return obstacle
    return None
