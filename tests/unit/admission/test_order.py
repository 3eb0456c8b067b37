"""What decides where several things say no: docs/budgets.md has this order, and each pair of obstacles is tried."""

from itertools import combinations, product
from typing import Literal, NamedTuple

import pytest
from desk_kit import DOLLAR_PER_TOKEN, HOUR, NOON, Site, candidate, config, service

from paymaster.messages import Answer, AttemptReport, Denied, Parked, PauseService, RunTerms, ServiceConfig, Window

Mode = Literal["wait", "fail"]


class Obstacle(NamedTuple):
    """Something that says no, and what follows where it decides."""

    reason: str
    waits: bool = True
    """It passes by itself: the call waits, whatever it says of money that is gone."""
    helps: bool = True
    """To wait may help."""


NO_PRICE = Obstacle("no_price", waits=False, helps=False)
NEVER = Obstacle("bound_above_cap", waits=False, helps=False)
LOADING = Obstacle("loading")
RUN = Obstacle("run_calls_exhausted", waits=False)
GONE = Obstacle("cap_reached", waits=False)
HELD = Obstacle("money_held")
PAUSED = Obstacle("paused")
BREAKER = Obstacle("breaker_open", waits=False)
MODEL = Obstacle("model_paused")
PLACE = Obstacle("max_concurrent")
RATE = Obstacle("rate_limit")
ONE_CALL = (RunTerms(calls=1),)
OF_ONE_CANDIDATE = (NO_PRICE, LOADING, NEVER, RUN, GONE, HELD, PAUSED, BREAKER, MODEL, PLACE, RATE)
"""Whichever comes first decides, since it is what lasts or must be known first."""
OF_SEVERAL = (LOADING, HELD, PAUSED, MODEL, PLACE, RATE, GONE, BREAKER, NEVER)
"""The candidate with the least in its way decides: what passes by itself, then money, then no service that works."""
PAIRS = [pytest.param(pair, id=" + ".join(each.reason for each in pair)) for pair in combinations(OF_ONE_CANDIDATE, 2)]


def a_site(**obstacles: tuple[Obstacle, ...]) -> Site:
    """Services by name, each with these in the way of a call that can cost $2 there."""
    services = {name: of_service(each) for name, each in obstacles.items()}
    site = Site(
        config(budgets={"acme": config().budgets["acme"].model_copy(update={"caps_nanos": {}})}, services=services)
    )
    for name, each in obstacles.items():
        if RUN in each:
            use_up_run(site, name)
        put_in_the_way(site, name, each)
    if any(LOADING in each for each in obstacles.values()):
        site.desk.reload(site.now_ms)
    return site


def of_service(obstacles: tuple[Obstacle, ...]) -> ServiceConfig:
    return service(
        requests=60 if RATE in obstacles else None,
        concurrent=1 if PLACE in obstacles else None,
        failures=1,
        cooldown_ms=HOUR,
    )


def use_up_run(site: Site, name: str) -> None:
    """The only call of the run `r`."""
    waiting = site.parked(candidate(name, 0), run="r", run_terms=ONE_CALL)
    site.load()
    site.settle(waiting)


def put_in_the_way(site: Site, name: str, obstacles: tuple[Obstacle, ...]) -> None:
    """$9 are spent and $9 held there, in windows of which each obstacle of money caps another one."""
    account = f"service:{name}"
    site.settle(site.granted(candidate(name, 9)), 9)
    held = site.granted(candidate(name, 9))
    if MODEL in obstacles:
        site.desk.report(AttemptReport(hold_id="", service=name, pause_ms=HOUR, model="m"), site.now_ms)
    for _ in range(60 if RATE in obstacles else 0):
        site.report(held, trips_breaker=False)
    if BREAKER in obstacles:
        site.report(held)
    caps: dict[Obstacle, tuple[str, Window]] = {NEVER: ("1", "hour"), GONE: ("10", "day"), HELD: ("19", "month")}
    for obstacle, (cap, window) in caps.items():
        if obstacle in obstacles:
            site.set_cap(cap, account, window)
    if PAUSED in obstacles:
        site.desk.pause_service(PauseService(service=name, who="ada"), NOON)


def ask(site: Site, obstacles: tuple[Obstacle, ...], mode: Mode) -> Answer:
    price = None if NO_PRICE in obstacles else DOLLAR_PER_TOKEN
    run, terms = ("r", ONE_CALL) if RUN in obstacles else (None, ())
    return site.reserve(candidate("s", 2, price), mode=mode, run=run, run_terms=terms)


def decided_by(answer: Answer, deciding: Obstacle, mode: Mode) -> bool:
    if deciding is LOADING or deciding.waits or (mode == "wait" and deciding.helps):
        return isinstance(answer, Parked)
    return isinstance(answer, Denied) and answer.reason == deciding.reason


def told(site: Site, answer: Answer) -> str:
    """The reason by which a parked call waits."""
    assert isinstance(answer, Parked | Denied), answer
    if isinstance(answer, Denied):
        return answer.reason
    call = site.desk.queue.get(answer.hold_id)
    assert call is not None
    return call.waits[0][0]


@pytest.mark.parametrize("mode", ["wait", "fail"])
@pytest.mark.parametrize("obstacle", OF_ONE_CANDIDATE, ids=lambda each: each.reason)
def test_each_alone(obstacle: Obstacle, mode: Mode) -> None:
    site = a_site(s=(obstacle,))
    answer = ask(site, (obstacle,), mode)
    assert told(site, answer) == obstacle.reason
    assert decided_by(answer, obstacle, mode)


@pytest.mark.parametrize("mode", ["wait", "fail"])
@pytest.mark.parametrize("pair", PAIRS)
def test_of_two_in_the_way_of_one_candidate(pair: tuple[Obstacle, Obstacle], mode: Mode) -> None:
    site = a_site(s=pair)
    answer = ask(site, pair, mode)
    assert told(site, answer) == pair[0].reason
    assert decided_by(answer, pair[0], mode)


@pytest.mark.parametrize("mode", ["wait", "fail"])
@pytest.mark.parametrize(
    "pair", list(product(OF_SEVERAL[1:], repeat=2)), ids=lambda pair: " or ".join(each.reason for each in pair)
)
def test_of_two_candidates_the_nearer_one_decides(pair: tuple[Obstacle, Obstacle], mode: Mode) -> None:
    """In whichever order the route has them."""
    site = a_site(s=(pair[0],), t=(pair[1],))
    answer = site.reserve(candidate("s", 2), candidate("t", 2), mode=mode)
    assert decided_by(answer, min(pair, key=OF_SEVERAL.index), mode)


def test_a_withdrawal_before_its_question_ends_the_hold() -> None:
    """One update may pass another: in either order no money stays on hold."""
    site = Site()
    site.void("early/1")
    assert site.reserve(candidate(usd=1), hold_id="early/1").kind == "ended"
    site.void(site.granted(candidate(usd=1)))
    assert site.pending() == 0
