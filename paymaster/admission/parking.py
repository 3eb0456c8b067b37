"""The parked calls of a desk: who is parked, who is woken, and when."""

from dataclasses import replace

from paymaster.admission import alert_texts
from paymaster.admission.alert_policy import AlertPolicy
from paymaster.admission.books import Ledger
from paymaster.admission.counting import COUNTED_WITHIN_MS, count_first, first_helped, with_count_in_the_way
from paymaster.admission.denials import MONEY_SHORT, Explained, explained, least_short, with_way_out
from paymaster.admission.first_fit import FIRST, Place
from paymaster.admission.granting import Granting
from paymaster.admission.on_demand import OnDemand
from paymaster.admission.outbox import Outbox
from paymaster.admission.parked_call import ParkedCall, decide
from paymaster.admission.queue import ParkedQueue
from paymaster.admission.routing import Choice, Obstacle, choose, until_counted
from paymaster.admission.rules_1 import due_by_scan, serve_by_scan
from paymaster.admission.state import DeskState
from paymaster.messages import Answer, Candidate, Granted, Reserve, Window
from paymaster.values.cut import cut
from paymaster.values.limits import (
    ASKED_AT_ONCE_MAX,
    AT_ONCE_MAX,
    CALL_MESSAGES_MAX,
    CANDIDATES_PARKED_MAX,
    DETAIL_BYTES_MAX,
    IN_VAIN_MAX,
    LOOKED_AT_MAX,
)

_ASKED_BY_A_CALL = 3
"""What a call takes besides its candidates, as candidates."""


