"""The desk against a model that can be checked by eye: it keeps every hold in a list and adds up from scratch.

A Hypothesis state machine sends both the same commands at the same times, in any order and any number of times, with
the clock jumping over window ends and backwards. A second desk gets them too and is cut through `dump` and `Desk.load`
before every step. `DESK_MACHINE_EXAMPLES=20000` searches further than the fixed examples of an ordinary run.

The model believes the desk about one thing, whether a service may be called (pauses, breakers): what the desk says of
that has tests of its own.
"""

import os
from collections.abc import Callable

import pytest
from desk_bugs import BROKEN
from desk_machine import DeskMachine
from desk_model import (
    HOUR,
    SECOND,
    UNIT,
    WHOLE,
)
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    run_state_machine_as_test,
)
from searches import examples

from paymaster.admission.parked_call import CLAIM_AFTER_MS
from paymaster.messages import (
    Candidate,
    Settle,
    Void,
)

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


def a_few_steps() -> None:
    """Two calls fill a cap, a third one waits; one of them is settled, one gives its hold back."""
    call = Candidate(service="s", model="m", max_output_tokens=1_000, price=WHOLE)
    mini = call.model_copy(update={"service": "t", "short_below": 900_000})
    pool = [call, call.model_copy(update={"service": "t", "shares": True})]
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
    machine.send(machine.request(["acme"], [call, mini], "wait"))
    look()
    assert machine.model.holds["run-4/1"].grant.money_short
    machine.watch_budgets(frozenset({"budget:acme"}))
    for _ in range(2):
        machine.send(machine.request(["acme"], pool, "fail"))
        look()
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
