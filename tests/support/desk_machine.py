"""The commands that a desk gets, in any order and any number of times, with the clock jumping over window ends and
backwards; `DeskJudge` says what must be true after each."""

import sys
from collections.abc import Sequence

from desk_approvers import Approvers
from desk_drawn import (
    NO_RUN,
    AskedOfRun,
    digests,
    modes,
    odd_budgets,
    odd_candidates,
    one_of_the_usual,
    sizes,
    usual_candidates,
)
from desk_facts import HOUR, MINUTE, SECOND, START_MS, UNIT, Mode, next_end_ms
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from paymaster.messages import (
    AttemptReport,
    CallRef,
    Candidate,
    Delivery,
    Granted,
    ParkedAnswer,
    Reserve,
    Settle,
    Void,
    Window,
)


class DeskMachine(Approvers):
    # ------------------------------------------------------------ calls

    @rule(
        budget=one_of_the_usual("budgets"),
        wanted=one_of_the_usual("routes"),
        mode=modes,
        priority=st.sampled_from([0, 0, 0, 1, -1]),
        wait_ms=st.sampled_from([90 * SECOND, 2 * HOUR, 48 * HOUR]),
        run=one_of_the_usual("runs"),
        input_bytes=sizes,
        digest=digests,
    )
    def new_call(
        self,
        budget: tuple[str, ...],
        wanted: list[Candidate],
        mode: Mode,
        priority: int,
        wait_ms: int,
        input_bytes: int,
        run: AskedOfRun,
        digest: str,
    ) -> None:
        self.send(self.request(budget, wanted, mode, priority, wait_ms, input_bytes, run, digest))

    @rule(
        first=st.lists(usual_candidates, min_size=1, max_size=3),
        large=usual_candidates,
        mode=modes,
        wait_ms=st.sampled_from([90 * SECOND, 2 * HOUR]),
        jump=st.sampled_from([SECOND, 61 * SECOND, 61 * SECOND, 89 * SECOND]),
        then=usual_candidates,
        run=one_of_the_usual("runs"),
    )
    def rush(
        self,
        first: list[Candidate],
        large: Candidate,
        mode: Mode,
        wait_ms: int,
        jump: int,
        then: Candidate,
        run: AskedOfRun = NO_RUN,
    ) -> None:
        """Calls compete for one budget, and another comes later: most of what can go wrong begins like this."""
        for wanted in first:
            self.send(self.request(["acme"], [wanted], mode, run=run))
        self.send(self.request(["acme"], [large], mode, wait_ms=wait_ms, run=run))
        self.advance_to(self.clock_ms + jump)
        self.send(self.request(["acme/team"], [then], mode, run=run))

    @precondition(lambda self: self.ended_attempts())
    @rule(data=st.data(), wanted=one_of_the_usual("routes"))
    def next_attempt(self, data: st.DataObject, wanted: list[Candidate]) -> None:
        """A call goes on under another hold: after an attempt that failed, or a grant that was taken back."""
        before = data.draw(st.sampled_from(self.ended_attempts()))
        call, _, number = before.hold_id.partition("/")
        update = {
            "hold_id": f"{call}/{int(number) + 1}",
            "candidates": tuple(wanted),
            "asked_at_ms": self.clock_ms,
            "deadline_at_ms": self.clock_ms + 2 * HOUR,
            "granted_before": before.granted_before or self.model.holds[before.hold_id].was_used,
        }
        self.send(before.model_copy(update=update))

    def ended_attempts(self) -> list[Reserve]:
        """The latest of each call, where it got a grant and nothing is unknown of it any more."""
        latest = {c.hold_id.partition("/")[0]: c for c in self.sent if isinstance(c, Reserve)}
        over = {hold_id for hold_id, hold in self.model.holds.items() if not hold.is_open}
        return [command for command in latest.values() if command.hold_id in over]

    @rule(
        budget=odd_budgets,
        wanted=st.lists(st.one_of(usual_candidates, odd_candidates), max_size=3),
        mode=modes,
        wait_ms=st.sampled_from([0, 30 * SECOND, 2 * HOUR]),
        input_bytes=st.sampled_from([0, 1_777]),
        void_first=st.booleans(),
    )
    def unusual_call(
        self,
        budget: tuple[str, ...],
        wanted: list[Candidate],
        mode: Mode,
        wait_ms: int,
        input_bytes: int,
        void_first: bool,
    ) -> None:
        request = self.request(budget, wanted, mode, 0, wait_ms, input_bytes)
        if void_first:
            self.send(Void(hold_id=request.hold_id))
        self.send(request)

    def request(
        self,
        budgets: Sequence[str],
        wanted: list[Candidate],
        mode: Mode,
        priority: int = 0,
        wait_ms: int = 2 * HOUR,
        input_bytes: int = 10,
        run: AskedOfRun = NO_RUN,
        digest: str = "",
    ) -> Reserve:
        self.calls += 1
        return Reserve(
            hold_id=f"run-{self.calls}/1",
            call=CallRef(workflow_id=f"call/{self.calls}", run_id=f"run-{self.calls}"),
            budget=budgets[0],
            further_budgets=tuple(budgets[1:]),
            candidates=tuple(wanted),
            input_bytes=input_bytes,
            on_exhausted=mode,
            deadline_at_ms=self.clock_ms + wait_ms,
            asked_at_ms=self.clock_ms,
            priority=priority,
            run=run[0],
            run_terms=run[1],
            digest=digest,
        )

    @precondition(lambda self: self.in_state("pending"))
    @rule(
        data=st.data(),
        share=st.sampled_from([0, 1, 2, 3, 4, 4, 5, 8]),
        confirmed=st.sampled_from([True, True, False]),
        failures=st.sampled_from([0, 0, 0, 1, 2]),
    )
    def settle(self, data: st.DataObject, share: int, confirmed: bool, failures: int) -> None:
        hold = data.draw(st.sampled_from(self.in_state("pending")))
        self.send(
            Settle(
                hold_id=hold.grant.hold_id,
                cost_nanos=hold.grant.bound_nanos * share // 4,
                confirmed=confirmed,
                served=failures == 0,
                failures=failures,
                epoch="this run",
            )
        )

    @precondition(lambda self: self.in_state("unconfirmed"))
    @rule(data=st.data(), cost=st.sampled_from([0, 1, UNIT, 2 * UNIT, 5 * UNIT]), confirmed=st.booleans())
    def settle_what_was_unconfirmed(self, data: st.DataObject, cost: int, confirmed: bool) -> None:
        hold = data.draw(st.sampled_from(self.in_state("unconfirmed")))
        self.send(Settle(hold_id=hold.grant.hold_id, cost_nanos=cost, confirmed=confirmed))

    @precondition(lambda self: self.voidable())
    @rule(data=st.data())
    def void(self, data: st.DataObject) -> None:
        self.send(Void(hold_id=data.draw(st.sampled_from(self.voidable()))))

    @rule(what=st.sampled_from(["settle", "void", "settle of an earlier epoch"]))
    def command_about_an_unknown_hold(self, what: str) -> None:
        self.calls += 1
        hold_id = f"run-{self.calls}/1"
        epoch = "another run" if what == "settle of an earlier epoch" else ""
        self.send(Void(hold_id=hold_id) if what == "void" else Settle(hold_id=hold_id, cost_nanos=UNIT, epoch=epoch))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        command = data.draw(st.sampled_from(self.sent))
        if isinstance(command, Reserve) and command.asked_at_ms > self.clock_ms:
            return  # of a time that has not been yet: the end of it may be forgotten already
        self.send(command)

    @precondition(lambda self: self.to_ask_again)
    @rule()
    def ask_again_with_a_count(self) -> None:
        self.send(self.to_ask_again.pop())

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data(), pause_ms=st.sampled_from([None, None, 10 * SECOND]))
    def report_failed_attempt(self, data: st.DataObject, pause_ms: int | None) -> None:
        grant = data.draw(st.sampled_from(list(self.model.holds.values()))).grant
        report = AttemptReport(hold_id=grant.hold_id, service=grant.service, pause_ms=pause_ms, trips_breaker=True)
        self.both(lambda desk: desk.report(report, self.clock_ms))
        hold = self.model.holds[grant.hold_id]
        hold.failed = hold.failed or hold.runs
        self.take_in_outbox()
        self.looked = False

    # ------------------------------------------------------------ the database

    @rule()
    def reload(self) -> None:
        self.let_time_pass()
        self.both(lambda desk: desk.reload(self.clock_ms))
        self.model.loading = set(self.model.open)

    @precondition(lambda self: self.spend is not None)
    @rule()
    def spend_arrives(self) -> None:
        self.take_in_spend()

    # ------------------------------------------------------------ time and deliveries

    @rule(jump=st.sampled_from([0, 1, SECOND, 29 * SECOND, MINUTE, 61 * SECOND, 61 * SECOND, 5 * MINUTE, 11 * MINUTE]))
    def time_passes(self, jump: int) -> None:
        self.advance_to(self.clock_ms + jump)

    @rule(window=st.sampled_from(["minute", "minute", "hour", "day", "month"]), offset_ms=st.sampled_from([-1, 0, 1]))
    def window_ends(self, window: Window, offset_ms: int) -> None:
        self.advance_to(next_end_ms(window, self.clock_ms) + offset_ms)

    @rule()
    def almost_an_hour_passes(self) -> None:
        self.advance_to(self.clock_ms + HOUR - 30 * SECOND)

    @rule(back_ms=st.sampled_from([1, MINUTE, 2 * HOUR]))
    def clock_goes_back(self, back_ms: int) -> None:
        self.advance_to(self.clock_ms - back_ms)

    @precondition(lambda self: self.desk.due_ms < START_MS * 2)
    @rule()
    def desk_wakes_by_itself(self) -> None:
        self.advance_to(max(self.clock_ms, self.desk.due_ms))

    def advance_to(self, clock_ms: int) -> None:
        self.clock_ms = clock_ms
        due_ms, messages, holds = self.desk.due_ms, len(self.messages), len(self.in_state("pending"))
        was_freed, before_ms = not self.looked, self.model.now_ms
        self.let_time_pass()
        if self.model.now_ms < before_ms:
            return
        if len(self.messages) > messages or len(self.in_state("pending")) != holds:
            assert was_freed or due_ms <= self.model.now_ms, "something happened by itself that due_ms did not announce"

    @precondition(lambda self: self.messages)
    @rule(data=st.data())
    def deliver_messages(self, data: st.DataObject) -> None:
        fate = {
            sequence: data.draw(st.sampled_from(["delivered", "gone", "lost"]), label=f"message {sequence}")
            for sequence in sorted(self.messages)[:3]
        }
        gone = tuple(sequence for sequence, what in fate.items() if what == "gone")
        delivered = tuple(sequence for sequence, what in fate.items() if what == "delivered")
        self.let_time_pass()
        self.both(lambda desk: desk.delivered(Delivery(delivered=delivered, gone=gone), self.clock_ms))
        for sequence in gone:
            message = self.messages[sequence]
            if isinstance(message, ParkedAnswer) and isinstance(message.answer, Granted):
                hold = self.model.holds[message.answer.grant.hold_id]
                if hold.state == "pending":  # the call never saw it, so nothing was sent
                    hold.state, hold.ended_at_ms = "voided", self.model.now_ms
        for sequence in (*gone, *delivered):
            del self.messages[sequence]
        self.after_a_look()

    @precondition(lambda self: self.notices)
    @rule()
    def store_notices(self) -> None:
        self.let_time_pass()
        stored = tuple(self.notices)
        self.both(lambda desk: desk.delivered(Delivery(delivered=stored), self.clock_ms))
        self.notices.clear()
        self.after_a_look()

    def teardown(self) -> None:
        """Once all waits have passed, no call is parked; what nobody settled is posted at its bound."""
        if sys.exc_info()[0] is not None:
            return  # a step failed: that is the news
        self.advance_to(max(self.clock_ms, self.model.now_ms) + 49 * HOUR)
        self.advance_to(self.clock_ms + 59 * MINUTE)  # a jump of two days was not believed at once
        self.advance_to(self.clock_ms + 59 * MINUTE)  # what the end of the waits itself let through
        assert not self.model.queue, "a call waits for ever"
        assert not self.in_state("pending"), "a hold never ends"
        self.books_agree_with_the_model()
        while self.spend is not None:
            self.spend_arrives()
            self.books_agree_with_the_model()
        self.advance_to(self.clock_ms + 11 * MINUTE)
        idle = [a for a in self.model.open if self.model.may_go(a) and not self.model.is_to_tell(a)]
        assert not idle, f"nobody uses {idle}, and they stay in the books"
