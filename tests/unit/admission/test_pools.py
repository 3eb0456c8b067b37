"""Candidates that share the load: none without room is called, the least used one is, and brackets keep their order."""

from collections import Counter
from fractions import Fraction

import pytest
from desk_kit import MINUTE, SECOND, Site, candidate, capped, config, service
from hypothesis import given
from hypothesis import strategies as st

from paymaster.messages import Candidate, Denied, Grant, Granted, Parked, PauseService, ServiceConfig

RICH = {"acme": capped(day=1_000_000)}


def member(name: str, *, shares: bool = True, weight: int = 1, usd: int = 1, model: str = "m") -> Candidate:
    return candidate(name, usd=usd).model_copy(update={"shares": shares, "weight": weight, "model": model})


def pool(*names: str, **weights: int) -> list[Candidate]:
    return [member(name, shares=number > 0, weight=weights.get(name, 1)) for number, name in enumerate(names)]


def a_site(**services: ServiceConfig) -> Site:
    return Site(config(budgets=RICH, services=services))


def services_of(grants: list[Grant]) -> Counter[str]:
    return Counter(grant.service for grant in grants)


def granted_until_one_waits(site: Site, *candidates: Candidate) -> list[Grant]:
    grants: list[Grant] = []
    while isinstance(answer := site.reserve(*candidates), Granted):
        grants.append(answer.grant)
    assert isinstance(answer, Parked)
    return grants


def test_every_limit_is_used_before_a_call_waits() -> None:
    """A limit of requests and one of tokens per minute have a burst of a tenth."""
    site = a_site(
        places=service(concurrent=40),
        requests=service(requests=600),
        tokens=service(tokens=1_000, concurrent=200),
    )
    grants = granted_until_one_waits(site, *pool("places", "requests", "tokens"))
    assert services_of(grants) == {"places": 40, "requests": 60, "tokens": 100}


def test_they_fill_in_the_proportion_of_their_limits() -> None:
    site = a_site(small=service(concurrent=10), large=service(concurrent=30))
    grants = [site.granted(*pool("small", "large")) for _ in range(20)]
    assert services_of(grants) == {"small": 5, "large": 15}


def test_without_limits_calls_at_once_are_shared_by_weight() -> None:
    site = a_site(a=service(), b=service(), c=service(concurrent=1_000))
    grants = [site.granted(*pool("a", "b", "c", a=3)) for _ in range(50)]
    assert services_of(grants) == {"a": 30, "b": 10, "c": 10}
    for grant in grants:
        if grant.service == "a":
            site.settle(grant)
    assert services_of([site.granted(*pool("a", "b", "c", a=3)) for _ in range(30)])["a"] == 30


def test_idle_members_are_drawn_by_their_weights() -> None:
    site = a_site(a=service(), b=service())
    drawn: list[Grant] = []
    for _ in range(400):
        drawn.append(site.granted(*pool("a", "b", a=3)))
        site.settle(drawn[-1])
    assert 270 < services_of(drawn)["a"] < 330


def test_models_of_one_service_are_drawn_by_their_weights() -> None:
    site = a_site(s=service(concurrent=1_000), t=service(concurrent=1_000))
    asked = [member("s", shares=False, weight=3, model="x"), member("s", model="y"), member("t", weight=4)]
    models = Counter((grant.service, grant.model) for grant in (site.granted(*asked) for _ in range(800)))
    assert models["t", "m"] == 400
    assert 270 < models["s", "x"] < 330


def test_the_next_bracket_is_the_fallback() -> None:
    site = a_site(a=service(concurrent=1), b=service(concurrent=1), c=service(concurrent=1))
    asked = [*pool("a", "b"), member("c", shares=False)]
    grants = granted_until_one_waits(site, *asked)
    assert [grant.service for grant in grants][2] == "c"
    assert services_of(grants) == {"a": 1, "b": 1, "c": 1}
    site.settle(next(grant for grant in grants if grant.service == "b"))
    [served] = site.served()
    assert site.desk.ledger.holds[served].grant.service == "b"


