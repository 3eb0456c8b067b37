"""A model that judges what two desks answer, and what holds of them after every step."""

from dataclasses import fields
from itertools import chain

from copied_status import but_for_calls
from desk_checks import DeskChecks
from desk_facts import HOLD_EXPIRES_AFTER_MS, ROLLING, HeldMoney, Place, Waiting, charged, charged_by, counted, levels
from hypothesis.stateful import invariant

from paymaster.admission.state import DeskState
from paymaster.messages import (
    Alert,
    Answer,
    Candidate,
    Command,
    CountFirst,
    Denied,
    Ended,
    ExpiredHold,
    Grant,
    Granted,
    Parked,
    ParkedAnswer,
    RaiseOffer,
    Reserve,
    Settle,
    Settled,
    StatusRequest,
    UnknownHold,
    Void,
    Withdrawn,
)


class DeskJudge(DeskChecks):
    def voidable(self) -> list[str]:
        """What a call voids: a hold that it got and did not use, in time or late, and its place in the queue."""
        held = [hold.grant.hold_id for hold in self.model.holds.values() if hold.is_unsettled]
        return held + [waiting.request.hold_id for waiting in self.model.queue]

    def let_time_pass(self) -> None:
        self.both(lambda desk: desk.advance(self.clock_ms))
        self.after_a_look()

    def after_a_look(self) -> None:
        """The desk has let time pass and looked at the queue."""
        self.take_in_outbox()
        self.check_gone()
        self.check_queue()
        self.check_room()
        self.looked = True

    def send(self, command: Command) -> None:
        self.let_time_pass()
        self.sent.append(command)
        before = self.model.open
        answer = self.both(lambda desk: desk.handle(command, self.clock_ms))
        overfull = self.model.open - before and len(self.model.open) > self.model.accounts_max
        assert not overfull, f"an account was made for {command.hold_id}, and there is no room"
        if not isinstance(command, Reserve):
            self.take_in_gates()
        again = self.judge(command, answer)
        if isinstance(answer, Parked):
            self.check_queue()
        self.take_in_outbox()
        self.check_gone()
        self.looked = isinstance(command, Reserve)
        if again is not None:
            self.send(again)

    def judge(self, command: Command, answer: Answer) -> Reserve | None:
        """Of a call that was told to count its tokens: what it asks then."""
        match command:
            case Reserve():
                self.judge_reserve(command, answer)
                if isinstance(answer, CountFirst):
                    return self.as_counted(command, answer)
            case Settle():
                self.judge_settle(command, answer)
            case Void():
                self.judge_void(command, answer)
            case _:
                pass  # a question, which changes nothing
        return None

    def as_counted(self, request: Reserve, answer: CountFirst) -> Reserve:
        """What its call asks, and does not ask any more as before, when it has counted its tokens."""
        self.sent = [c for c in self.sent if not isinstance(c, Reserve) or c.hold_id != request.hold_id]
        return request.model_copy(update={"candidates": counted(request, answer.candidate)})

    def take_in_spend(self) -> None:
        """What was read from the database arrives."""
        spend = self.spend
        assert spend is not None
        self.spend = None
        self.let_time_pass()
        wanted = self.desk.to_load()
        self.both(lambda desk: desk.loaded(spend, self.clock_ms))
        if wanted is not None and wanted.number == spend.number:
            self.model.loading.difference_update(wanted.accounts)
            if not self.model.began:  # caps that were changed before are changed again: a rolling window opens anew
                rolling = {account for account, window in self.model.changed if window in ROLLING}
                self.model.loading |= {account for account in rolling if self.desk.ledger.accounts[account].loading}
            self.model.began = True
        self.after_a_look()

    def take_in_gates(self) -> None:
        self.model.gates = {service.service: service for service in self.desk.status(StatusRequest(limit=1)).services}

    def take_in_outbox(self, until: int | None = None) -> None:
        """Whom the desk answered by itself, and which holds it gave up, until it had so many items."""
        outbox = self.desk.state.outbox
        last = outbox.sequence if until is None else until
        new = [item for item in (*outbox.messages, *outbox.notices) if self.last_sequence < item.sequence <= last]
        for item in sorted(new, key=lambda item: item.sequence):
            assert item.sequence > self.last_sequence, "two items of the outbox have one number"
            self.last_sequence = item.sequence
            if isinstance(item, ParkedAnswer | Withdrawn):
                self.messages[item.sequence] = item
            else:
                self.notices[item.sequence] = item
            match item:
                case ExpiredHold(settled=True):
                    hold = self.model.holds[item.grant.hold_id]
                    assert hold.expired, f"{item.grant.hold_id} never expired"
                    assert hold.state != "pending", f"{item.grant.hold_id} is corrected, and still {hold.state}"
                case ExpiredHold():
                    hold = self.model.holds[item.grant.hold_id]
                    assert hold.state == "pending", f"{item.grant.hold_id} expired after it was {hold.state}"
                    assert item.grant == hold.grant
                    assert hold.grant.expires_at_ms <= self.model.now_ms, "expired too early"
                    hold.state, hold.posted_nanos, hold.expired = "unconfirmed", hold.grant.bound_nanos, True
                case ParkedAnswer(answer=Granted() as granted):
                    waiting = self.leave_queue(granted.grant.hold_id)
                    assert item.call == waiting.request.call
                    for other in self.model.queue:
                        if other.is_ahead_of(waiting.request, waiting.arrival) and not other.counts:
                            assert not self.model.open_candidates(other.request, other.arrival), (
                                f"{granted.grant.hold_id} was served before {other.request.hold_id}, which is ahead"
                            )
                    self.judge_grant(waiting.request, waiting.arrival, granted.grant)
                case ParkedAnswer(answer=CountFirst() as answer):
                    waiting = self.looked_at(answer.hold_id)
                    assert item.call == waiting.request.call
                    waiting.counts = True
                    self.judge_count_first(waiting.request, waiting.arrival, answer)
                    self.to_ask_again.append(self.as_counted(waiting.request, answer))
                case ParkedAnswer(answer=Denied() as denied):
                    waiting = self.leave_queue(denied.hold_id)
                    assert item.call == waiting.request.call
                    self.judge_denial(waiting.request, waiting.arrival, denied, waited=True)
                case Alert(offer=RaiseOffer() as offer, account=str() as account, window=str() as window):
                    assert offer == self.model.offer((account, window)), f"an alert offers another raise of {account}"
                case Withdrawn():
                    assert self.model.holds[item.hold_id].state == "pending", "withdrawn after its end"
                case _:
                    pass  # what is only said, and moves no money

    def looked_at(self, hold_id: str) -> Waiting:
        waiting = next(w for w in self.model.queue if w.request.hold_id == hold_id)
        for ahead in self.model.queue[: self.model.queue.index(waiting) + 1]:
            self.model.take_part(ahead.request)  # they were looked at before it
        return waiting

    def leave_queue(self, hold_id: str) -> Waiting:
        waiting = self.looked_at(hold_id)
        self.model.queue.remove(waiting)
        return waiting

    # ------------------------------------------------------------ judging answers

    def judge_reserve(self, request: Reserve, answer: Answer) -> None:
        model, hold_id = self.model, request.hold_id
        if hold := model.holds.get(hold_id):
            if hold.state == "pending":
                assert answer == Granted(grant=hold.grant), "a repeated reserve gets the same grant"
            else:
                assert answer == Ended(hold_id=hold_id), f"{hold_id} is over and was answered {answer.kind}"
            return
        if waiting := next((w for w in model.queue if w.request.hold_id == hold_id), None):
            if waiting.counts and request.candidates != waiting.request.candidates:
                self.judge_counted(waiting, request, answer)
                return
            assert isinstance(answer, Parked)
            assert answer.deadline_at_ms == waiting.request.deadline_at_ms
            return
        if hold_id in model.over:
            at_ms, denied = model.over[hold_id]
            same = denied or Ended(hold_id=hold_id)
            assert answer == same or (not model.is_recent(at_ms) and isinstance(answer, Ended)), (
                f"{hold_id} is over and was answered {answer.kind}"
            )
            return
        arrival = model.arrivals = model.arrivals + 1
        model.take_part(request)
        self.take_in_runaways(request)
        if model.before_all(request) == "fits":  # one that is refused uses nothing
            model.used_ms |= dict.fromkeys(charged_by(request), model.now_ms)
        match answer:
            case Granted():
                self.judge_grant(request, arrival, answer.grant)
            case CountFirst():
                self.judge_count_first(request, arrival, answer)
            case Denied():
                self.judge_denial(request, arrival, answer, waited=False)
            case Parked():
                assert answer.deadline_at_ms == request.deadline_at_ms
                assert not self.to_count(request), f"{hold_id} is parked though to count its tokens may help"
                assert len(model.queue) < model.file.max_parked, "parked in a full queue"
                model.queue.append(Waiting(request, arrival, model.now_ms))
                model.queue.sort(key=lambda w: (-w.request.priority, w.arrival))
            case _:
                assert isinstance(answer, Ended)
                assert model.may_be_forgotten(request.asked_at_ms), "a fresh id is refused"

    def judge_counted(self, waiting: Waiting, request: Reserve, answer: Answer) -> None:
        """A parked call has counted its tokens: it is looked at, at its place."""
        waiting.request, waiting.counts = request, isinstance(answer, CountFirst)
        match answer:
            case Granted():
                self.judge_grant(request, self.leave_queue(request.hold_id).arrival, answer.grant)
            case Denied():
                self.judge_denial(request, self.leave_queue(request.hold_id).arrival, answer, waited=True)
            case CountFirst():
                self.judge_count_first(request, waiting.arrival, answer)
            case _:
                assert isinstance(answer, Parked)
                assert answer.deadline_at_ms == request.deadline_at_ms

    def to_count(self, request: Reserve) -> list[Candidate]:
        return [candidate for candidate in request.candidates if self.model.helps_to_count(request, candidate)]

    def judge_count_first(self, request: Reserve, arrival: int, answer: CountFirst) -> None:
        """Nothing is remembered of it: the call counts and asks again under its id."""
        assert not self.model.open_candidates(request, arrival), f"{request.hold_id} is to count though it fits"
        candidates = [candidate.model_copy(update={"price": None}) for candidate in request.candidates]
        number = candidates.index(answer.candidate)
        helps = self.model.may_help_to_count(request, request.candidates[number])
        assert helps, f"{request.hold_id} is to count what does not help"
        before = request.candidates[:number]
        assert not any(self.model.helps_to_count(request, candidate) for candidate in before), "another was to count"

    def judge_choice(self, request: Reserve, arrival: int, grant: Grant) -> int:
        """The number of the candidate that was granted: none before it fitted, and none in its pool was used less."""
        model = self.model
        order = model.brackets(request)
        chosen = next(
            number
            for number in chain(*order)
            for c in [request.candidates[number]]
            if (c.service, c.model, c.price, c.max_output_tokens, c.short_below is not None)
            == (grant.service, grant.model, grant.price, grant.max_output_tokens, grant.money_short)
        )
        bracket = next(bracket for bracket in order if chosen in bracket)
        earlier, fitting = order[: order.index(bracket)], model.open_candidates(request, arrival)
        assert not set(fitting).intersection(chain(*earlier)), "an earlier candidate fitted"
        may_fit = [n for n in bracket if model.verdict(request, request.candidates[n]) in ("fits", "perhaps")]
        if chosen in may_fit and set(may_fit) <= set(fitting):
            use = model.use(request, may_fit)
            assert use[chosen] == min(use.values()), "another one that shares the load is used less"
        return chosen

    def judge_grant(self, request: Reserve, arrival: int, grant: Grant) -> None:
        model = self.model
        assert grant.hold_id == request.hold_id
        assert grant.hold_id not in model.holds, f"{grant.hold_id} was granted twice"
        assert grant.hold_id not in model.over, f"{grant.hold_id} was granted after it had ended"
        chosen = self.judge_choice(request, arrival, grant)
        assert model.verdict(request, request.candidates[chosen]) != "open", "granted on a service that keeps failing"
        self.nothing_kept_was_taken(request, arrival, charged(request.budgets, grant.service, request.run))
        assert grant.bound_nanos == model.bound(request, request.candidates[chosen]), "the bound is another one"
        assert grant.granted_at_ms == model.now_ms
        assert grant.expires_at_ms == model.now_ms + HOLD_EXPIRES_AFTER_MS
        self.judge_run(request)
        accounts = charged(request.budgets, grant.service, request.run)
        hold = HeldMoney(grant, accounts, bought=request.candidates[chosen].purchase)
        model.holds[grant.hold_id] = hold
        unknown = model.loading.intersection(hold.accounts)
        if unknown & self.opened:  # likewise
            with self.before_accounts_opened():
                assert model.before_all(request) != "held", "granted without an account that it opened"
                unknown = model.loading.intersection(hold.accounts)
        assert not unknown, f"granted before it was known what had been spent in {unknown}"
        assert model.before_all(request) != "held", "granted without an account that it counts for"
        assert model.before_all(request) != "never", "granted with other limits of its run than the first ones"
        for account, window, cap in model.capped(hold.accounts):
            held = model.posted(account, window) + model.pending(account, window)
            assert held <= cap, f"a grant took {account} ({window}) over its cap"
        model.count_let_through(hold.accounts)
        for account, most in model.limited(hold.accounts):
            assert model.running(account) <= most, f"too many calls at once in {account}"
        for path in [path for path in levels(request.run) if path in model.parts]:
            model.parts[path].granted_ms += (model.now_ms,)
            if not request.granted_before and model.may_run_away(path):
                model.parts[path].asked_for.append((request.digest, model.now_ms))

    def judge_run(self, request: Reserve) -> None:
        """Before the grant is counted."""
        model = self.model
        for path in levels(request.run):
            if path in model.parts:
                ends_ms = model.ends_ms(path)
                assert not model.parts[path].ended, f"{path} was ended and goes on"
                assert not model.is_runaway(path, request), f"{path} is a runaway and goes on"
                if model.is_watched(f"run:{path}"):
                    continue
                assert ends_ms is None or model.now_ms < ends_ms, f"{path} goes on after its time"
                is_new = not request.granted_before
                assert not (is_new and model.calls_used_up(path)), f"{path} got more calls than it may"

    def nothing_kept_was_taken(self, request: Reserve, arrival: int, accounts: tuple[str, ...]) -> None:
        """One ahead whose money was spent meanwhile waits for that, and nothing is kept for it any more."""
        for ahead in self.model.queue:
            kept = ahead.kept.intersection(accounts)
            if kept and ahead.is_ahead_of(request, arrival):
                is_busy = self.model.busy_candidates(ahead.request)
                assert not is_busy, f"{request.hold_id} took what was kept in {kept} for {ahead.request.hold_id}"

    def judge_denial(self, request: Reserve, arrival: int, denied: Denied, *, waited: bool) -> None:
        model, verdicts = self.model, set(self.model.verdicts(request))
        if waited and self.opened and "held" in verdicts:  # looked at before one behind it got its run
            with self.before_accounts_opened():
                verdicts = set(model.verdicts(request))
        assert denied.hold_id == request.hold_id
        # The clock may have jumped over a deadline and over the window's end after it: then the call came too late.
        too_late = waited and denied.reason == "waited_too_long"
        assert too_late or not model.open_candidates(request, arrival), (
            f"denied ({denied.reason}) though a candidate fits"
        )
        is_decided = denied.reason not in ("bad_budget", "no_candidate")
        assert too_late or not is_decided or not self.to_count(request), f"denied ({denied.reason}) and not to count"
        match denied.reason:
            case "cap_reached" | "run_budget_exhausted" | "run_calls_exhausted" | "run_time_over":
                assert request.on_exhausted == "fail", f"denied ({denied.reason}) though it may wait"
                assert not verdicts & {"held", "stopped", "fits"}, "denied while only holds are in the way"
                assert "gone" in verdicts, f"denied ({denied.reason}) though nothing is used up"
            case "breaker_open":
                assert not verdicts & {"held", "stopped", "fits", "gone"}, "denied though waiting would help"
                assert "open" in verdicts, "denied though no breaker is open"
            case "queue_full":
                assert len(model.queue) >= model.file.max_parked
            case "waited_too_long":
                assert request.deadline_at_ms <= model.now_ms, "denied before its deadline"
            case _:
                assert verdicts <= {"never"}, f"denied ({denied.reason}) though waiting would help"
        model.over[request.hold_id] = (model.now_ms, denied)

    def judge_settle(self, command: Settle, answer: Answer) -> None:
        hold = self.model.holds.get(command.hold_id)
        if hold is None and command.epoch == "another run":
            assert answer == Settled(hold_id=command.hold_id), "its entries are stored: they will be read"
            self.model.loading = set(self.model.open)
            return
        if hold is None or hold.state == "voided":
            at_ms = self.model.over.get(command.hold_id, (None, None))[0] if hold is None else hold.ended_at_ms
            if at_ms is not None and self.model.is_recent(at_ms):
                assert answer == UnknownHold(hold_id=command.hold_id), f"nothing to settle, answered {answer.kind}"
            elif answer == Settled(hold_id=command.hold_id):  # unknown or forgotten: its entries tell what is right
                self.model.loading = set(self.model.open)
            else:
                assert at_ms is not None, f"nobody knows {command.hold_id}, answered {answer.kind}"
            return
        if hold.state == "posted" and not self.model.is_recent(hold.ended_at_ms):
            self.model.loading = {key for key, account in self.desk.ledger.accounts.items() if account.loading}
        assert isinstance(answer, Settled), f"a {hold.state} hold was settled, answered {answer.kind}"
        if hold.state in ("pending", "unconfirmed"):
            if hold.state == "pending" or command.confirmed or hold.posted_nanos != command.cost_nanos:
                self.model.learn_from_bill(hold.grant, command.cost_nanos)
            hold.posted_nanos, hold.settled = command.cost_nanos, True
            hold.state, hold.ended_at_ms = "posted" if command.confirmed else "unconfirmed", self.model.now_ms
        for notice in answer.notices:
            if notice.account not in self.model.loading:
                posted = self.model.posted(notice.account, notice.window)
                pending = self.model.pending(notice.account, notice.window)
                assert (notice.posted_nanos, notice.pending_nanos) == (posted, pending), "the notice is wrong"

    def judge_void(self, command: Void, answer: Answer) -> None:
        model, hold_id = self.model, command.hold_id
        assert isinstance(answer, Settled), f"void was answered {answer.kind}"
        hold = model.holds.get(hold_id)
        if hold is None:
            if any(waiting.request.hold_id == hold_id for waiting in model.queue):
                self.leave_queue(hold_id)
            model.over.setdefault(hold_id, (model.now_ms, None))
        elif hold.state in ("pending", "unconfirmed"):
            hold.state, hold.posted_nanos, hold.ended_at_ms = "voided", 0, model.now_ms

    # ------------------------------------------------------------ what holds after every step

    @invariant()
    def books_agree_with_the_model(self) -> None:
        self.take_in_gates()
        self.read_what_was_spent()
        while self.reads_at_once and self.spend is not None:
            self.take_in_spend()
            self.read_what_was_spent()
        model, status = self.model, self.desk.status()
        seen: set[Place] = set()
        for account in status.accounts:
            assert account.account in model.open, f"{account.account} is shown and not there"
            assert account.loading == (account.account in model.loading), f"{account.account} is loading, or is not"
            for line in account.windows:
                place = account.account, line.window
                seen.add(place)
                assert line.cap_nanos == model.cap(place), f"cap of {place}"
                assert line.pending_nanos == model.pending(*place), f"pending in {place}"
                assert account.loading or line.posted_nanos == model.posted(*place), f"posted in {place}"
            for limit in account.limits:
                assert limit.used == model.running(account.account), f"calls at once in {account.account}"
            if account.run is not None and not account.loading:
                run = account.run
                assert run.renews == next(iter(model.renewed(account.account)), None), f"how {run.run} is renewed"
                assert run.calls == model.calls(run.run, run.renews), f"calls of {run.run}"
                assert run.calls_max == model.calls_max(run.run, run.renews), f"the most calls of {run.run}"
                assert run.ends_at_ms == model.ends_ms(run.run), f"the end of {run.run}"
                assert bool(run.ended_by) == model.parts[run.run].ended, f"who ended {run.run}"
                assert bool(run.held) == model.parts[run.run].held, f"{run.run} is held, or is not"
        named = {p for p in model.file.caps_nanos if p[0] in model.open and model.file.cap(p) is not None}
        assert seen >= {*model.changed, *named}, "a capped account is not shown"
        assert status.holds == len(self.in_state("pending"))
        assert status.unconfirmed == len(self.in_state("unconfirmed"))
        assert status.parked == len(model.queue)
        assert status.outbox == len(self.messages) + len(self.notices)

    @invariant()
    def a_copy_of_what_changed_is_the_status(self) -> None:
        """Taken now and then, so that what changed is kept meanwhile, also over cuts."""
        self.steps += 1
        if self.steps % 3 == 0:
            now_ms = self.desk.state.now_ms
            while self.desk.copies.is_due or self.cut_desk.copies.is_due:
                copy, cut_copy = self.desk.copies.take(now_ms), self.cut_desk.copies.take(now_ms)
                same = but_for_calls(copy) == but_for_calls(cut_copy)
                assert same, "a desk that was cut and restored copies otherwise"
                self.copied.take_in(copy, now_ms)
                self.copied_by_cut.take_in(cut_copy, now_ms)
            waiting = self.copied.waiting()
            assert waiting.keys() == {call.reserve.hold_id for call in self.desk.queue}, "other calls wait"
            assert waiting == self.copied_by_cut.waiting(), "a desk that was cut and restored copies other calls"
            status = {each.account: each for each in self.desk.status(now_ms=now_ms).accounts}
            assert self.copied.read(now_ms) == status

    @invariant()
    def a_cut_changes_nothing(self) -> None:
        if self.was_cut and self.desk.dump() != self.cut_desk.dump():
            names = [f.name for f in fields(DeskState)]
            other = [name for name in names if getattr(self.desk.state, name) != getattr(self.cut_desk.state, name)]
            raise AssertionError(f"a desk that was cut and restored has another state: {other or 'in another order'}")
        self.was_cut = False
