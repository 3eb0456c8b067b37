"""What the machine of the desk draws: configurations, calls, and amounts that often meet exactly."""

from collections.abc import Mapping

from desk_model import (
    ACCOUNTS,
    BUDGETS,
    HOLD_EXPIRES_AFTER_MS,
    ODD,
    SECOND,
    SERVICES,
    UNIT,
    WHOLE,
    Place,
)
from hypothesis import strategies as st

from paymaster.messages import (
    AccountConfig,
    Candidate,
    DeskConfig,
    ServiceConfig,
    Window,
)
from paymaster.values.windows import WINDOWS

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
    shares=st.booleans(),
    weight=st.sampled_from([1, 1, 2]),
    short_below=st.sampled_from([None, None, None, 0, 300_000, 750_000]),
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
