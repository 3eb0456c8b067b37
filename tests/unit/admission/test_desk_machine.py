"""The desk against a model that can be checked by eye: it keeps every hold in a list and adds up from scratch.

A Hypothesis state machine sends both the same commands at the same times, in any order and any number of times, with
the clock jumping over window ends and backwards. A second desk gets them too and is cut through `dump` and `Desk.load`
before every step. `DESK_MACHINE_EXAMPLES=20000` searches further than the fixed examples of an ordinary run.

The model believes the desk about one thing, whether a service may be called (pauses, breakers): what the desk says of
that has tests of its own.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import desk_draws
import pytest
from desk_bugs import BROKEN
from desk_drawn import NO_RUN, AskedOfRun, Drawn, bought
from desk_facts import ACCOUNTS, HALF, HOUR, MINUTE, NAMES, ODD, SECOND, TEMPLATE, UNIT, WHOLE, File, Mode, Place
from desk_machine import DeskMachine
from desk_rush import RUSH, Rush
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from searches import alike_whatever_is_imported, examples

from paymaster.admission import books, counting, settling
from paymaster.admission.parked_call import CLAIM_AFTER_MS
from paymaster.messages import ApproverConfig, Candidate, Reserve, RunawayTerms, RunTerms, Settle, Void

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


def aimed(drawn: Drawn, machine: type[DeskMachine] = DeskMachine, cut_every: int = 10) -> type[DeskMachine]:
    """A machine that draws this, and is cut less often."""
    return type("Aimed", (machine,), {"cut_every": cut_every, "drawn": drawn, **dict.fromkeys(drawn.left_out)})


# ---------------------------------------------------------------- the tests


@pytest.fixture(autouse=True)
def same_draws() -> Iterator[None]:
    with alike_whatever_is_imported():
        yield


def test_the_machine_draws_the_same_in_every_process() -> None:
    """Whatever hashes its strings have, and whatever it has imported."""
    command, env = [sys.executable, desk_draws.__file__], {**os.environ, "PYTHONHASHSEED": "1"}
    found = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == desk_draws.digest()


def test_the_desk_keeps_its_promises_whatever_comes_in_whatever_order() -> None:
    """No grant over a cap, each hold ended once, sums exact, no call kept waiting without need, and cuts unnoticed."""
    run_state_machine_as_test(DeskMachine, settings=EXAMPLES)


def test_the_desk_keeps_its_promises_where_there_is_little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and runs come in floods: they wait, and push nothing out that somebody uses or that holds money. Three ends
    are as many as are remembered one by one, and one parked call alone counts its tokens."""
    monkeypatch.setattr(books, "ACCOUNTS_MAX", len(ACCOUNTS) + 2)
    monkeypatch.setattr(settling, "ENDS_IN_GROUP", 3)
    monkeypatch.setattr(counting, "COUNTING_AT_ONCE_MAX", 1)
    run_state_machine_as_test(DeskMachine, settings=settings(EXAMPLES, max_examples=SEARCH or examples(100)))


