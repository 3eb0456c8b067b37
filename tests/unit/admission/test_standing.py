"""What is left of capped accounts: after a settlement, and to whoever asks."""

import pytest
from desk_kit import HOUR, USD, Site, at, candidate, capped, config, service
from hypothesis import given
from hypothesis import strategies as st

from paymaster.messages import AskStanding, BudgetNotice, Standing, StandingAnswer
from paymaster.values.limits import NOTICES_MAX
from paymaster.values.windows import WINDOWS

BOTH = ("teams/red", "customers/42")
WATCHED = capped(day=1).model_copy(update={"enforce": False})


def asked(site: Site, *budgets: str) -> StandingAnswer:
    answer = site.desk.handle(AskStanding(budget=budgets[0], further_budgets=budgets[1:]), site.now_ms)
    assert isinstance(answer, StandingAnswer)
    return answer


def standing(site: Site, *budgets: str) -> Standing:
    found = asked(site, *budgets).standing
    assert found is not None
    return found


def in_dollars(notices: tuple[BudgetNotice, ...]) -> list[tuple[str, str, float, int | None]]:
    return [(each.account, each.window, each.left_nanos / USD, each.ends_at_ms) for each in notices]


def test_what_is_left_in_each_and_until_when() -> None:
    budgets = {"teams": capped(month=50), "teams/red": capped(day=10, total=100), "customers/42": WATCHED}
    site = Site(config(budgets=budgets, services={"s": service(hour=20)}))
    site.granted(candidate(usd=3), budget=BOTH)
    settled = site.settle(site.granted(candidate(usd=3), budget=BOTH), 2)
    left = [
        ("budget:teams/red", "day", 5, at(2027, 3, 11)),
        ("budget:teams", "month", 45, at(2027, 4)),
        ("budget:teams/red", "total", 95, None),
    ]
    assert in_dollars(standing(site, *BOTH).accounts) == left
    of_call = [("service:s", "hour", 15, site.now_ms + HOUR), ("budget:customers/42", "day", -4, at(2027, 3, 11))]
    assert sorted(in_dollars(settled.notices)) == sorted([*left, *of_call])
    assert {each.account for each in settled.notices if not each.enforced} == {"budget:customers/42"}


@given(
    caps=st.dictionaries(st.sampled_from(WINDOWS), st.integers(1, 30), min_size=1),
    uses=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 6), st.booleans()), max_size=6),
    waits_ms=st.integers(0, 40 * HOUR),
)
def test_it_is_what_the_books_say(caps: dict[str, int], uses: list[tuple[int, int, bool]], waits_ms: int) -> None:
    """Also when windows have ended since anything happened; the least is what a call can cost at most."""
    site = Site(config(budgets={"acme": capped(**caps)}))
    for usd, costs, settles in uses:
        answer = site.reserve(candidate(usd=usd), mode="fail")
        if answer.kind == "parked":
            site.void(answer.hold_id)
        elif answer.kind == "granted" and settles:
            site.settle(answer.grant, costs)
    site.wait(waits_ms)
    found = standing(site, "acme")
    status = {each.window: each for each in site.desk.status(now_ms=site.now_ms).accounts[0].windows}
    for notice in found.accounts:
        window = status[notice.window]
        assert (notice.cap_nanos, notice.posted_nanos, notice.pending_nanos, notice.ends_at_ms) == (
            window.cap_nanos,
            window.posted_nanos,
            window.pending_nanos,
            window.ends_at_ms,
        )
    assert {notice.window for notice in found.accounts} == caps.keys()
    left = [notice.left_nanos for notice in found.accounts]
    assert (left, found.left_nanos) == (sorted(left), min(left))
    if min(left) > 0:
        assert site.reserve(candidate(usd=min(left) // USD + 1), mode="fail").kind != "granted"
        site.granted(candidate(usd=min(left) // USD))


def test_of_many_caps_those_with_the_least_left_are_told() -> None:
    path = "/".join(f"level-{number:02}" for number in range(8))
    names = ["/".join(path.split("/")[: depth + 1]) for depth in range(8)]
    budgets = {name: capped(hour=90 - number, day=900, month=9_000) for number, name in enumerate(names)}
    site = Site(config(budgets=budgets))
    settled = site.settle(site.granted(budget=path), 1)
    assert len(settled.notices) == len(standing(site, path).accounts) == NOTICES_MAX
    for notices in (settled.notices, standing(site, path).accounts):
        assert {each.window for each in notices} == {"hour", "day", "month"}
        assert sum(each.window == "hour" for each in notices) == sum(each.window == "day" for each in notices) == 8


def test_who_asks_changes_nothing() -> None:
    site = Site()
    site.granted(candidate(usd=3))
    before = site.desk.dump()
    standing(site, "acme", "acme/content")
    assert site.desk.dump() == before


@pytest.mark.parametrize(
    ("budgets", "words"), [(("nowhere",), "neither nowhere nor an ancestor"), (("acme//x",), "is not a segment")]
)
def test_what_nobody_knows_is_said(budgets: tuple[str, ...], words: str) -> None:
    answer = asked(Site(), *budgets)
    assert (answer.standing, answer.passing) == (None, False)
    assert words in answer.unknown


def test_while_it_is_loaded_it_is_not_known_yet() -> None:
    site = Site(load=False)
    assert (asked(site, "acme").standing, asked(site, "acme").passing) == (None, True)
    site.load({"budget:acme": {"day": 4 * USD}})
    assert standing(site, "acme").left_nanos == 6 * USD


def test_a_name_of_a_template_stands_as_for_a_call() -> None:
    site = Site(config(budgets={"users": capped(), "users/*": capped(day=1)}))
    assert asked(site, "users/ann").passing
    site.load({"budget:users/ann": {"day": USD // 4}})
    assert standing(site, "users/ann").left_nanos == USD * 3 // 4
    assert standing(site, "users/ann/chat").left_nanos == USD * 3 // 4


def test_where_nothing_is_capped_nothing_is_left_to_say() -> None:
    site = Site(config(budgets={"acme": capped()}))
    assert (standing(site, "acme").accounts, standing(site, "acme").left_usd) == ((), None)


def test_under_the_rules_of_0_1_0_a_settlement_says_no_end() -> None:
    site = Site(rules=1)
    settled = site.settle(site.granted(), 1)
    assert "ends_at_ms" not in settled.model_dump_json()
