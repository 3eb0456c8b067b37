"""What the machine of the desk draws: configurations, calls, and amounts that often meet exactly."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from desk_facts import (
    ACCOUNTS,
    HALF,
    HOLD_EXPIRES_AFTER_MS,
    HOUR,
    MINUTE,
    NAMES,
    ODD,
    PLACES,
    SECOND,
    SERVICES,
    TEMPLATE,
    UNIT,
    WHOLE,
    File,
    Place,
)
from hypothesis import strategies as st

from paymaster.messages import (
    AccountConfig,
    ApproverConfig,
    Candidate,
    DeskConfig,
    RunawayTerms,
    RunTerms,
    ServiceConfig,
    Window,
)
from paymaster.values.money import Price

AskedOfRun = tuple[str | None, tuple[RunTerms | None, ...]]
NO_RUN: AskedOfRun = (None, ())

places = st.tuples(st.sampled_from([*ACCOUNTS, *NAMES]), st.sampled_from(PLACES))
tables = [*ACCOUNTS, TEMPLATE, TEMPLATE, NAMES[0]]
file_places = st.tuples(st.sampled_from(tables), st.sampled_from([*PLACES, "24h", "24h"]))
tight = st.sampled_from([4 * UNIT - 1, 4 * UNIT, 4 * UNIT, 5 * UNIT, 6 * UNIT - 1, 8 * UNIT])


def _both(always: Mapping[Place, int], more: Mapping[Place, int]) -> dict[Place, int]:
    return {**more, **always}


caps = st.builds(
    _both,
    st.dictionaries(
        st.sampled_from([("budget:acme", "day"), ("budget:acme", "total"), ("budget:acme", "24h")]), tight, min_size=1
    ),
    st.dictionaries(file_places, st.one_of(tight, tight, st.sampled_from([0, 1, UNIT])), max_size=3),
)
terms = st.sampled_from(
    [
        RunTerms(usd_nanos=4 * UNIT),
        RunTerms(calls=1),
        RunTerms(calls=2),
        RunTerms(lasts_ms=5 * MINUTE),
        RunTerms(usd_nanos=6 * UNIT - 1, calls=2, lasts_ms=HOUR),
    ]
)
renewed = st.sampled_from(
    [
        RunTerms(usd_nanos=4 * UNIT, renews="hour"),
        RunTerms(calls=1, renews="hour"),
        RunTerms(usd_nanos=6 * UNIT, calls=2, renews="day"),
        RunTerms(calls=2, renews="week"),
    ]
)
watched = st.frozensets(st.sampled_from([*ACCOUNTS[:3], TEMPLATE]), max_size=2)
runaways = st.sampled_from(
    [
        RunawayTerms(identical_calls=1),
        RunawayTerms(identical_calls=2, calls_per_minute=4),
        RunawayTerms(calls_per_minute=2),
        RunawayTerms(usd_nanos_per_minute=2 * UNIT),
    ]
)
approver = st.builds(
    ApproverConfig,
    budgets=st.sampled_from([("acme",), ("acme/team", "solo"), ("acme/users",)]),
    per_raise_nanos=st.sampled_from([UNIT, 2 * UNIT, 4 * UNIT]),
    per_day_nanos=st.sampled_from([4 * UNIT, 5 * UNIT, 8 * UNIT]),
    offers_nanos=st.sampled_from([(UNIT,), (UNIT, 2 * UNIT)]),
)
APPROVERS = ("ada", "bob")
files = st.builds(
    File,
    caps_nanos=caps,
    concurrent_max=st.dictionaries(st.sampled_from(tables), st.sampled_from([1, 2, 3]), max_size=1),
    per_run=st.dictionaries(
        st.sampled_from(["budget:acme", "budget:solo", TEMPLATE]), st.one_of(terms, renewed), max_size=2
    ),
    tables=st.sampled_from([frozenset({TEMPLATE}), frozenset({TEMPLATE, NAMES[0]}), frozenset[str]()]),
    runaway=st.dictionaries(st.sampled_from(["budget:acme", "budget:acme/team", TEMPLATE]), runaways, max_size=1),
    watched=st.one_of(st.just(frozenset[str]()), watched),
    max_parked=st.sampled_from([1, 4, 100, 100]),
    approvers=st.dictionaries(st.sampled_from(APPROVERS), approver, max_size=2),
)
runs = st.one_of(
    st.sampled_from([NO_RUN, NO_RUN, ("r1", ()), ("r1/a", ()), ("r2", ())]),
    st.tuples(st.just("r1"), st.tuples(terms)),
    st.tuples(st.sampled_from(["r1/a", "r2/a"]), st.tuples(st.one_of(st.none(), terms), terms)),
)
"""The path of a call's run, and what it asks for it and its part."""
usual_candidates = st.builds(
    Candidate,
    service=st.sampled_from(SERVICES),
    model=st.just("m"),
    max_output_tokens=st.sampled_from([1_000, 1_000, 2_000, 3_000, 4_000]),
    price=st.sampled_from([WHOLE, WHOLE, WHOLE, ODD, HALF]),
    shares=st.booleans(),
    weight=st.sampled_from([1, 1, 2]),
    short_below=st.sampled_from([None, None, None, 0, 300_000, 750_000]),
)
countable = st.builds(
    Candidate,
    service=st.sampled_from(SERVICES),
    model=st.just("m"),
    max_output_tokens=st.sampled_from([100, 1_000]),
    price=st.just(ODD),
    countable=st.just(True),
)
pools = st.builds(
    lambda *members: [member.model_copy(update={"shares": True}) for member in members],
    usual_candidates.map(lambda candidate: candidate.model_copy(update={"service": "s", "short_below": None})),
    usual_candidates.map(lambda candidate: candidate.model_copy(update={"service": "t", "short_below": None})),
)


