"""How holds end: settled, given back, expired; and what that says about their services."""

from paymaster.admission.alert_policy import AlertPolicy
from paymaster.admission.books import Ledger
from paymaster.admission.earlier_ends import ENDS_IN_GROUP
from paymaster.admission.folding import correct_folded, fold
from paymaster.admission.held_runs import take_back
from paymaster.admission.holds import EndedHold, Hold
from paymaster.admission.loading import SpendLoading
from paymaster.admission.outbox import Outbox
from paymaster.admission.parking import Parking
from paymaster.admission.pressure import forget_group
from paymaster.admission.routing import percent_lacked
from paymaster.admission.standing import completed
from paymaster.admission.state import DeskState
from paymaster.messages import Answer, ExpiredHold, Grant, Settle, Settled, UnconfirmedEntry, UnknownHold, Void
from paymaster.values.limits import (
    ENDED_IN_A_MINUTE_MAX,
    FOLDED_AT_ONCE,
    NOTICES_MAX,
    REMEMBER_ENDED_MAX,
    UNCONFIRMED_MAX,
)

REMEMBER_ENDED_MS = 3_600_000
"""How long the end of a hold is remembered, to answer a command that is sent again."""
_YOUNG_MS = 60_000
"""Few commands are sent again later."""


class Settling:
    def __init__(
        self,
        state: DeskState,
        ledger: Ledger,
        outbox: Outbox,
        alerts: AlertPolicy,
        parking: Parking,
        loading: SpendLoading,
    ) -> None:
        self._state, self._ledger, self._outbox = state, ledger, outbox
        self._alerts, self._parking, self._loading = alerts, parking, loading

    def settle(self, command: Settle) -> Answer:
        """Posts what an attempt did cost, or its bound when nobody knows."""
        hold = self._ledger.holds.get(command.hold_id)
        if hold is None:
            return self._settle_unknown(command)
        is_news = hold.state == "pending" or hold.posted_nanos != command.cost_nanos or command.confirmed
        posted = self._ledger.post(command.hold_id, command.cost_nanos, confirmed=command.confirmed)
        self._ledger.release(hold, command.tokens, self._state.now_ms)
        self._state.freed.update(hold.accounts)
        if is_news:  # and not the same settlement sent again
            self._learn_margin(command, hold.grant)
            self._alerts.settlement(command, hold)
        self._alerts.thresholds(posted.crossed)
        self._correct_expiry(hold)
        if not command.confirmed and self._ledger.unconfirmed % FOLDED_AT_ONCE == 0:
            self.fold_unconfirmed()
        if command.confirmed:
            self._state.ended[command.hold_id] = EndedHold(self._state.now_ms, posted=True)
        self._judge_service(command, hold)
        old_rules = self._state.rules < 2
        notices = posted.notices[:NOTICES_MAX] if old_rules else completed(posted.notices, self._ledger)
        return Settled(hold_id=command.hold_id, notices=notices)

    def _learn_margin(self, command: Settle, grant: Grant) -> None:
        """A bill above a counted bound says that this service counts otherwise."""
        if grant.counted_tokens is not None and command.cost_nanos > grant.bound_nanos:
            lacked_percent = percent_lacked(grant, command.cost_nanos)
            self._state.gates[grant.service].billed_above_count(lacked_percent)

    def _settle_unknown(self, command: Settle) -> Answer:
        """Settled before, made by an earlier epoch, folded, or forgotten: never posted blind.

        Its entries were stored before it was sent, so unless this desk knows that it was voided, the stored entries
        tell what is right: they are read again. A folded one that says what it was posted at is corrected at once.
        """
        state, ended = self._state, self._state.end_of(command.hold_id)
        if ended is not None and ended.posted:
            return Settled(hold_id=command.hold_id)
        if ended is None and command.corrects is not None and self._correct_folded(command, command.corrects):
            return Settled(hold_id=command.hold_id)
        is_of_this_epoch = command.epoch in ("", state.epoch)
        knows = ended is not None and not ended.presumed
        if not is_of_this_epoch or (not knows and state.rules > 1):
            state.settled_late = state.settled_late or is_of_this_epoch
            self._loading.reload()
            return Settled(hold_id=command.hold_id)
        self._alerts.unknown_hold(command)
        return UnknownHold(hold_id=command.hold_id)

    def _correct_folded(self, command: Settle, entry: UnconfirmedEntry) -> bool:
        accounts = self._ledger.charged_accounts(entry, entry.service)
        if not correct_folded(self._ledger, accounts, entry.granted_at_ms, entry.posted_nanos, command.cost_nanos):
            return False
        self._state.freed.update(accounts)
        self._state.ended[command.hold_id] = EndedHold(self._state.now_ms, posted=True)
        return True

    def void(self, command: Void) -> Answer:
        """Gives back what nobody will use, or takes a parked call out of the queue."""
        hold = self._ledger.holds.get(command.hold_id)
        if hold is not None:
            if not hold.failures_told:
                take_back(hold, self._ledger.accounts)
            self._ledger.post(command.hold_id, 0, confirmed=True)
            self._ledger.release(hold, 0, self._state.now_ms)
            self._state.freed.update(hold.accounts)
            self._probed(hold)
            self._correct_expiry(hold)
            self._state.ended[command.hold_id] = EndedHold(self._state.now_ms)
            return Settled(hold_id=command.hold_id)
        self._parking.leave(command.hold_id)
        if self._state.end_of(command.hold_id) is None:
            self._state.ended[command.hold_id] = EndedHold(self._state.now_ms)
        return Settled(hold_id=command.hold_id)

    def expire(self) -> None:
        """Nobody settled in time: the money may have been spent, so the bound stays charged, as unconfirmed."""
        for hold in self._ledger.take_expired(self._state.now_ms, self._parking.at_once_max):
            hold_id = hold.grant.hold_id
            self._ledger.post(hold_id, hold.grant.bound_nanos, confirmed=False)
            hold.expired = True
            self._state.freed.update(hold.accounts)
            self._probed(hold)
            self._outbox.expired(hold, settled=False)
            self._alerts.unconfirmed(hold.grant, hold.posted_nanos, f"{hold_id}/expiry")

    def _correct_expiry(self, hold: Hold) -> None:
        """Somebody settles or voids after all: from now on the entries of the attempts say what it did cost."""
        if hold.expired:
            hold.expired = False
            self._outbox.expired(hold, settled=True)

    # ------------------------------------------------------------ what is forgotten

    def fold_unconfirmed(self) -> None:
        """The oldest unconfirmed holds leave the books once their entries are stored: else the state would grow with
        every timeout that nobody resolves."""
        state = self._state
        if state.rules == 1 or self._loading.counts_holds():
            return
        if self._ledger.unconfirmed >= UNCONFIRMED_MAX + FOLDED_AT_ONCE:
            waiting = {n.grant.hold_id for n in state.outbox.notices if isinstance(n, ExpiredHold)}
            latest_ms = fold(self._ledger, UNCONFIRMED_MAX, waiting)
            if latest_ms is not None:  # a reserve of such a hold that is sent again finds it ended: no second grant
                state.forgotten_until_ms = max(state.forgotten_until_ms, latest_ms + 1)

    def group_ended(self) -> None:
        """What was remembered one by one is a group from now on, where there is enough for one."""
        state = self._state
        if len(state.ended) >= ENDS_IN_GROUP and state.rules >= 2:
            state.earlier_ends.take(state.ended)
            state.ended.clear()
            self._forget_groups()

    def _forget_groups(self) -> None:
        state, earlier = self._state, self._state.earlier_ends
        while earlier.groups:
            age_ms, left = state.now_ms - earlier.groups[0].until_ms, earlier.without_oldest() + len(state.ended)
            most = ENDED_IN_A_MINUTE_MAX if age_ms < _YOUNG_MS else REMEMBER_ENDED_MAX
            if age_ms < REMEMBER_ENDED_MS and left < most:
                return
            forget_group(state)

    def forget_ended(self) -> None:
        """They are in order of time: the oldest come first."""
        ended, state = self._state.ended, self._state
        self._forget_groups()
        if state.earlier_ends.groups:
            return
        for hold_id in list(ended):
            at_ms = ended[hold_id].at_ms
            if at_ms > state.now_ms - REMEMBER_ENDED_MS and len(ended) <= REMEMBER_ENDED_MAX:
                break
            del ended[hold_id]
            state.forgotten_until_ms = max(state.forgotten_until_ms, at_ms + 1)

    # ------------------------------------------------------------ services

    def failed(self, hold: Hold) -> None:
        """An attempt failed by its service's fault."""
        service = hold.grant.service
        breaker = self._state.gates[service].breaker
        is_news = breaker.open_until_ms is None  # and not another probe that failed
        if breaker.failed(hold.grant.hold_id, self._state.now_ms):
            if is_news:
                self._alerts.breaker_opened(service, breaker)
            self._state.freed.add(f"service:{service}")  # who waits for the probe must look elsewhere

    def _judge_service(self, command: Settle, hold: Hold) -> None:
        """What the end of a call says about its service."""
        if (gate := self._state.gates.get(hold.grant.service)) is None:  # a purchase
            return
        breaker = gate.breaker
        for _ in range(command.failures - hold.failures_told):
            self.failed(hold)
        hold.failures_told = max(hold.failures_told, command.failures)  # it may be settled again
        if command.served:
            if breaker.served():
                self._alerts.breaker_closed(hold.grant.service)
        else:
            breaker.ended(hold.grant.hold_id)

    def _probed(self, hold: Hold) -> None:
        """The end of a call that says nothing about its service. A purchase has none."""
        if (gate := self._state.gates.get(hold.grant.service)) is not None:
            gate.breaker.ended(hold.grant.hold_id)