@pytest.mark.parametrize("how", ["breaker", "asked to be left alone", "admin"])
def test_one_that_fails_is_left_out_at_once(how: str) -> None:
    site = a_site(a=service(failures=1), b=service(), c=service())
    if how == "admin":
        site.desk.pause_service(PauseService(service="a", who="ada"), site.now_ms)
    else:
        ill = site.granted(candidate("a"))
        site.report(ill, None if how == "breaker" else 20 * SECOND, trips_breaker=how == "breaker")
    grants = [site.granted(*pool("a", "b", "c")) for _ in range(40)]
    assert services_of(grants) == {"b": 20, "c": 20}


def test_one_that_works_again_gets_one_call_first() -> None:
    site = a_site(a=service(failures=1, cooldown_ms=30 * SECOND), b=service())
    site.fail(site.granted(candidate("a")))
    site.wait(MINUTE)
    grants = [site.granted(*pool("a", "b")) for _ in range(10)]
    assert services_of(grants)["a"] == 1
    site.settle(next(grant for grant in grants if grant.service == "a"))
    assert services_of([site.granted(*pool("a", "b")) for _ in range(10)])["a"] > 5


def test_a_cut_changes_nothing() -> None:
    site, cut = a_site(a=service(), b=service()), a_site(a=service(), b=service())
    for number in range(20):
        asked = pool("a", "b", a=2)
        first, second = site.granted(*asked), cut.granted(*asked)
        assert first == second
        if number % 3 == 0:
            site.settle(first)
            cut.settle(second)
        cut.cut()


def test_a_parked_call_keeps_its_pool_through_a_cut() -> None:
    site = a_site(a=service(concurrent=1), b=service(concurrent=2))
    grants = granted_until_one_waits(site, *pool("a", "b", b=7))
    site.cut()
    [parked] = site.desk.queue
    assert [(each.shares, each.weight) for each in parked.reserve.candidates] == [(False, 1), (True, 7)]
    for grant in grants:
        site.settle(grant)
    assert len(site.served()) == 1


def test_rules_1_deny_it_in_words() -> None:
    site = Site(config(budgets=RICH, services={"a": service(), "b": service()}), rules=1)
    denied = site.denied(*pool("a", "b"))
    assert (denied.reason, "paymaster upgrade" in denied.detail) == ("bad_route", True)
    assert not isinstance(site.reserve(candidate("a"), candidate("b")), Denied)


members = st.tuples(st.sampled_from("abcd"), st.booleans(), st.integers(1, 3))


@given(
    limits=st.lists(st.sampled_from([None, 1, 2, 5]), min_size=4, max_size=4),
    paused=st.sets(st.sampled_from("abcd")),
    calls=st.lists(st.tuples(st.lists(members, min_size=1, max_size=5), st.integers(0, 5)), max_size=25),
)
def test_the_least_used_with_room_in_the_first_bracket_that_has_some(
    limits: list[int | None], paused: set[str], calls: list[tuple[list[tuple[str, bool, int]], int]]
) -> None:
    most = dict(zip("abcd", limits, strict=True))
    site = a_site(**{name: service(concurrent=limit) for name, limit in most.items()})
    for name in paused:
        site.desk.pause_service(PauseService(service=name), site.now_ms)
    running: list[Grant] = []
    for asked, end in calls:
        for grant in running[:end]:
            site.settle(grant)
        del running[:end]
        busy = services_of(running)
        brackets: list[list[tuple[str, int]]] = []
        for name, shares, weight in asked:
            if not (shares and brackets):
                brackets.append([])
            brackets[-1].append((name, weight))
        with_room = [
            [(name, weight) for name, weight in bracket if name not in paused and busy[name] < (most[name] or 99)]
            for bracket in brackets
        ]
        answer = site.reserve(*(member(name, shares=shares, weight=weight) for name, shares, weight in asked))
        bracket = next((each for each in with_room if each), None)
        if bracket is None:
            assert isinstance(answer, Parked)
            site.void(answer.hold_id)
            continue
        assert isinstance(answer, Granted)
        weights = Counter[str]()
        for name, weight in bracket:
            weights[name] += weight
        by_limits = all(most[name] is not None for name in weights)
        use = {n: Fraction(busy[n], ((most[n] or 1) if by_limits else 1) * w) for n, w in weights.items()}
        assert use[answer.grant.service] == min(use.values())
        running.append(answer.grant)
