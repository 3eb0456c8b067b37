"""Calls with many candidates: what one activation does with them is bounded by candidates, and not by calls alone."""

import time
from collections.abc import Callable
from unittest.mock import patch

import pytest
from desk_kit import MINUTE, USD, Site, at, candidate, capped, config, service

from paymaster.admission.desk import Desk
from paymaster.messages import Candidate, Settle
from paymaster.values.budget_path import LEVELS_MAX
from paymaster.values.limits import CANDIDATES_MAX, CANDIDATES_PARKED_MAX

pytestmark = pytest.mark.usefixtures("heap_of_a_worker")
ACTIVATION_S = 0.5


def site_of(services: int, max_parked: int = 10_000) -> Site:
    return Site(
        config(
            budgets={"acme": capped(day=100_000)},
            services={f"s{number}": service() for number in range(services)},
            max_parked=max_parked,
        )
    )


def route(length: int, usd: int = 2) -> tuple[Candidate, ...]:
    return tuple(candidate(f"s{number}", usd) for number in range(length))


def seconds(act: Callable[[], object]) -> float:
    """Processor time."""
    began = time.process_time()
    act()
    return time.process_time() - began


def test_a_look_at_long_routes_goes_on_in_the_next_activation() -> None:
    """Each parked call is looked at in the end, a few in each activation, and all are granted in their order."""
    site = site_of(10)
    held = site.granted(candidate("s0", 100_000))
    parked = [site.parked(*route(10)) for _ in range(30)]
    with patch("paymaster.admission.parking.LOOKED_AT_MAX", 50):
        site.settle(held)
        assert list(site.answers()) == parked[:5]
        site.wait(MINUTE)
    assert list(site.answers()) == parked[5:]


def test_calls_in_vain_count_by_their_candidates() -> None:
    """Their money is spent: each learns it, though a few only in each activation."""
    site = site_of(10)
    held = site.granted(candidate("s0", 100_000))
    parked = [site.parked(*route(10)) for _ in range(30)]

    def know() -> int:
        return sum("spent" in call.detail and call.busy_since_ms is None for call in site.desk.state.parked.values())

    with patch("paymaster.admission.parking.LOOKED_AT_MAX", 50):
        site.settle(held, 100_000)
        assert know() == 5
        site.wait(MINUTE)
    assert know() == len(parked)


def test_parked_calls_are_bounded_by_their_candidates() -> None:
    """And there is room again when one leaves."""
    site = site_of(10)
    held = site.granted(candidate("s0", 100_000))
    with patch("paymaster.admission.parking.CANDIDATES_PARKED_MAX", 25):
        first = site.parked(*route(10))
        site.parked(*route(10))
        denied = site.denied(*route(6), mode="wait")
        assert (denied.reason, denied.detail) == ("queue_full", "the parked calls have 20 candidates together")
        assert len(site.alerts("queue_full")) == 1
        site.parked(*route(5))
        site.desk = Desk.load(site.desk.dump())
        assert site.denied(*route(1), mode="wait").reason == "queue_full"
        site.void(first)
        site.parked(*route(10))
    site.void(held)


def test_no_activation_is_long_with_the_most_candidates() -> None:
    """A settlement that spends what all wait for, and the state as it is handed on: 500 ms of processor time at most.

    Each call has other output, so that no two candidates are equal.
    """
    site = site_of(CANDIDATES_MAX)
    held = site.granted(candidate("s0", 99_998))
    calls = CANDIDATES_PARKED_MAX // CANDIDATES_MAX
    for number in range(calls):
        site.parked(*route(CANDIDATES_MAX, 3 + number))
    spent = Settle(hold_id=held.hold_id, cost_nanos=99_998 * USD, epoch="this run")

    def settle() -> None:
        site.desk.handle(spent, site.now_ms)
        site.desk.advance(site.now_ms)

    assert seconds(settle) < ACTIVATION_S
    dumped = site.desk.dump()
    assert min(seconds(site.desk.dump) for _ in range(3)) < ACTIVATION_S
    assert min(seconds(lambda: Desk.load(dumped)) for _ in range(3)) < ACTIVATION_S
    assert Desk.load(dumped).dump() == dumped


def test_many_thresholds_in_many_budgets_take_no_time() -> None:
    """Nested budgets, so many as a path can have, each with as many parts of five caps as there may be."""
    paths = ["/".join(["a"] * depth) for depth in range(1, LEVELS_MAX + 1)]
    account = capped(minute=1_000, hour=1_000, day=1_000, month=1_000, total=1_000).model_copy(
        update={"alert_at": tuple(number / 20 for number in range(1, 21))}
    )
    site = Site(config(budgets=dict.fromkeys(paths, account)), now_ms=at(2027))
    held = site.granted(candidate(usd=999), budget=paths[-1])
    assert seconds(lambda: site.settle(held, 999)) < ACTIVATION_S
    assert len(site.alerts("threshold")) == 5 * len(paths)


def test_looks_go_on_while_the_clock_is_behind_the_desks_time() -> None:
    """A new run on a server whose clock is four minutes behind: its activations are told apart by the clock."""
    site = site_of(10)
    held = site.granted(candidate("s0", 100_000))
    parked = [site.parked(*route(10)) for _ in range(30)]
    site.cut()
    clock_ms = site.now_ms - 4 * MINUTE
    with patch("paymaster.admission.parking.LOOKED_AT_MAX", 50):
        site.desk.handle(Settle(hold_id=held.hold_id, cost_nanos=0, epoch="this run"), clock_ms)
        for _ in range(len(parked)):
            site.desk.advance(clock_ms)
            clock_ms = max(clock_ms + 1, site.desk.due_ms)
            if len(site.desk.state.parked) == 0:
                break
    assert clock_ms < site.now_ms - 3 * MINUTE
    assert list(site.answers()) == parked