class Parking:
    def __init__(
        self, state: DeskState, ledger: Ledger, outbox: Outbox, alerts: AlertPolicy, granting: Granting
    ) -> None:
        self._state, self._ledger, self._outbox = state, ledger, outbox
        self._alerts, self._granting = alerts, granting
        queue = self.queue = ParkedQueue(state.parked, ledger, state.gates, state.now_ms)
        # Without a reference to `self`, so that a desk is gone as soon as nobody needs it.
        self.on_demand = OnDemand(state, ledger, alerts, lambda: (call.reserve for call in queue))
        self.due_ms = 0
        """When something may happen by itself. Looking earlier is harmless, looking later delays it."""
        self._asked = 0
        """Candidates of calls that asked for a hold in one activation, and three for each call."""
        self._served = self._in_vain = self._looked_at = 0
        """Parked calls, and their candidates that were looked at, in one activation."""
        self._clock_ms = 0

    @property
    def at_once_max(self) -> int | None:
        """Calls or holds whose time is over that are taken at once. None: all."""
        return AT_ONCE_MAX if self._state.rules >= 2 else None

    def in_activation_of(self, clock_ms: int) -> None:
        """A workflow's time stands still while it is activated. The desk's own may stand still for minutes, while it
        waits for a clock that is behind."""
        if clock_ms != self._clock_ms:
            self._clock_ms = clock_ms
            self._served = self._in_vain = self._looked_at = self._asked = 0

    # ------------------------------------------------------------ a call comes or goes

    def choose(self, request: Reserve, place: Place) -> Choice | list[Obstacle]:
        """What a call at this place in the queue gets now, or what is in the way of each of its candidates."""
        state = self._state
        if (full := self.on_demand.open_for(request)) is not None:
            return [full] * len(request.candidates)
        found = choose(
            request,
            self._ledger,
            state.gates,
            state.now_ms,
            lambda accounts: self.queue.comes_first(place, accounts, state.freed, state.now_ms),
        )
        if isinstance(found, Choice) or state.rules < 2:
            return found
        found = [
            with_way_out(self._until_counted(candidate, obstacle, request), request, state.config)
            for obstacle, candidate in zip(found, request.candidates, strict=True)
        ]
        if state.began:
            return found
        return [
            _until_it_began(obstacle, candidate.service)
            for obstacle, candidate in zip(found, request.candidates, strict=True)
        ]

    def _until_counted(self, candidate: Candidate, obstacle: Obstacle, request: Reserve) -> Obstacle:
        return until_counted(candidate, obstacle, request, self._ledger, self._state.gates, self._state.now_ms)

    def too_much_asked(self, request: Reserve) -> Obstacle | None:
        """Why the call is not looked at now: so many asked at once. The next activation does."""
        self._asked += len(request.candidates) + _ASKED_BY_A_CALL
        if self._asked <= ASKED_AT_ONCE_MAX or self._state.rules < 2:
            return None
        account = next(iter(self._ledger.charged_accounts(request, request.candidates[0].service)), None)
        if account is None:
            return None
        self._state.freed.add(account)
        self.remind(self._state.now_ms + 1)
        return Obstacle("transient", "claimed", "the ledger was asked for more than it could look at at once", account)

    def granted(self, request: Reserve, choice: Choice) -> Granted:
        granted = self._granting.grant(request, choice)
        self.remind(granted.grant.expires_at_ms)
        return granted

    def park_or_deny(self, request: Reserve, obstacles: list[Obstacle]) -> Answer:
        """Parks a call that nothing fits for now, if it may wait and waiting may help; unless to count its tokens may
        help at once."""
        if (helped := first_helped(request, obstacles)) is not None:
            return count_first(request, helped)
        state, hold_id, deciding = self._state, request.hold_id, decide(obstacles)
        may_wait = request.deadline_at_ms > state.now_ms
        self._alerts.obstacles(obstacles, self._told_as_parked(request, deciding) if may_wait else None)
        self._hold_runaway(deciding, request)
        if deciding.kind == "impossible" or (deciding.kind != "transient" and request.on_exhausted == "fail"):
            why = self._why(request, obstacles)
            return self._granting.deny(hold_id, deciding.reason, why.detail, why.in_the_way)
        if request.deadline_at_ms <= state.now_ms and state.now_ms >= state.clock.doubted_until_ms:
            return self._granting.deny(hold_id, "waited_too_long", deciding.detail)
        parked, waiting = len(self.queue), len(state.outbox.messages)
        if parked >= state.config.max_parked:
            self._alerts.queue_full(alert_texts.calls_parked(parked))
            return self._granting.deny(hold_id, "queue_full", f"{alert_texts.calls_parked(parked)} already")
        if waiting >= CALL_MESSAGES_MAX and state.rules >= 2:
            self._alerts.queue_full(alert_texts.answers_waiting(waiting))
            return self._granting.deny(hold_id, "queue_full", alert_texts.answers_waiting(waiting))
        candidates = self.queue.candidates
        if candidates + len(request.candidates) > CANDIDATES_PARKED_MAX and state.rules >= 2:
            self._alerts.queue_full(alert_texts.candidates_parked(candidates))
            return self._granting.deny(hold_id, "queue_full", alert_texts.candidates_parked(candidates))
        call = ParkedCall(request, self._outbox.next_sequence(), state.now_ms)
        self.queue.add(call, obstacles, state.now_ms)
        self._remind_of(call)
        self.remind(request.deadline_at_ms)
        self._tell_parked(call, deciding, obstacles)
        return call.answer()

    def _told_as_parked(self, request: Reserve, deciding: Obstacle) -> Obstacle | None:
        """What the call will wait for: one event is one alert. 0.1.0 gave two."""
        return deciding if request.on_exhausted == "wait" and self._state.rules >= 2 else None

    def _tell_parked(self, call: ParkedCall, deciding: Obstacle, obstacles: list[Obstacle]) -> None:
        calls = 0 if deciding.account is None else self.queue.waiting_in(deciding.account)
        deadline_ms = call.reserve.deadline_at_ms
        self._alerts.parked(deciding, calls, deadline_ms, lambda: self._why(call.reserve, obstacles).way_out)

    def _hold_runaway(self, deciding: Obstacle, request: Reserve) -> None:
        """From the call on that makes its run a runaway, all of the run's calls wait for an admin."""
        account = None if deciding.account is None else self._ledger.accounts.get(deciding.account)
        if deciding.reason == "runaway" and account is not None and account.run is not None and not account.run.held:
            self.on_demand.has_room_for_stopped(request)
            account.run.held = deciding.detail
            self._ledger.mark([account.key])
            self._alerts.runaway(account.key.removeprefix("run:"), deciding.detail, enforced=True)

    def leave(self, hold_id: str) -> None:
        """Its call does not wait any more, if it ever did."""
        if call := self.queue.get(hold_id):
            self.queue.remove(call)
            self._state.freed.update(call.waits_for | call.keeps)  # its claim may have kept somebody waiting

    # ------------------------------------------------------------ who is woken

    def deny_overdue(self) -> None:
        for call in self.queue.take_overdue(self._state.now_ms, self.at_once_max):
            waited_s = (self._state.now_ms - call.parked_at_ms) // 1000
            why = self._why_still(call)
            self._deny(call, "waited_too_long", why._replace(detail=f"parked for {waited_s} s; {why.detail}"))
            self._state.freed.update(call.waits_for | call.keeps)  # its claim may have kept somebody waiting

    def serve(self) -> None:
        """Grants, in the queue's order, what fits now. Only calls for which something has changed are looked at."""
        state, now_ms = self._state, self._state.now_ms
        if state.rules < 2:
            freed, state.freed = state.freed, set()
            serve_by_scan(self.queue, self._ledger, freed, now_ms, self._serve)
            return
        if not len(self.queue):
            state.freed, state.look_from = set(), None
            return
        self.queue.begin_claims(now_ms)
        state.freed.update(self.queue.take_alarms(now_ms))
        if not self._may_look:
            return
        round_ = self.queue.round(state.freed, state.look_from, now_ms)
        state.freed, state.look_from = set(), None
        while self._may_look and (call := round_.next()) is not None:
            claimed, counted = self.queue.claims.end(call), frozenset(filter(None, [call.counts_in()]))
            self._looked_at += len(call.reserve.candidates)
            if self._serve(call):
                self._served += 1
                kept = frozenset[str]()
            else:
                self._in_vain += 1
                kept = self.queue.claims.claim(call, now_ms)
            # It keeps those accounts from nobody behind it any more, and may count there no more.
            round_.free((claimed - kept) | counted)
        state.freed, state.look_from = round_.freed, round_.everybody_from
        self.remind(now_ms + 1 if self.is_left else self.queue.change_ms())

    def file_again(self) -> None:
        """After accounts were opened or closed, or limits or breakers changed."""
        self.queue.file_again(self._state.now_ms)
        self.look_at_everybody()

    def account_opened(self, path: str) -> None:
        """After one more budget got an account: the calls below it are charged there too."""
        self.queue.file_below(path)
        self.look_at_everybody()

    def look_at_everybody(self) -> None:
        """Whoever waits for anything; a lowered cap, say, makes impossible what waits for a place."""
        self._state.freed |= self._ledger.accounts.keys()
        if self._state.rules >= 2:
            self._state.look_from = FIRST

    @property
    def _may_look(self) -> bool:
        return self._served < AT_ONCE_MAX and self._in_vain < IN_VAIN_MAX and self._looked_at < LOOKED_AT_MAX

    @property
    def is_left(self) -> bool:
        return bool(self._state.freed) or self._state.look_from is not None

    def _serve(self, call: ParkedCall) -> bool:
        """Grants a parked call, or denies it if waiting does not help any more. False: it waits on, where to count its
        tokens may help until it has."""
        found = self.choose(call.reserve, call.place())
        if isinstance(found, Choice):
            self.queue.remove(call)
            self._outbox.answer(call.reserve.call, self.granted(call.reserve, found))
            return True
        found = self._told_to_count(call, found)
        deciding = self._told_of(call, found)
        if self._helps_no_more(call, deciding):
            self._deny(call, deciding.reason, self._why(call.reserve, found))
            return True
        self.queue.note(call, found, self._state.now_ms)
        self._remind_of(call)
        self._tell_parked(call, deciding, found)
        return False

    def counted(self, call: ParkedCall, request: Reserve) -> Answer:
        """A parked call asks again when it has counted its tokens: it is looked at, at its place."""
        self.leave(request.hold_id)
        call = replace(call, reserve=request, waits_for=frozenset(), waits=())
        found = self.choose(request, call.place())
        if isinstance(found, Choice):
            return self.granted(request, found)
        helped, now_ms = first_helped(request, found), self._state.now_ms
        counts = helped is not None and self.queue.counting.has_room(f"service:{helped.service}", now_ms)
        if helped is not None:
            found = with_count_in_the_way(found, helped, now_ms + COUNTED_WITHIN_MS if counts else None)
        deciding = self._told_of(call, found)
        if self._helps_no_more(call, deciding):
            why = self._why(request, found)
            return self._granting.deny(request.hold_id, deciding.reason, why.detail, why.in_the_way)
        self.queue.add(call, found, now_ms)
        self.queue.claims.claim(call, now_ms)
        self._remind_of(call)
        self._tell_parked(call, deciding, found)
        return count_first(request, helped) if helped is not None and counts else call.answer()

    def _told_to_count(self, call: ParkedCall, found: list[Obstacle]) -> list[Obstacle]:
        """What is in its way then, where to count may help: that it does, or that many others do."""
        helped = first_helped(call.reserve, found)
        if helped is None:
            return found
        until_ms, now_ms = call.counts_until_ms, self._state.now_ms
        is_late = until_ms is not None and (until_ms <= now_ms or call.counts_in() is None)
        if until_ms is None or until_ms <= now_ms:
            tells = is_late or self.queue.counting.has_room(f"service:{helped.service}", now_ms)
            until_ms = now_ms + COUNTED_WITHIN_MS if tells else None
            if tells:
                self._outbox.answer(call.reserve.call, count_first(call.reserve, helped))
        return with_count_in_the_way(found, helped, until_ms, is_late=is_late)

    def _told_of(self, call: ParkedCall, found: list[Obstacle]) -> Obstacle:
        """What decides about a parked call, when those were told who want to know."""
        deciding = decide(found)
        self._alerts.obstacles(found, self._told_as_parked(call.reserve, deciding))
        self._hold_runaway(deciding, call.reserve)
        return deciding

    def _helps_no_more(self, call: ParkedCall, deciding: Obstacle) -> bool:
        """Whether there is nothing to wait for."""
        # never: a cap was lowered below its bound. gone: what it waited for, money on hold, was spent after all.
        failing = call.reserve.on_exhausted == "fail" and deciding.kind != "transient"
        return failing or deciding.kind == "impossible" or (deciding.kind == "breaker_open" and self._cooled_down(call))

    def _cooled_down(self, call: ParkedCall) -> bool:
        """It has waited for a whole cooldown, and every service fails again: its agent must go on without."""
        since_ms = call.open_since_ms
        return since_ms is not None and self._state.now_ms >= since_ms + call.cooldown_ms(self._state.gates)

    def _deny(self, call: ParkedCall, reason: str, why: Explained) -> None:
        self.queue.remove(call)
        denied = self._granting.deny(call.reserve.hold_id, reason, why.detail, why.in_the_way)
        self._outbox.answer(call.reserve.call, denied)

    def _why(self, request: Reserve, obstacles: list[Obstacle]) -> Explained:
        if self._state.rules < 2:
            return Explained(_details(obstacles), ())
        pairs = list(zip(request.candidates, obstacles, strict=True))
        short = [candidate for candidate, obstacle in pairs if obstacle.reason in MONEY_SHORT]
        others = [obstacle.detail for obstacle in obstacles if obstacle.reason not in MONEY_SHORT]
        return self._explained(request, short, others)

    def _why_still(self, call: ParkedCall) -> Explained:
        """What is in the way of a call whose time is over."""
        if self._state.rules < 2:
            return Explained(call.detail, ())
        short = self._short_candidates(call)
        why = self._explained(call.reserve, short, [call.detail] if len(short) < len(call.waits) else [])
        return why if why.detail else Explained(call.detail, ())

    def short_of(self, call: ParkedCall) -> tuple[int, tuple[tuple[str, Window], ...]]:
        """What it can cost, and the caps that have no room for that; zero and none, where it waits for no money."""
        return least_short(call.reserve, self._short_candidates(call), self._ledger, self._state.gates)

    def _short_candidates(self, call: ParkedCall) -> list[Candidate]:
        """Those that money was short for when the call was looked at last."""
        gates = self._state.gates  # one that the configuration does not name any more has none
        return [
            each
            for each, (reason, _) in zip(call.reserve.candidates, call.waits, strict=False)
            if reason in MONEY_SHORT and (each.purchase or each.service in gates)
        ]

    def _explained(self, request: Reserve, short: list[Candidate], others: list[str]) -> Explained:
        signs = self._state.config.admin.require_signature
        return explained(request, short, others, self._ledger, self._state.gates, signs=signs)

    # ------------------------------------------------------------ when

    def remind(self, at_ms: int) -> None:
        """Something may happen at this time."""
        self.due_ms = min(self.due_ms, at_ms)

    def first_end_ms(self) -> int:
        """When the first hold expires or the first parked call comes to its deadline."""
        return min(self._ledger.next_expiry_ms(), self.queue.first_deadline_ms())

    def set_due(self) -> None:
        """After everything that was due has happened, or as much of it as may happen at once."""
        now_ms, not_before_ms = self._state.now_ms, self._state.clock.doubted_until_ms
        ends_ms = max(self.first_end_ms(), not_before_ms)
        if self._state.rules < 2:
            self.due_ms = min(ends_ms, due_by_scan(self.queue, now_ms))
            return
        self.due_ms = now_ms if self.is_left else min(ends_ms, self.queue.change_ms())
        self.due_ms = max(self.due_ms, now_ms + 1)  # what was too much for now goes on then

    def _remind_of(self, call: ParkedCall) -> None:
        for at_ms in (call.retry_at_ms, call.claims_at_ms(), self.queue.change_ms()):
            if at_ms is not None:
                self.remind(at_ms)


def _until_it_began(obstacle: Obstacle, service: str) -> Obstacle:
    """Before the ledger knows what was stored, a budget that it does not know may be there."""
    if obstacle.reason != "unknown_budget":
        return obstacle
    detail = "which budgets there are is being loaded"
    return Obstacle("transient", "loading", detail, f"service:{service}")


def _details(obstacles: list[Obstacle]) -> str:
    """Once each: an unknown budget is so for every candidate."""
    return cut("; ".join(dict.fromkeys(obstacle.detail for obstacle in obstacles)), DETAIL_BYTES_MAX)