def bought(nanos: int, what: str = "search") -> Candidate:
    """What can cost so much at most."""
    price = Price(input_nanos=0, output_nanos=0, request_nanos=nanos, source="purchase")
    return Candidate(service=what, model="purchase", max_output_tokens=1, price=price, purchase=True)


purchases = st.builds(
    bought, st.sampled_from([UNIT, 2 * UNIT, 4 * UNIT]), st.sampled_from(["search", "search", "search", *SERVICES])
)
odd_candidates = st.builds(
    Candidate,
    service=st.sampled_from([*SERVICES, "ghost"]),
    model=st.just("m"),
    max_output_tokens=st.sampled_from([1_000, 9_000]),
    price=st.sampled_from([WHOLE, None]),
)
modes = st.sampled_from(["wait", "fail"])
names = [name.removeprefix("budget:") for name in NAMES]
one_budget = st.sampled_from(["acme", "acme/team", "acme/team/writer", "solo", names[0], *names, f"{names[0]}/chat"])
usual_budgets = st.one_of(st.tuples(one_budget), st.tuples(one_budget, one_budget))
routes = st.one_of(
    st.lists(usual_candidates, min_size=1, max_size=2),
    pools,
    st.lists(purchases, min_size=1, max_size=1),
    st.lists(st.one_of(countable, countable, usual_candidates), min_size=1, max_size=2),
)
sizes = st.sampled_from([10, 10, 6_000, 9_000])
digests = st.sampled_from(["", "again", "again", "other"])


class Usual(NamedTuple):
    """What most calls of one search ask for: few different things, so that they get into each other's way."""

    budgets: list[tuple[str, ...]]
    routes: list[list[Candidate]]
    runs: list[AskedOfRun]
    reads_at_once: bool
    """Whether what was spent is known as soon as the desk asks for it."""


usuals = st.builds(
    Usual,
    budgets=st.lists(usual_budgets, min_size=1, max_size=2),
    routes=st.lists(routes, min_size=1, max_size=2),
    runs=st.lists(runs, min_size=1, max_size=2),
    reads_at_once=st.sampled_from([True, True, True, False]),
)


def one_of_the_usual(what: Literal["budgets", "routes", "runs"]) -> st.SearchStrategy[Any]:
    """Of the machine that runs."""
    return st.runner().flatmap(lambda machine: st.sampled_from(getattr(machine.usual, what)))


class Drawn(NamedTuple):
    """What a machine draws."""

    files: st.SearchStrategy[File] = files
    usuals: st.SearchStrategy[Usual] = usuals
    earlier: st.SearchStrategy[dict[Place, int]] = st.dictionaries(
        places, st.sampled_from([1, UNIT, 4 * UNIT]), max_size=2
    )
    left_out: tuple[str, ...] = ()
    """Rules that it never follows."""


def drawn_by_machine(what: Literal["files", "usuals", "earlier"]) -> st.SearchStrategy[Any]:
    """Of the machine that runs."""
    return st.runner().flatmap(lambda machine: getattr(machine.drawn, what))


odd_budgets = st.sampled_from(
    [("acme",), ("nowhere",), ("acmeteam",), ("acme/team/",), ("acme", "nowhere"), (names[0],), (names[1], names[2])]
)


def configuration(file: File, number: int) -> DeskConfig:
    def caps_of(table: str) -> dict[Window, int]:
        return {window: cap for (account, window), cap in file.caps_nanos.items() if account == table}

    def budget(table: str) -> AccountConfig:
        return AccountConfig(
            caps_nanos=caps_of(table),
            max_concurrent=file.concurrent_max.get(table),
            enforce=table not in file.watched,
            per_run=file.per_run.get(table),
            runaway=file.runaway.get(table),
        )

    def service(table: str) -> ServiceConfig:
        return ServiceConfig(
            caps_nanos=caps_of(table),
            max_concurrent=file.concurrent_max.get(table),
            breaker_failures=2,
            breaker_cooldown_ms=30 * SECOND,
        )

    budgets = [table for table in (*ACCOUNTS, *sorted(file.tables)) if table.startswith("budget:")]
    return DeskConfig(
        digest=f"configuration {number}",
        budgets={table.removeprefix("budget:"): budget(table) for table in budgets},
        services={name: service(f"service:{name}") for name in SERVICES},
        hold_expires_after_ms=HOLD_EXPIRES_AFTER_MS,
        max_parked=file.max_parked,
        approvers=dict(file.approvers),
    )