def test_the_desk_keeps_its_promises_in_a_rush() -> None:
    """Many commands in one update, and hundreds of holds."""
    rushed = settings(EXAMPLES, max_examples=SEARCH // 20 or examples(100) // 2, stateful_step_count=10)
    run_state_machine_as_test(aimed(RUSH, Rush, cut_every=1), settings=rushed)


def test_the_machine_knows_that_nothing_is_kept_for_a_call_whose_money_is_spent_by_holds_that_expire() -> None:
    small, large = (
        Candidate(service="s", model="m", max_output_tokens=tokens, price=WHOLE) for tokens in (1_000, 3_000)
    )
    machine = DeskMachine()
    machine.begin(File(caps_nanos={("budget:acme", "day"): 4 * UNIT - 1}))
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


CALL = Candidate(service="s", model="m", max_output_tokens=1_000, price=WHOLE)
MINI = CALL.model_copy(update={"service": "t", "short_below": 900_000})
POOL = (CALL, CALL.model_copy(update={"service": "t", "shares": True}))


class Steps(DeskMachine):
    """A machine that is told what to do, and looks at the books after each step."""

    def __init__(self, file: File) -> None:
        super().__init__()
        self.begin(file)
        self.look()

    def look(self) -> None:
        """And what was spent is read where that is asked for."""
        self.books_agree_with_the_model()
        self.a_cut_changes_nothing()
        while self.spend is not None:
            self.spend_arrives()
            self.books_agree_with_the_model()
            self.a_cut_changes_nothing()

    def ask(
        self,
        *budgets: str,
        calls: Sequence[Candidate] = (CALL,),
        mode: Mode = "wait",
        run: AskedOfRun = NO_RUN,
        input_bytes: int = 10,
        digest: str = "",
    ) -> Reserve:
        request = self.request(budgets, [*calls], mode, input_bytes=input_bytes, run=run, digest=digest)
        self.send(request)
        self.look()
        return request

    def ends(self, hold_id: str, cost_nanos: int) -> None:
        self.send(Settle(hold_id=hold_id, cost_nanos=cost_nanos, epoch="this run"))
        self.look()

    def pause(self, service: str) -> None:
        self.pause_or_resume(service, pause=True)
        self.look()

    def wait(self, minutes: int) -> None:
        self.advance_to(self.clock_ms + minutes * MINUTE)
        self.look()


def test_what_was_forgotten_before_the_clock_went_back_stays_so() -> None:
    steps = Steps(File(caps_nanos={("budget:acme", "day"): UNIT - 1}))
    denied = steps.ask("acme", mode="fail")
    steps.wait(62)
    steps.advance_to(steps.clock_ms - 40 * MINUTE)
    steps.wait(3)
    assert steps.model.is_recent(denied.asked_at_ms)
    steps.send(denied)  # it is answered `ended`, and the model agrees


def test_a_clock_behind_the_time_to_which_it_was_put_back() -> None:
    """An id of then may have been used while it was ahead: its call asks under another one."""
    steps = Steps(File(caps_nanos={("budget:acme", "day"): UNIT}))
    steps.wait(120)
    steps.ends(steps.ask("acme").hold_id, 0)
    steps.wait(62)
    steps.advance_to(steps.clock_ms - 120 * MINUTE)
    steps.wait(3)
    assert steps.model.now_ms == steps.clock_ms == steps.model.returned_ms
    steps.advance_to(steps.clock_ms - MINUTE)
    steps.ask("acme")
    assert not steps.in_state("pending")
    steps.wait(1)
    steps.ask("acme")
    assert len(steps.in_state("pending")) == 1


def test_a_call_is_denied_before_one_behind_it_opens_their_run() -> None:
    """In one look: the run is limited from now on, by a budget that only the one behind counts for."""
    steps = Steps(File(caps_nanos={("budget:acme", "day"): 4 * UNIT}))
    steps.pause("s")
    for budget in ("acme", "acme/team"):
        steps.ask(budget, run=("r2", ()))
    loops = {"budget:acme/team": RunawayTerms(calls_per_minute=2)}
    steps.configure(File(caps_nanos={("service:s", "month"): 0}, runaway=loops))
    steps.look()
    assert "run-1/1" in steps.model.over


def test_what_was_spent_before_a_clock_went_back_counts_now() -> None:
    steps = DeskMachine()
    place: Place = ("budget:acme", "hour")
    steps.begin(File(caps_nanos={place: 4 * UNIT}), {place: UNIT})
    steps.reads_at_once = True
    steps.books_agree_with_the_model()
    steps.advance_to(steps.clock_ms - HOUR)
    steps.advance_to(steps.clock_ms + 3 * MINUTE)
    steps.books_agree_with_the_model()
    assert steps.model.posted(*place) == UNIT


def steps_of_budgets() -> None:
    """Two calls fill a cap, a third one waits; one of them is settled, one gives its hold back."""
    steps = Steps(File(caps_nanos={("budget:acme", "day"): 3 * UNIT - 1}))
    for budgets in (["solo", "acme/team"], ["acme/team"], ["acme/team"]):
        steps.ask(*budgets)
    assert (len(steps.in_state("pending")), len(steps.model.queue)) == (2, 1)
    steps.ends("run-1/1", UNIT // 2)
    steps.send(Void(hold_id="run-2/1"))
    steps.look()
    steps.ask("acme", calls=[CALL, MINI])
    assert steps.model.holds["run-4/1"].grant.money_short
    steps.watch_budgets(frozenset({"budget:acme"}))
    for _ in range(2):
        steps.ask("acme", calls=POOL, mode="fail")
    for _ in range(3):
        steps.ask("acme/team", mode="fail")


def steps_of_names() -> None:
    """A name spends its cap, is forgotten, comes back, and an admin changes its cap; another one has money on hold."""
    ann, bob, cy = (name.removeprefix("budget:") for name in NAMES)
    caps_nanos: dict[Place, int] = {
        ("budget:acme", "day"): 100 * UNIT,
        (TEMPLATE, "day"): 3 * UNIT - 1,
        (NAMES[0], "day"): 2 * UNIT - 1,
    }
    steps = Steps(File(caps_nanos=caps_nanos, tables=frozenset({TEMPLATE, NAMES[0]})))
    steps.ask(ann)
    steps.ask(bob, run=("r1", (RunTerms(usd_nanos=4 * UNIT),)))
    steps.ends(steps.ask(cy).hold_id, 2 * UNIT)
    steps.wait(3)
    steps.wait(8)
    assert steps.model.open == {*ACCOUNTS, NAMES[0], NAMES[1], "run:r1"}
    steps.ask(cy)
    assert len(steps.model.queue) == 1
    steps.set_cap((NAMES[2], "day"), 8 * UNIT)
    steps.look()
    assert not steps.model.queue
    steps.ends("run-4/1", UNIT)
    steps.wait(11)
    assert NAMES[2] in steps.model.open


def steps_of_runs() -> None:
    """A run makes the two calls that it may, one of them in two attempts and in a part with limits of its own; another
    run is ended."""
    steps = Steps(File(caps_nanos={("budget:acme", "day"): 100 * UNIT}, per_run={"budget:acme": RunTerms(calls=2)}))
    terms, others = (RunTerms(usd_nanos=usd * UNIT) for usd in (4, 6))
    first = steps.ask("acme", run=("r1/a", (None, terms)))
    steps.ends("run-1/1", 0)
    steps.send(first.model_copy(update={"hold_id": "run-1/2", "granted_before": True}))
    steps.look()
    steps.ask("acme", run=("r1/a", (None, others)))
    steps.ask("acme", calls=[CALL.model_copy(update={"price": HALF})], run=("r1", ()))
    assert steps.model.calls("r1") == 2
    steps.ask("acme", mode="fail", run=("r1", ()))
    steps.ask("acme", run=("r2", ()))
    steps.end_run("r2")
    steps.look()
    steps.ask("acme", run=("r2/a", ()))
    assert [hold.grant.run for hold in steps.in_state("pending")] == ["r1/a", "r1", "r2"]


def steps_of_a_runaway() -> None:
    """A run asks twice for the same thing and is held; an admin lets it go on."""
    loops = RunawayTerms(identical_calls=2)
    steps = Steps(File(caps_nanos={("budget:acme", "day"): 100 * UNIT}, runaway={"budget:acme": loops}))
    for _ in range(3):
        steps.ask("acme", run=("r1", ()), digest="again")
    steps.ask("acme", run=("r1/a", ()), digest="other")
    assert (len(steps.in_state("pending")), len(steps.model.queue)) == (2, 2)
    assert steps.model.parts["r1"].held
    steps.let_go_on("r1")
    steps.look()
    assert not steps.model.queue


def steps_of_rolling_windows() -> None:
    """What is spent counts for a day and as long as its hour."""
    steps = Steps(File(caps_nanos={("budget:acme", "24h"): 2 * UNIT}))
    steps.ends(steps.ask("acme").hold_id, UNIT)
    steps.wait(45)
    steps.ends(steps.ask("acme").hold_id, UNIT)
    steps.ask("acme")
    steps.wait(23 * 60)
    assert len(steps.model.queue) == 1
    for _ in range(3):  # a jump of a day is not believed at once
        steps.wait(20)
    assert not steps.model.queue
    steps.set_cap(("budget:solo", "7d"), UNIT)
    steps.look()


def steps_of_renewed_runs() -> None:
    """A run makes its call of the hour, which nobody settles, and has another one in the next; an admin adds one."""
    hourly = RunTerms(calls=1, renews="hour")
    steps = Steps(File(caps_nanos={("budget:acme", "day"): 100 * UNIT}, per_run={"budget:acme": hourly}))
    steps.ask("acme", run=("r1", ()))
    steps.ask("acme", run=("r1/a", ()))
    assert len(steps.model.queue) == 1
    steps.wait(31)
    steps.ask("acme", run=("r1", ()))
    assert (len(steps.in_state("pending")), len(steps.model.queue)) == (1, 1)
    steps.give_run_more("r1", calls=1)
    steps.look()
    assert not steps.model.queue


def steps_of_approvers() -> None:
    """A button is pressed twice, another one beyond the day's limit, and by somebody who may not."""
    ada = ApproverConfig(budgets=("acme",), per_raise_nanos=2 * UNIT, per_day_nanos=5 * UNIT, offers_nanos=(UNIT,))
    place: Place = ("budget:acme/team", "day")
    steps = Steps(File(caps_nanos={place: UNIT}, approvers={"ada": ada}))
    steps.ends(steps.ask("acme/team").hold_id, UNIT)
    steps.ask("acme/team")
    assert [alert.offer is not None for alert in steps.offers()] == [True]
    steps.fill_in_and_send(place, "eve", UNIT)
    steps.fill_in_and_send(place, "ada", 2 * UNIT)
    assert not steps.model.queue
    steps.press(steps.buttons[-1])
    steps.set_cap_to(place, UNIT)
    steps.press(steps.buttons[-1])
    assert steps.model.cap(place) == UNIT
    for _ in range(2):
        steps.fill_in_and_send(place, "ada", 2 * UNIT)
    assert steps.model.cap(place) == 3 * UNIT
    steps.fill_in_and_send(place, "ada", UNIT)
    assert steps.model.cap(place) == 4 * UNIT


def steps_of_purchases_and_counts() -> None:
    """A purchase takes money and no place; a call whose bytes do not fit beside it counts its tokens, also when it is
    parked until that may help."""
    text = Candidate(service="t", model="m", max_output_tokens=100, price=ODD, countable=True)
    file = File(caps_nanos={("budget:acme", "day"): 4 * UNIT}, concurrent_max={"budget:acme": 1})
    steps = Steps(file)
    steps.ask("acme", calls=[bought(2 * UNIT)])
    hold_id = steps.ask("acme", calls=[text], input_bytes=6_000).hold_id
    grant = steps.model.holds[hold_id].grant
    assert grant.counted_tokens == 1_500
    steps.ends(hold_id, grant.bound_nanos * 5 // 4)  # its service is not believed as much from now on
    steps.ends("run-1/1", UNIT)
    steps.ask("acme", calls=[text], input_bytes=9_000, mode="fail")
    steps = Steps(file)
    for nanos in (UNIT, 3 * UNIT):
        steps.ask("acme", calls=[bought(nanos)])
    hold_id = steps.ask("acme", calls=[text], input_bytes=6_000).hold_id
    steps.ends("run-1/1", 0)
    steps.wait(0)
    steps.ask_again_with_a_count()
    steps.ends("run-2/1", 0)
    steps.wait(0)
    assert steps.model.holds[hold_id].grant.counted_tokens == 1_500


def a_few_steps() -> None:
    steps_of_budgets()
    steps_of_names()
    steps_of_runs()
    steps_of_a_runaway()
    steps_of_rolling_windows()
    steps_of_renewed_runs()
    steps_of_approvers()
    steps_of_purchases_and_counts()


def test_the_machine_has_nothing_to_say_of_a_few_steps() -> None:
    a_few_steps()


@pytest.mark.parametrize(("seed", "noticed", "drawn"), BROKEN)
def test_the_machine_sees_a_broken_ledger_in_a_few_steps(
    monkeypatch: pytest.MonkeyPatch, seed: Callable[[pytest.MonkeyPatch], None], noticed: str, drawn: Drawn
) -> None:
    del drawn  # these steps are the same for each
    seed(monkeypatch)
    with pytest.raises(AssertionError, match=noticed):
        a_few_steps()


@pytest.mark.full
@pytest.mark.parametrize(("seed", "noticed", "drawn"), BROKEN)
def test_the_machine_finds_a_broken_ledger(
    monkeypatch: pytest.MonkeyPatch, seed: Callable[[pytest.MonkeyPatch], None], noticed: str, drawn: Drawn
) -> None:
    """Each seeded bug fails the machine, for the right reason; the search ends where it finds it."""
    seed(monkeypatch)
    search = settings(EXAMPLES, max_examples=2_000, phases=[Phase.generate])
    with pytest.raises(AssertionError, match=noticed):
        run_state_machine_as_test(aimed(drawn), settings=search)
