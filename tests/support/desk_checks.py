"""What must be true whenever a desk has looked at its queue and its accounts."""

from desk_facts import MINUTE, Waiting, levels
from two_desks import TwoDesks

from paymaster.admission import counting
from paymaster.admission.clock import DOUBT_MS
from paymaster.admission.parked_call import CLAIM_AFTER_MS
from paymaster.messages import Reserve


class DeskChecks(TwoDesks):
    def in_doubt(self) -> bool:
        """Time jumped by more than an hour, and what was due meanwhile gets some minutes more."""
        doubted_until_ms = self.desk.state.clock.doubted_until_ms
        assert doubted_until_ms <= self.model.now_ms + DOUBT_MS
        return self.model.now_ms < doubted_until_ms

    def check_gone(self) -> None:
        """Accounts that left the books were in nobody's use, and forgotten early only where room was needed."""
        model = self.model
        for account, were_full in self.gone.items():
            assert not model.stays(account), f"{account} is gone, and an admin or the configuration named it"
            model.changed = {place: cap for place, cap in model.changed.items() if place[0] != account}  # it lapsed
            if account.startswith("budget:") and model.file.table_of(account) is None:
                continue  # it has no budget any more
            assert account not in model.loading, f"{account} was forgotten while it was read"
            model.parts.pop(account.removeprefix("run:"), None)
            assert model.may_go(account), f"{account} was forgotten, and it has money on hold or a call waits for it"
            unused = model.now_ms // MINUTE - model.used_ms[account] // MINUTE
            assert were_full or unused >= 10, f"{account} was forgotten after {unused} minutes, and there was room"
        self.gone.clear()

    def check_room(self) -> None:
        """What calls wait for gets an account within a second of when there is room."""
        model, wait = self.model, [w for w in self.model.queue if self.model.is_missing(w.request)]
        has_room = len(model.open) < model.accounts_max or any(map(model.may_go, model.open))
        if not wait or model.loading or not has_room:
            self.room_since_ms = None
        elif self.room_since_ms is None or self.room_since_ms > model.now_ms:
            self.room_since_ms = model.now_ms
        else:
            hold_id = wait[0].request.hold_id
            assert model.now_ms <= self.room_since_ms + 1_000, f"{hold_id} waits for an account though there is room"

    def take_in_runaways(self, *asked: Reserve) -> None:
        """Runs that the desk holds since it looked at a call that makes them runaways."""
        model, accounts = self.model, self.desk.ledger.accounts
        for path, part in model.parts.items():
            account = accounts.get(f"run:{path}")  # it may just have left
            run = None if account is None else account.run
            if run is not None and run.held and not part.held:
                looked_at = [r for r in (*asked, *(w.request for w in model.queue)) if path in levels(r.run)]
                assert any(model.is_runaway(path, request) for request in looked_at), (
                    f"{path} is no runaway: {run.held}"
                )
                part.held = True

    def check_queue(self) -> None:
        """After the desk has let time pass and looked at the queue."""
        self.take_in_runaways()
        in_doubt = self.in_doubt()
        for hold in self.in_state("pending"):
            is_over = hold.grant.expires_at_ms <= self.model.now_ms
            assert in_doubt or not is_over, f"{hold.grant.hold_id} is pending after its time"
        with self.model.while_no_hold_changes():
            for waiting in self.model.queue:
                self.check_waiting(waiting, in_doubt=in_doubt)

    def check_counting(self, request: Reserve, reason: str) -> None:
        """A call that counts its tokens, or is to when fewer do."""
        count = sum(waiting.counts for waiting in self.model.queue)
        is_shut = any(self.model.is_shut(c.service) for c in request.candidates if not c.purchase)
        is_full = count >= counting.COUNTING_AT_ONCE_MAX or (is_shut and count > 0)
        assert reason != "to_count" or is_full, f"{request.hold_id} is parked though to count its tokens may help"

    def check_waiting(self, waiting: Waiting, *, in_doubt: bool) -> None:
        """It waits because it must, and as long as it must nothing that it waits for is given away."""
        model, request = self.model, waiting.request
        parked = self.desk.queue.get(request.hold_id)
        assert parked is not None, f"{request.hold_id} has left the queue, and was told nothing"
        waiting.claims = parked.keeps
        model.take_part(request)
        assert in_doubt or request.deadline_at_ms > model.now_ms, f"{request.hold_id} waits after its deadline"
        to_count = [reason for reason, _ in parked.waits if reason in ("counting", "counts_late", "to_count")]
        assert waiting.counts or {*to_count} <= {"to_count"}, f"{request.hold_id} was not told that it counts"
        if to_count:
            self.check_counting(request, to_count[0])
            return
        assert not model.open_candidates(request, waiting.arrival), f"{request.hold_id} is parked though it fits"
        for candidate in request.candidates:
            fits = model.fits_if_counted(request, candidate, waiting.arrival)
            assert not fits, f"{request.hold_id} is parked though to count its tokens would let it pass"
        assert set(model.verdicts(request)) != {"never"}, f"{request.hold_id} is parked though it can never fit"
        if not model.busy_candidates(request):
            waiting.busy_since_ms, waiting.kept = None, frozenset()
            # What a run takes wakes nobody who waits for others, and a breaker that opens nobody who waits for a place.
            for_a_place = any(reason == "max_concurrent" for reason, _ in parked.waits)
            is_told_late = model.parts.keys() & levels(request.run) or model.is_stopped(request) or for_a_place
            assert request.on_exhausted == "wait" or is_told_late, f"{request.hold_id} is to fail and waits for money"
        elif model.loading or model.is_missing(request) or model.is_stopped(request) or model.may_be_shut(request):
            waiting.busy_since_ms, waiting.kept = None, frozenset()
        elif waiting.busy_since_ms is None:
            waiting.busy_since_ms = model.now_ms
        elif model.now_ms >= waiting.busy_since_ms + CLAIM_AFTER_MS:
            assert parked.waits_for <= parked.keeps, f"{request.hold_id} has waited long enough for {parked}"
            assert waiting.kept <= parked.keeps, f"{request.hold_id} lost what was kept for it"
            waiting.kept = parked.keeps
