"""The desk against a model that can be checked by eye: it keeps every hold in a list and adds up from scratch.

A Hypothesis state machine sends both the same commands at the same times, in any order and any number of times, with
the clock jumping over window ends and backwards. A second desk gets them too and is cut through `dump` and `Desk.load`
before every step. `DESK_MACHINE_EXAMPLES=20000` searches further than the fixed examples of an ordinary run.

The model believes the desk about one thing, whether a service may be called (pauses, breakers): what the desk says of
that has tests of its own.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields

import pytest
from desk_model import (
    ACCOUNTS,
    BUDGETS,
    HOLD_EXPIRES_AFTER_MS,
    HOUR,
    MINUTE,
    ODD,
    SECOND,
    SERVICES,
    START_MS,
    UNIT,
    WHOLE,
    Cap,
    HeldMoney,
    Mode,
    Model,
    Place,
    T,
    Waiting,
    bound_of,
    charged,
    next_end_ms,
    window_name,
)
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from searches import examples

from paymaster.admission.accounts import Balance
from paymaster.admission.book_changes import Shortfall
from paymaster.admission.books import Ledger
from paymaster.admission.clock import BEHIND_MS, DOUBT_MS
from paymaster.admission.desk import Desk
from paymaster.admission.holds import Hold
from paymaster.admission.parked_call import CLAIM_AFTER_MS
from paymaster.admission.state import DeskState
from paymaster.messages import (
    AccountConfig,
    Answer,
    AttemptReport,
    CallMessage,
    CallRef,
    Candidate,
    Command,
    Delivery,
    Denied,
    DeskConfig,
    Ended,
    ExpiredHold,
    Grant,
    Granted,
    LoadedSpend,
    Notice,
    Parked,
    ParkedAnswer,
    PauseService,
    RaiseCap,
    Reserve,
    ResumeService,
    ServiceConfig,
    SetCap,
    Settle,
    Settled,
    UnknownHold,
    Void,
    Window,
    Withdrawn,
)
from paymaster.values.money import nanos_to_usd
from paymaster.values.windows import WINDOWS

SEARCH = int(os.environ.get("DESK_MACHINE_EXAMPLES", "0"))
EXAMPLES = settings(
    max_examples=SEARCH or examples(200),
    stateful_step_count=30,
    derandomize=not SEARCH,  # the same examples in every run: a red run is red for everybody
    database=None,
    report_multiple_bugs=False,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


# ---------------------------------------------------------------- what is drawn

places = st.tuples(st.sampled_from(ACCOUNTS), st.sampled_from(WINDOWS))
tight = st.sampled_from([4 * UNIT - 1, 4 * UNIT, 4 * UNIT, 5 * UNIT, 6 * UNIT - 1, 8 * UNIT])


def _both(always: Mapping[Place, int], more: Mapping[Place, int]) -> dict[Place, int]:
    return {**more, **always}


caps = st.builds(
    _both,
    st.dictionaries(st.sampled_from([("budget:acme", "day"), ("budget:acme", "total")]), tight, min_size=1),
    st.dictionaries(places, st.one_of(tight, tight, st.sampled_from([0, 1, UNIT])), max_size=3),
)
limits = st.dictionaries(st.sampled_from(ACCOUNTS), st.sampled_from([1, 2, 3]), max_size=1)
usual_candidates = st.builds(
    Candidate,
    service=st.sampled_from(SERVICES),
    model=st.just("m"),
    max_output_tokens=st.sampled_from([1_000, 1_000, 2_000, 3_000, 4_000]),
    price=st.sampled_from([WHOLE, WHOLE, WHOLE, ODD]),
)
odd_candidates = st.builds(
    Candidate,
    service=st.sampled_from([*SERVICES, "ghost"]),
    model=st.just("m"),
    max_output_tokens=st.sampled_from([1_000, 9_000]),
    price=st.sampled_from([WHOLE, None]),
)
modes = st.sampled_from(["wait", "fail"])
one_budget = st.sampled_from(["acme", "acme/team", "acme/team/writer", "solo"])
usual_budgets = st.one_of(st.tuples(one_budget), st.tuples(one_budget, one_budget))
odd_budgets = st.sampled_from([("acme",), ("nowhere",), ("acmeteam",), ("acme/team/",), ("acme", "nowhere")])


def configuration(
    caps_nanos: dict[Place, int],
    concurrent_max: dict[str, int],
    number: int,
    max_parked: int,
    watched: frozenset[str],
) -> DeskConfig:
    def caps_of(key: str) -> dict[Window, int]:
        return {window: cap for (account, window), cap in caps_nanos.items() if account == key}

    def budget(key: str) -> AccountConfig:
        most = concurrent_max.get(key)
        return AccountConfig(caps_nanos=caps_of(key), max_concurrent=most, enforce=key not in watched)

    def service(key: str) -> ServiceConfig:
        return ServiceConfig(
            caps_nanos=caps_of(key),
            max_concurrent=concurrent_max.get(key),
            breaker_failures=2,
            breaker_cooldown_ms=30 * SECOND,
        )

    return DeskConfig(
        digest=f"configuration {number}",
        budgets={path: budget(f"budget:{path}") for path in BUDGETS},
        services={name: service(f"service:{name}") for name in SERVICES},
        hold_expires_after_ms=HOLD_EXPIRES_AFTER_MS,
        max_parked=max_parked,
    )


# ---------------------------------------------------------------- the machine


class DeskMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock_ms = START_MS
        self.model = Model()
        self.desk = Desk(DeskState(ledger="default", epoch="this run"))
        self.cut_desk = Desk.load(self.desk.dump())
        self.messages: dict[int, CallMessage] = {}
        self.notices: dict[int, Notice] = {}
        self.last_sequence = 0
        self.sent: list[Command] = []
        self.calls = 0
        self.configurations = 0
        self.spend: LoadedSpend | None = None
        """What was read from the database and has not arrived yet."""
        self.looked = False
        """The desk has looked at the queue since something was freed last."""

    # ------------------------------------------------------------ calls

    @rule(
        budget=usual_budgets,
        wanted=st.lists(usual_candidates, min_size=1, max_size=2),
        mode=modes,
        priority=st.sampled_from([0, 0, 0, 1, -1]),
        wait_ms=st.sampled_from([90 * SECOND, 2 * HOUR, 48 * HOUR]),
    )
    def new_call(
        self, budget: tuple[str, ...], wanted: list[Candidate], mode: Mode, priority: int, wait_ms: int
    ) -> None:
        self.send(self.request(budget, wanted, mode, priority, wait_ms))

    @rule(
        first=st.lists(usual_candidates, min_size=1, max_size=3),
        large=usual_candidates,
        mode=modes,
        wait_ms=st.sampled_from([90 * SECOND, 2 * HOUR]),
        jump=st.sampled_from([SECOND, 61 * SECOND, 61 * SECOND, 89 * SECOND]),
        then=usual_candidates,
    )
    def rush(
        self, first: list[Candidate], large: Candidate, mode: Mode, wait_ms: int, jump: int, then: Candidate
    ) -> None:
        """Calls compete for one budget, and another comes later: most of what can go wrong begins like this."""
        for wanted in first:
            self.send(self.request(["acme"], [wanted], mode))
        self.send(self.request(["acme"], [large], mode, wait_ms=wait_ms))
        self.advance_to(self.clock_ms + jump)
        self.send(self.request(["acme/team"], [then], mode))

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

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data(), pause_ms=st.sampled_from([None, None, 10 * SECOND]))
    def report_failed_attempt(self, data: st.DataObject, pause_ms: int | None) -> None:
        grant = data.draw(st.sampled_from(list(self.model.holds.values()))).grant
        report = AttemptReport(hold_id=grant.hold_id, service=grant.service, pause_ms=pause_ms, trips_breaker=True)
        self.both(lambda desk: desk.report(report, self.clock_ms))
        self.take_in_outbox()
        self.looked = False

    # ------------------------------------------------------------ admins and configuration

    @initialize(
        caps_nanos=caps,
        concurrent_max=limits,
        max_parked=st.sampled_from([1, 4, 100]),
        earlier=st.dictionaries(places, st.sampled_from([1, UNIT, 4 * UNIT]), max_size=2),
    )
    def begin(
        self, caps_nanos: dict[Place, int], concurrent_max: dict[str, int], max_parked: int, earlier: dict[Place, int]
    ) -> None:
        self.model.earlier = earlier
        self.model.loading = True
        self.configure(caps_nanos, concurrent_max, max_parked)

    @precondition(lambda self: self.desk.state.began)
    @rule(watched=st.frozensets(st.sampled_from([f"budget:{path}" for path in BUDGETS]), max_size=2))
    def watch_budgets(self, watched: frozenset[str]) -> None:
        """And enforce the others."""
        self.model.watched = watched
        self.configure(self.model.file_caps, self.model.concurrent_max, self.model.max_parked)

    @precondition(lambda self: self.desk.state.began)  # before that nothing can be removed
    @rule(caps_nanos=caps, concurrent_max=limits, keep=st.booleans(), max_parked=st.sampled_from([4, 100]))
    def change_configuration(
        self, caps_nanos: dict[Place, int], concurrent_max: dict[str, int], keep: bool, max_parked: int
    ) -> None:
        self.configure({**self.model.file_caps, **caps_nanos} if keep else caps_nanos, concurrent_max, max_parked)

    def configure(self, caps_nanos: dict[Place, int], concurrent_max: dict[str, int], max_parked: int) -> None:
        self.configurations += 1
        config = configuration(caps_nanos, concurrent_max, self.configurations, max_parked, self.model.watched)
        self.let_time_pass()
        self.both(lambda desk: desk.configure(config, self.clock_ms, may_remove=True))
        model = self.model
        for place in {*model.file_caps, *caps_nanos}:
            if model.file_caps.get(place) != caps_nanos.get(place):
                model.caps.pop(place, None)
                if place in caps_nanos:
                    model.caps[place] = Cap(caps_nanos[place])
        model.file_caps, model.concurrent_max, model.max_parked = dict(caps_nanos), dict(concurrent_max), max_parked
        self.take_in_gates()
        self.after_a_look()

    @precondition(lambda self: self.model.caps)
    @rule(data=st.data(), by=st.sampled_from([1, UNIT, 2 * UNIT, 4 * UNIT]), lapses=st.booleans())
    def raise_a_cap(self, data: st.DataObject, by: int, lapses: bool) -> None:
        self.raise_cap(data.draw(st.sampled_from(sorted(self.model.caps))), by, lapses)

    @rule(place=places, by=st.sampled_from([0, 1, UNIT]))
    def raise_what_may_not_be_capped(self, place: Place, by: int) -> None:
        self.raise_cap(place, by, False)

    def raise_cap(self, place: Place, by: int, lapses: bool) -> None:
        account, window = place
        change = RaiseCap(account=account, window=window, by=str(nanos_to_usd(by)), until_window_end=lapses)
        self.let_time_pass()
        cap = self.model.caps.get(place)
        if cap is None or by == 0 or (lapses and window == "total"):
            for desk in (self.desk, self.cut_desk):
                with pytest.raises(ValueError, match=r"cap|total"):
                    desk.raise_cap(change, self.clock_ms)
        else:
            answer = self.both(lambda desk: desk.raise_cap(change, self.clock_ms))
            if lapses:
                cap.lapsing.append((window_name(window, self.model.now_ms), by))
            else:
                cap.nanos += by
            assert answer.cap_nanos == self.model.cap(place), "the answer to raise_cap is not the new cap"
        self.after_a_look()

    @rule(place=places, to=st.one_of(tight, st.sampled_from([0, UNIT])))
    def set_cap(self, place: Place, to: int) -> None:
        change = SetCap(account=place[0], window=place[1], to=str(nanos_to_usd(to)))
        self.let_time_pass()
        answer = self.both(lambda desk: desk.set_cap(change, self.clock_ms))
        self.model.caps[place] = Cap(to)
        assert answer.cap_nanos == to
        self.after_a_look()

    @rule(service=st.sampled_from(SERVICES), pause=st.booleans())
    def pause_or_resume(self, service: str, pause: bool) -> None:
        self.let_time_pass()
        if pause:
            self.both(lambda desk: desk.pause_service(PauseService(service=service), self.clock_ms))
        else:
            self.both(lambda desk: desk.resume_service(ResumeService(service=service), self.clock_ms))
        self.take_in_gates()
        self.take_in_outbox()
        self.looked = False

    # ------------------------------------------------------------ the database

    @rule()
    def reload(self) -> None:
        self.let_time_pass()
        self.both(lambda desk: desk.reload(self.clock_ms))
        self.model.loading = True

    @precondition(lambda self: self.spend is not None)
    @rule()
    def spend_arrives(self) -> None:
        spend = self.spend
        assert spend is not None
        self.spend = None
        self.let_time_pass()
        wanted = self.desk.to_load()
        self.both(lambda desk: desk.loaded(spend, self.clock_ms))
        self.model.loading = wanted is not None and wanted.number != spend.number
        self.model.began = self.model.began or not self.model.loading
        self.after_a_look()

    def read_what_was_spent(self) -> None:
        """Reads like the activity all that is stored, but for the holds that the desk counts itself."""
        wanted = self.both(lambda desk: desk.to_load())
        assert (wanted is not None) == self.model.loading
        if wanted is None or (self.spend is not None and self.spend.number == wanted.number):
            return
        known = [self.model.holds[hold_id] for hold_id in wanted.known_holds]
        posted: dict[str, dict[Window, int]] = {
            account: {
                window: self.model.posted(account, window)
                - sum(
                    hold.posted_nanos
                    for hold in known
                    if account in hold.accounts
                    and window_name(window, hold.grant.granted_at_ms) == window_name(window, self.model.now_ms)
                )
                for window in WINDOWS
            }
            for account in wanted.accounts
        }
        self.spend = LoadedSpend(number=wanted.number, posted_nanos=posted)

    # ------------------------------------------------------------ time and deliveries

    @rule(jump=st.sampled_from([0, 1, SECOND, 29 * SECOND, MINUTE, 61 * SECOND, 61 * SECOND, 5 * MINUTE]))
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

    # ------------------------------------------------------------ both desks, and what they say

    def in_doubt(self) -> bool:
        """Time jumped by more than an hour, and what was due meanwhile gets some minutes more."""
        doubted_until_ms = self.desk.state.clock.doubted_until_ms
        assert doubted_until_ms <= self.model.now_ms + DOUBT_MS
        return self.model.now_ms < doubted_until_ms

    def in_state(self, state: str) -> list[HeldMoney]:
        return [hold for hold in self.model.holds.values() if hold.state == state]

    def voidable(self) -> list[str]:
        """What a call voids: a hold that it got and did not use, in time or late, and its place in the queue."""
        held = [hold.grant.hold_id for hold in self.model.holds.values() if hold.runs]
        return held + [waiting.request.hold_id for waiting in self.model.queue]

    def both(self, do: Callable[[Desk], T]) -> T:
        """Acts on the desk, and on the one that is cut and restored first; both must give one answer."""
        self.cut_desk = Desk.load(self.cut_desk.dump())
        answer, cut_answer = do(self.desk), do(self.cut_desk)
        assert answer == cut_answer, "a desk that was cut and restored answers otherwise"
        now_ms = self.desk.state.now_ms
        if now_ms < self.model.now_ms:
            assert now_ms == self.clock_ms <= self.model.now_ms - BEHIND_MS, "the desk's time goes back without need"
            self.model.go_back(now_ms)
        assert now_ms == max(self.model.now_ms, self.clock_ms)
        self.model.now_ms = now_ms
        return answer

    def let_time_pass(self) -> None:
        self.both(lambda desk: desk.advance(self.clock_ms))
        self.after_a_look()

    def after_a_look(self) -> None:
        """The desk has let time pass and looked at the queue."""
        self.take_in_outbox()
        self.check_queue()
        self.looked = True

    def send(self, command: Command) -> None:
        self.let_time_pass()
        self.sent.append(command)
        answer = self.both(lambda desk: desk.handle(command, self.clock_ms))
        match command:
            case Reserve():
                self.judge_reserve(command, answer)
            case Settle():
                self.judge_settle(command, answer)
            case Void():
                self.judge_void(command, answer)
        self.take_in_outbox()
        self.looked = isinstance(command, Reserve)

    def take_in_gates(self) -> None:
        self.model.gates = {service.service: service for service in self.desk.status().services}

    def take_in_outbox(self) -> None:
        """Whom the desk answered by itself, and which holds it gave up."""
        outbox = self.desk.state.outbox
        new = [item for item in (*outbox.messages, *outbox.notices) if item.sequence > self.last_sequence]
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
                        if other.is_ahead_of(waiting.request, waiting.arrival):
                            assert not self.model.open_candidates(other.request, other.arrival), (
                                f"{granted.grant.hold_id} was served before {other.request.hold_id}, which is ahead"
                            )
                    self.judge_grant(waiting.request, waiting.arrival, granted.grant)
                case ParkedAnswer(answer=Denied() as denied):
                    waiting = self.leave_queue(denied.hold_id)
                    assert item.call == waiting.request.call
                    self.judge_denial(waiting.request, waiting.arrival, denied, waited=True)
                case Withdrawn():
                    assert self.model.holds[item.hold_id].state == "pending", "withdrawn after its end"
                case _:
                    pass  # what is only said, and moves no money

    def leave_queue(self, hold_id: str) -> Waiting:
        waiting = next(w for w in self.model.queue if w.request.hold_id == hold_id)
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
        match answer:
            case Granted():
                self.judge_grant(request, arrival, answer.grant)
            case Denied():
                self.judge_denial(request, arrival, answer, waited=False)
            case Parked():
                assert answer.deadline_at_ms == request.deadline_at_ms
                assert len(model.queue) < model.max_parked, "parked in a full queue"
                model.queue.append(Waiting(request, arrival, model.now_ms))
                model.queue.sort(key=lambda w: (-w.request.priority, w.arrival))
                self.check_queue()
            case _:
                assert isinstance(answer, Ended)
                assert not model.is_recent(request.asked_at_ms), "a fresh id is refused only when it may be forgotten"

    def judge_grant(self, request: Reserve, arrival: int, grant: Grant) -> None:
        model = self.model
        assert grant.hold_id == request.hold_id
        assert grant.hold_id not in model.holds, f"{grant.hold_id} was granted twice"
        assert grant.hold_id not in model.over, f"{grant.hold_id} was granted after it had ended"
        chosen = next(
            number
            for number, c in enumerate(request.candidates)
            if (c.service, c.model, c.price, c.max_output_tokens)
            == (grant.service, grant.model, grant.price, grant.max_output_tokens)
        )
        assert model.verdict(request, request.candidates[chosen]) != "open", "granted on a service that keeps failing"
        assert not [n for n in model.open_candidates(request, arrival) if n < chosen], "an earlier candidate fitted"
        self.nothing_kept_was_taken(request, arrival, charged(request.budgets, grant.service))
        assert grant.bound_nanos == bound_of(request, request.candidates[chosen])
        assert grant.granted_at_ms == model.now_ms
        assert grant.expires_at_ms == model.now_ms + HOLD_EXPIRES_AFTER_MS
        hold = HeldMoney(grant, charged(request.budgets, grant.service))
        model.holds[grant.hold_id] = hold
        assert not model.loading, "granted before it was known what had been spent"
        for account, window, cap in model.capped(hold.accounts):
            held = model.posted(account, window) + model.pending(account, window)
            assert held <= cap, f"a grant took {account} ({window}) over its cap"
        for account, most in model.limited(hold.accounts):
            assert model.running(account) <= most, f"too many calls at once in {account}"

    def nothing_kept_was_taken(self, request: Reserve, arrival: int, accounts: tuple[str, ...]) -> None:
        """One ahead whose money was spent meanwhile waits for that, and nothing is kept for it any more."""
        for ahead in self.model.queue:
            if ahead.is_ahead_of(request, arrival) and self.model.busy_candidates(ahead.request):
                kept = ahead.kept.intersection(accounts)
                assert not kept, f"{request.hold_id} took what was kept in {kept} for {ahead.request.hold_id}"

    def judge_denial(self, request: Reserve, arrival: int, denied: Denied, *, waited: bool) -> None:
        model, verdicts = self.model, set(self.model.verdicts(request))
        assert denied.hold_id == request.hold_id
        # The clock may have jumped over a deadline and over the window's end after it: then the call came too late.
        too_late = waited and denied.reason == "waited_too_long"
        assert too_late or not model.open_candidates(request, arrival), (
            f"denied ({denied.reason}) though a candidate fits"
        )
        match denied.reason:
            case "cap_reached":
                assert request.on_exhausted == "fail"
                assert not verdicts & {"held", "fits"}, "denied while only holds are in the way"
                assert "gone" in verdicts
            case "breaker_open":
                assert not verdicts & {"held", "fits", "gone"}, "denied though waiting would help"
                assert "open" in verdicts
            case "queue_full":
                assert len(model.queue) >= model.max_parked
            case "waited_too_long":
                assert request.deadline_at_ms <= model.now_ms, "denied before its deadline"
            case _:
                assert verdicts <= {"never"}, f"denied ({denied.reason}) though waiting would help"
        model.over[request.hold_id] = (model.now_ms, denied)

    def judge_settle(self, command: Settle, answer: Answer) -> None:
        self.take_in_gates()
        hold = self.model.holds.get(command.hold_id)
        if hold is None and command.epoch == "another run":
            assert answer == Settled(hold_id=command.hold_id), "its entries are stored: they will be read"
            self.model.loading = True
            return
        if hold is None or hold.state == "voided":
            at_ms = self.model.over.get(command.hold_id, (None, None))[0] if hold is None else hold.ended_at_ms
            if at_ms is not None and self.model.is_recent(at_ms):
                assert answer == UnknownHold(hold_id=command.hold_id), f"nothing to settle, answered {answer.kind}"
            elif answer == Settled(hold_id=command.hold_id):  # unknown or forgotten: its entries tell what is right
                self.model.loading = True
            else:
                assert at_ms is not None, f"nobody knows {command.hold_id}, answered {answer.kind}"
            return
        if hold.state == "posted" and not self.model.is_recent(hold.ended_at_ms):
            self.model.loading = any(account.loading for account in self.desk.ledger.accounts.values())
        assert isinstance(answer, Settled), f"a {hold.state} hold was settled, answered {answer.kind}"
        if hold.state != "posted":
            hold.posted_nanos, hold.settled = command.cost_nanos, True
            hold.state, hold.ended_at_ms = "posted" if command.confirmed else "unconfirmed", self.model.now_ms
        if not self.model.loading:
            for notice in answer.notices:
                posted = self.model.posted(notice.account, notice.window)
                pending = self.model.pending(notice.account, notice.window)
                assert (notice.posted_nanos, notice.pending_nanos) == (posted, pending), "the notice is wrong"

    def judge_void(self, command: Void, answer: Answer) -> None:
        self.take_in_gates()
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

    def check_queue(self) -> None:
        """After the desk has let time pass and looked at the queue."""
        model = self.model
        in_doubt = self.in_doubt()
        for hold in self.in_state("pending"):
            is_over = hold.grant.expires_at_ms <= model.now_ms
            assert in_doubt or not is_over, f"{hold.grant.hold_id} is pending after its time"
        for waiting in model.queue:
            request, verdicts = waiting.request, set(model.verdicts(waiting.request))
            assert in_doubt or request.deadline_at_ms > model.now_ms, f"{request.hold_id} waits after its deadline"
            assert not model.open_candidates(request, waiting.arrival), f"{request.hold_id} is parked though it fits"
            assert verdicts != {"never"}, f"{request.hold_id} is parked though it can never fit"
            if not model.busy_candidates(request):
                waiting.busy_since_ms, waiting.kept = None, frozenset()
                assert request.on_exhausted == "wait", f"{request.hold_id} is to fail on exhausted and waits for money"
            elif model.loading or model.may_be_shut(request):
                waiting.busy_since_ms, waiting.kept = None, frozenset()
            elif waiting.busy_since_ms is None:
                waiting.busy_since_ms = model.now_ms
            elif model.now_ms >= waiting.busy_since_ms + CLAIM_AFTER_MS:
                parked = self.desk.queue.get(request.hold_id)
                assert parked is not None
                assert parked.waits_for <= parked.keeps, f"{request.hold_id} has waited long enough for {parked}"
                assert waiting.kept <= parked.keeps, f"{request.hold_id} lost what was kept for it"
                waiting.kept = parked.keeps

    @invariant()
    def books_agree_with_the_model(self) -> None:
        self.take_in_gates()
        self.read_what_was_spent()
        model, status = self.model, self.desk.status()
        seen: set[Place] = set()
        for account in status.accounts:
            assert account.loading == model.loading
            for line in account.windows:
                place = account.account, line.window
                seen.add(place)
                assert line.cap_nanos == model.cap(place), f"cap of {place}"
                assert line.pending_nanos == model.pending(*place), f"pending in {place}"
                assert model.loading or line.posted_nanos == model.posted(*place), f"posted in {place}"
            for limit in account.limits:
                assert limit.used == model.running(account.account), f"calls at once in {account.account}"
        assert seen >= model.caps.keys(), "a capped account is not shown"
        assert status.holds == len(self.in_state("pending"))
        assert status.unconfirmed == len(self.in_state("unconfirmed"))
        assert status.parked == len(model.queue)
        assert status.outbox == len(self.messages) + len(self.notices)

    @invariant()
    def a_cut_changes_nothing(self) -> None:
        if self.desk.dump() != self.cut_desk.dump():
            names = [f.name for f in fields(DeskState)]
            other = [name for name in names if getattr(self.desk.state, name) != getattr(self.cut_desk.state, name)]
            raise AssertionError(f"a desk that was cut and restored has another state: {other or 'in another order'}")

    def teardown(self) -> None:
        """Once all waits have passed, no call is parked; what nobody settled is posted at its bound."""
        if sys.exc_info()[0] is not None:
            return  # a step failed: that is the news
        self.advance_to(max(self.clock_ms, self.model.now_ms) + 49 * HOUR)
        self.advance_to(self.clock_ms + HOUR)  # a jump of two days was not believed at once
        self.advance_to(self.clock_ms + HOUR)  # what the end of the waits itself let through
        assert not self.model.queue, "a call waits for ever"
        assert not self.in_state("pending"), "a hold never ends"


# ---------------------------------------------------------------- the tests


def test_the_desk_keeps_its_promises_whatever_comes_in_whatever_order() -> None:
    """No grant over a cap, each hold ended once, sums exact, no call kept waiting without need, and cuts unnoticed."""
    run_state_machine_as_test(DeskMachine, settings=EXAMPLES)


def test_the_machine_knows_that_nothing_is_kept_for_a_call_whose_money_is_spent_by_holds_that_expire() -> None:
    small, large = (
        Candidate(service="s", model="m", max_output_tokens=tokens, price=WHOLE) for tokens in (1_000, 3_000)
    )
    machine = DeskMachine()
    machine.begin(caps_nanos={("budget:acme", "day"): 4 * UNIT - 1}, max_parked=4, earlier={}, concurrent_max={})
    machine.books_agree_with_the_model()
    machine.spend_arrives()
    machine.almost_an_hour_passes()  # into the next day
    machine.rush([small], small, "wait", 2 * HOUR, SECOND, small)
    machine.send(machine.request(["acme"], [large], "wait"))
    machine.send(machine.request(["acme"], [small], "wait"))
    machine.advance_to(machine.clock_ms + CLAIM_AFTER_MS)
    machine.send(Void(hold_id="run-1/1"))
    machine.almost_an_hour_passes()
    assert machine.model.holds["run-5/1"].state == "pending"
    assert [waiting.request.hold_id for waiting in machine.model.queue] == ["run-4/1"]


def ignore_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    shortfall = Ledger.shortfall

    def wrong(self: Ledger, accounts: tuple[str, ...], amount_nanos: int) -> Shortfall | None:
        lines = [balance for key in accounts for balance in self.accounts[key].balances.values()]
        pending = [balance.pending_nanos for balance in lines]
        for balance in lines:
            balance.pending_nanos = 0
        found = shortfall(self, accounts, amount_nanos)
        for balance, before in zip(lines, pending, strict=True):
            balance.pending_nanos = before
        return found

    monkeypatch.setattr(Ledger, "shortfall", wrong)


def change_what_post_frees(monkeypatch: pytest.MonkeyPatch, times: int, *, only_voids: bool) -> None:
    post = Ledger.post

    def wrong(self: Ledger, hold_id: str, cost_nanos: int, *, confirmed: bool) -> object:
        lines = [b for key in self.holds[hold_id].accounts for b in self.accounts[key].balances.values()]
        pending = [balance.pending_nanos for balance in lines]
        posted = post(self, hold_id, cost_nanos, confirmed=confirmed)
        for balance, before in zip(lines, pending, strict=True):
            if cost_nanos == 0 or not only_voids:
                balance.pending_nanos = before - times * (before - balance.pending_nanos)
        return posted

    monkeypatch.setattr(Ledger, "post", wrong)


def post_without_freeing(monkeypatch: pytest.MonkeyPatch) -> None:
    change_what_post_frees(monkeypatch, 0, only_voids=False)


def free_voided_holds_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    change_what_post_frees(monkeypatch, 2, only_voids=True)


def charge_only_one_account(monkeypatch: pytest.MonkeyPatch) -> None:
    hold = Ledger.hold

    def wrong(self: Ledger, wanted: Hold) -> list[Balance]:
        wanted.accounts = wanted.accounts[:1]
        return hold(self, wanted)

    monkeypatch.setattr(Ledger, "hold", wrong)


def charge_only_the_first_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = Ledger.charged_accounts

    def wrong(self: Ledger, counted: Reserve | Grant, service: str) -> tuple[str, ...]:
        return accounts(self, counted.model_copy(update={"further_budgets": ()}), service)

    monkeypatch.setattr(Ledger, "charged_accounts", wrong)


def enforce_what_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    configure = Ledger.configure

    def wrong(self: Ledger, key: str, config: AccountConfig, *, all_of_them: bool = False) -> object:
        return configure(self, key, config.model_copy(update={"enforce": True}), all_of_them=all_of_them)

    monkeypatch.setattr(Ledger, "configure", wrong)


def forget_ended_ids_at_a_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Desk.load

    def wrong(dumped: str) -> Desk:
        desk = load(dumped)
        desk.state.ended.clear()
        return desk

    monkeypatch.setattr(Desk, "load", wrong)


BROKEN = [
    pytest.param(ignore_pending, "over its cap"),
    pytest.param(post_without_freeing, "pending in|notice"),
    pytest.param(free_voided_holds_twice, "pending in|notice"),
    pytest.param(charge_only_one_account, "pending in|over its cap"),
    pytest.param(charge_only_the_first_budget, "pending in|over its cap|of accounts"),
    pytest.param(enforce_what_is_watched, "cut and restored|denied|no other fitted|must be granted"),
    pytest.param(forget_ended_ids_at_a_cut, "cut and restored"),
]
"""Bugs to be seeded, with what the machine says of each."""


def a_few_steps() -> None:
    """Two calls fill a cap, a third one waits; one of them is settled, one gives its hold back."""
    call = Candidate(service="s", model="m", max_output_tokens=1_000, price=WHOLE)
    machine = DeskMachine()

    def look() -> None:
        machine.books_agree_with_the_model()
        machine.a_cut_changes_nothing()

    machine.begin(caps_nanos={("budget:acme", "day"): 3 * UNIT - 1}, max_parked=4, earlier={}, concurrent_max={})
    look()
    machine.spend_arrives()
    for budgets in (["solo", "acme/team"], ["acme/team"], ["acme/team"]):
        machine.send(machine.request(budgets, [call], "wait"))
        look()
    assert (len(machine.in_state("pending")), len(machine.model.queue)) == (2, 1)
    machine.send(Settle(hold_id="run-1/1", cost_nanos=UNIT // 2, epoch="this run"))
    look()
    machine.send(Void(hold_id="run-2/1"))
    look()
    machine.watch_budgets(frozenset({"budget:acme"}))
    for _ in range(3):
        machine.send(machine.request(["acme/team"], [call], "fail"))
        look()


def test_the_machine_has_nothing_to_say_of_a_few_steps() -> None:
    a_few_steps()


@pytest.mark.parametrize(("seed", "noticed"), BROKEN)
def test_the_machine_sees_a_broken_ledger_in_a_few_steps(
    monkeypatch: pytest.MonkeyPatch, seed: Callable[[pytest.MonkeyPatch], None], noticed: str
) -> None:
    seed(monkeypatch)
    with pytest.raises(AssertionError, match=noticed):
        a_few_steps()


@pytest.mark.full
@pytest.mark.parametrize(("seed", "noticed"), BROKEN)
def test_the_machine_finds_a_broken_ledger(
    monkeypatch: pytest.MonkeyPatch, seed: Callable[[pytest.MonkeyPatch], None], noticed: str
) -> None:
    """Each seeded bug fails the machine, for the right reason; the search ends where it finds it. Most are found within
    the examples of an ordinary run, one that needs two rare things within ten times as many."""
    seed(monkeypatch)
    with pytest.raises(AssertionError, match=noticed):
        run_state_machine_as_test(DeskMachine, settings=settings(EXAMPLES, max_examples=2_000, phases=[Phase.generate]))
