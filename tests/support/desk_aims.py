"""What the search for each seeded bug draws: few rules, and what the bug is about, so that it is found soon."""

from collections.abc import Mapping
from typing import Any

from desk_drawn import NO_RUN, AskedOfRun, Drawn, Usual, bought, countable, pools
from desk_facts import HALF, NAMES, ODD, TEMPLATE, UNIT, WHOLE, File, Place
from hypothesis import strategies as st

from paymaster.messages import ApproverConfig, Candidate, RunawayTerms, RunTerms

ODD_RULES = (
    "unusual_call",
    "command_about_an_unknown_hold",
    "raise_what_may_not_be_capped",
    "clock_goes_back",
    "reload",
    "store_notices",
    "deliver_messages",
    "report_failed_attempt",
    "settle_what_was_unconfirmed",
    "pause_or_resume",
)
RULES_OF_ADMINS = (
    "change_configuration",
    "raise_a_cap",
    "set_cap",
    "watch_budgets",
    "raise_run",
    "resume_run",
    "end_run",
)
RULES_OF_APPROVERS = ("raise_by_a_form", "press_what_an_alert_offers", "press_again", "take_a_raise_back")
RULES_OF_TIME = ("window_ends", "almost_an_hour_passes", "desk_wakes_by_itself", "time_passes", "spend_arrives")
OTHER_CALLS = ("rush", "repeat", "next_attempt")
NO_TIME = (*ODD_RULES, *RULES_OF_ADMINS, *RULES_OF_APPROVERS, *RULES_OF_TIME)

ANN, BOB, CY = (name.removeprefix("budget:") for name in NAMES)
ROOM = 100 * UNIT


def call(price: Any = WHOLE, **more: Any) -> Candidate:
    return Candidate(service="s", model="m", max_output_tokens=1_000, price=price).model_copy(update=more)


def file(caps_nanos: Mapping[Place, int], **more: Any) -> st.SearchStrategy[File]:
    return st.just(File(caps_nanos=caps_nanos, **more))


def usual(
    *budgets: tuple[str, ...],
    routes: st.SearchStrategy[list[Candidate]] | None = None,
    runs: tuple[AskedOfRun, ...] = (NO_RUN,),
) -> st.SearchStrategy[Usual]:
    """All of these at once."""
    drawn_routes = st.just([call()]) if routes is None else routes
    return st.builds(
        Usual,
        budgets=st.just([*budgets] or [("acme",)]),
        routes=st.lists(drawn_routes, min_size=2, max_size=2),
        runs=st.just([*runs]),
        reads_at_once=st.just(True),
    )


ACME: Mapping[Place, int] = {("budget:acme", "day"): ROOM}
nothing = st.just(dict[Place, int]())

USUAL = Drawn(left_out=ODD_RULES)
CAP = Drawn(file({("budget:acme", "day"): 2 * UNIT}), usual(), nothing, left_out=(*NO_TIME, "next_attempt"))
POOLS = Drawn(file(ACME), usual(routes=pools), nothing, left_out=(*NO_TIME, *OTHER_CALLS))
SHORT = Drawn(
    file({("budget:acme", "day"): 8 * UNIT}),
    usual(routes=st.sampled_from([[call()], [call(), call(service="t", short_below=750_000)]])),
    st.just({("budget:acme", "day"): 4 * UNIT}),
    left_out=(*NO_TIME, *OTHER_CALLS),
)
names_file = file(
    {**ACME, (TEMPLATE, "day"): 3 * UNIT, (NAMES[0], "day"): 2 * UNIT}, tables=frozenset({TEMPLATE, NAMES[0]})
)
NAMED = Drawn(
    names_file,
    usual((ANN,), (BOB,), (CY,)),
    st.just({(NAMES[1], "day"): UNIT}),
    left_out=(
        *ODD_RULES,
        *RULES_OF_ADMINS,
        *RULES_OF_APPROVERS,
        *OTHER_CALLS,
        "window_ends",
        "almost_an_hour_passes",
    ),
)
NAMES_OF_ADMINS = NAMED._replace(left_out=tuple(rule for rule in NAMED.left_out if rule != "set_cap"))
two_calls, money = RunTerms(calls=2), RunTerms(usd_nanos=4 * UNIT)
RUNS = Drawn(
    file(ACME),
    usual(runs=(("r1", (two_calls,)), ("r1/a", (two_calls, money)))),
    nothing,
    left_out=(*NO_TIME, "rush", "repeat"),
)
OTHER_LIMITS = RUNS._replace(usuals=usual(runs=(("r1", (two_calls,)), ("r1", (money,)))))
ENDED_RUNS = RUNS._replace(left_out=tuple(rule for rule in RUNS.left_out if rule != "end_run"))
LIMITED_RUNS = RUNS._replace(
    files=file(ACME, per_run={"budget:acme": two_calls}), usuals=usual(runs=(("r1", ()), ("r1/a", ())))
)
RENEWED_RUNS = LIMITED_RUNS._replace(
    files=file(ACME, per_run={"budget:acme": RunTerms(calls=1, renews="hour")}),
    left_out=(*ODD_RULES, *RULES_OF_ADMINS, *RULES_OF_APPROVERS, "rush", "repeat", "time_passes"),
)
LOOPS = RUNS._replace(
    files=file(ACME, runaway={"budget:acme": RunawayTerms(identical_calls=1)}), usuals=usual(runs=(("r1", ()),))
)
PRICES = Drawn(
    file(ACME),
    usual(routes=st.sampled_from([WHOLE, HALF, ODD]).map(lambda price: [call(price)])),
    nothing,
    left_out=(*NO_TIME, *OTHER_CALLS),
)
ROLLING = Drawn(
    file({("budget:acme", "24h"): 4 * UNIT}),
    usual(),
    st.just({("budget:acme", "24h"): 2 * UNIT}),
    left_out=(*ODD_RULES, *RULES_OF_ADMINS, *RULES_OF_APPROVERS, *OTHER_CALLS, "desk_wakes_by_itself"),
)
PURCHASES = Drawn(
    file(ACME, concurrent_max={"budget:acme": 2}),
    usual(routes=st.sampled_from([[call()], [bought(UNIT)]])),
    nothing,
    left_out=(*NO_TIME, *OTHER_CALLS),
)
COUNTS = Drawn(
    file({("budget:acme", "day"): 4 * UNIT}),
    usual(routes=st.lists(countable, min_size=1, max_size=1)),
    nothing,
    left_out=(*NO_TIME, *OTHER_CALLS),
)
ADA = ApproverConfig(budgets=("acme",), per_raise_nanos=2 * UNIT, per_day_nanos=4 * UNIT, offers_nanos=(UNIT, 2 * UNIT))
APPROVALS = Drawn(
    file({("budget:acme", "day"): 2 * UNIT, ("budget:acme", "month"): ROOM}, approvers={"ada": ADA}),
    usual(),
    nothing,
    left_out=(*ODD_RULES, *RULES_OF_ADMINS, *RULES_OF_TIME, *OTHER_CALLS),
)
