"""Templates: a budget for each name, which is there while somebody uses it."""

from collections import Counter
from random import Random

import pytest
from desk_kit import DAY, HOUR, MINUTE, NOON, SECOND, USD, Site, candidate, capped, config, service

from paymaster.admission import books
from paymaster.admission.books import LOOK_FOR_ROOM_MS
from paymaster.admission.clock import BEHIND_FOR_MS
from paymaster.admission.on_demand import FORGOTTEN_AFTER_MINUTES
from paymaster.messages import AccountConfig, Candidate
from paymaster.values.budget_path import check_budget_table, template_of

IDLE = (FORGOTTEN_AFTER_MINUTES + 1) * MINUTE
USERS = "acme/users/*"
ANN, BOB = "acme/users/ann", "acme/users/bob"


def a_site(**budgets: AccountConfig) -> Site:
    return Site(config(budgets={"acme": capped(day=100), USERS: capped(day=3), **budgets}))


def first_use(site: Site, budget: str, spent_usd: int = 0, *, usd: int = 1) -> str:
    """The hold id of a name's first call, which waits until the rows are read."""
    hold_id = site.parked(candidate(usd=usd), budget=budget)
    site.load({f"budget:{budget}": {"day": spent_usd * USD, "total": spent_usd * USD}})
    return hold_id


def time_passes(site: Site, ms: int = IDLE) -> None:
    """And the desk looks what it can forget."""
    site.wait(ms)
    site.desk.advance(site.now_ms)


def names(site: Site) -> set[str]:
    return {key.removeprefix("budget:") for key in site.desk.ledger.accounts if key.startswith("budget:")}


def test_each_name_has_a_budget_of_its_own() -> None:
    site = a_site()
    for name in (ANN, BOB):
        hold_id = first_use(site, name)
        assert site.served() == [hold_id]
        site.granted(candidate(usd=2), budget=name)
        site.parked(candidate(usd=1), budget=f"{name}/chat")
    assert site.pending("budget:acme") == 6


def test_a_table_for_one_name_wins_over_the_template() -> None:
    site = a_site(**{BOB: capped(day=9)})
    site.granted(candidate(usd=9), budget=BOB)
    first_use(site, ANN)
    assert site.denied(candidate(usd=4), budget=ANN).reason == "bound_above_cap"


def test_a_name_that_nobody_uses_is_forgotten_and_comes_back_with_what_it_spent() -> None:
    site = a_site()
    site.settle(first_use(site, ANN), 1)
    time_passes(site)
    assert names(site) == {"acme"}
    assert site.posted("budget:acme") == 1
    first_use(site, ANN, spent_usd=1)
    site.granted(candidate(usd=1), budget=ANN)
    site.parked(candidate(usd=1), budget=ANN)


@pytest.mark.parametrize("kept_by", ["hold", "unconfirmed", "parked", "admin", "limit", "loading"])
def test_nobody_is_forgotten_who(kept_by: str) -> None:
    limited = capped(day=3).model_copy(update={"requests_per_minute": 1} if kept_by == "limit" else {})
    site = a_site(**{USERS: limited})
    hold_id = site.parked(budget=ANN, wait_ms=DAY)
    if kept_by != "loading":
        site.load()
    match kept_by:
        case "unconfirmed":
            site.settle(hold_id, 1, confirmed=False)
        case "parked":
            site.settle(hold_id, 3)
            site.parked(budget=ANN, wait_ms=DAY)
        case "admin":
            site.settle(hold_id, 1)
            site.raise_cap("1", f"budget:{ANN}")
        case "limit":
            site.settle(hold_id, 1)
            limiter = site.desk.ledger.accounts[f"budget:{ANN}"].limiter
            limiter.use(100, 0, site.now_ms)
        case _:
            pass
    time_passes(site)
    assert ANN in names(site)


def test_the_caps_of_names_follow_the_template() -> None:
    site = a_site()
    first_use(site, ANN)
    waiting = site.parked(candidate(usd=3), budget=ANN)
    site.desk.configure(config("more", {"acme": capped(day=100), USERS: capped(day=4)}), site.now_ms)
    assert waiting in site.served()


def test_without_its_template_a_name_has_no_budget() -> None:
    site = a_site()
    site.settle(first_use(site, ANN), 1)
    site.desk.configure(config("less", {"acme": capped(day=100)}), site.now_ms, may_remove=True)
    assert names(site) == {"acme"}
    site.granted(candidate(usd=9), budget=ANN)


def test_a_new_template_counts_what_is_on_hold() -> None:
    site = Site(config(budgets={"acme": capped(day=100)}))
    grant = site.granted(candidate(usd=2), budget=ANN)
    site.desk.configure(config("more", {"acme": capped(day=100), USERS: capped(day=3)}), site.now_ms)
    site.load()
    assert site.pending(f"budget:{ANN}") == 2
    site.parked(candidate(usd=2), budget=ANN)
    site.settle(grant, 1)
    assert site.posted(f"budget:{ANN}") == 1


def test_a_name_is_forgotten_that_had_a_call_when_a_configuration_came() -> None:
    site = a_site()
    hold_id = first_use(site, ANN)
    site.desk.configure(config("more", {"acme": capped(day=100), USERS: capped(day=4)}), site.now_ms)
    site.settle(hold_id, 1)
    time_passes(site)
    assert ANN not in names(site)


def test_a_name_that_gets_a_table_stays_and_one_that_loses_it_goes() -> None:
    site = a_site()
    site.settle(first_use(site, ANN), 1)
    with_table = config("named", {"acme": capped(day=100), USERS: capped(day=3), ANN: capped(day=5)})
    site.desk.configure(with_table, site.now_ms)
    time_passes(site)
    assert ANN in names(site)
    site.desk.configure(config("again", {"acme": capped(day=100), USERS: capped(day=3)}), site.now_ms, may_remove=True)
    site.granted(candidate(usd=2), budget=ANN, hold_id="last/1")
    site.settle("last/1", 2)
    time_passes(site)
    assert ANN not in names(site)


def test_an_admin_raises_the_cap_of_a_name_that_nobody_has_used() -> None:
    site = a_site()
    assert site.raise_cap("2", f"budget:{ANN}") == 5 * USD
    site.load({f"budget:{ANN}": {"day": 4 * USD, "total": 4 * USD}})
    site.granted(candidate(usd=1), budget=ANN)
    site.parked(candidate(usd=1), budget=ANN)


def test_what_a_name_had_spent_is_not_told_again() -> None:
    loud = AccountConfig(caps_nanos={"day": 4 * USD}, alert_at=(0.5, 0.75))
    site = a_site(**{USERS: loud})
    site.settle(first_use(site, ANN, spent_usd=2), 1)
    [told] = site.alerts("threshold")
    assert "75%" in told.text


def test_of_many_names_that_are_used_up_the_first_one_is_told() -> None:
    site = a_site()
    for number in range(5):
        name = f"acme/users/{number}"
        site.settle(first_use(site, name, usd=3), 3)
        site.parked(budget=name)
    [parked] = site.alerts("parked")
    assert "1 call waits for acme/users/0: $3.00 of $3.00 of its day cap" in parked.text
    assert "the first account of budget:acme/users/*" in parked.text


def test_a_desk_of_the_first_rules_refuses_templates() -> None:
    site = Site(rules=1)
    refused = site.desk.configure(config("templates", {USERS: capped(day=3)}), site.now_ms)
    assert not refused.applied
    assert "template acme/users/*" in refused.detail


@pytest.fixture
def room_for_six(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service, the budget above, and four names."""
    monkeypatch.setattr(books, "ACCOUNTS_MAX", 6)


@pytest.mark.usefixtures("room_for_six")
def test_a_flood_of_names_waits_and_pushes_nothing_out_that_holds_money() -> None:
    site = a_site()
    held = [first_use(site, f"acme/users/{number}") for number in range(3)]
    site.settle(first_use(site, "acme/users/3"), 1)
    flood = [site.parked(budget=f"acme/users/new{number}") for number in range(20)]
    assert len(site.desk.ledger.accounts) == 6, "the idle one has made room for the first of the flood"
    assert names(site) >= {f"acme/users/{number}" for number in range(3)}
    site.granted(budget="acme", hold_id="other/1")  # in nobody's way
    [told] = site.alerts("accounts_full")
    assert "none is idle" in told.text
    site.load()
    assert site.served()[-1] == flood[0]
    for hold_id in (*held, flood[0]):
        site.settle(hold_id, 1)
    for _ in range(10):
        site.wait(LOOK_FOR_ROOM_MS)
        while site.desk.to_load() is not None:
            site.load()
        for hold_id in [hold_id for hold_id in flood if hold_id in site.desk.ledger.pending]:
            site.settle(hold_id, 1)
    assert len(site.desk.queue) == 0
    assert len(site.desk.ledger.accounts) <= 6
    assert site.posted("budget:acme") == 4 + 20


@pytest.mark.usefixtures("room_for_six")
@pytest.mark.parametrize("first", [candidate(service="ghost"), candidate(price=None)])
def test_a_call_finds_room_whose_first_candidate_cannot_be_called(first: Candidate) -> None:
    site = a_site()
    held = [first_use(site, f"acme/users/{number}") for number in range(4)]
    waiting = site.parked(first, candidate(), budget=ANN)
    site.answers()
    site.settle(held[0], 1)
    site.wait(LOOK_FOR_ROOM_MS)
    site.load()
    assert site.served() == [waiting]
    assert site.denied(candidate(service="ghost"), budget=BOB, mode="wait").reason == "unknown_service"


@pytest.mark.usefixtures("room_for_six")
def test_a_clock_that_was_ahead_does_not_put_off_the_look_for_room() -> None:
    site = a_site()
    held = [first_use(site, f"acme/users/{number}") for number in range(4)]
    site.answers()
    site.wait(10 * MINUTE)
    waiting = site.parked(budget=ANN)
    for at_ms in (NOON, NOON + BEHIND_FOR_MS):
        site.desk.advance(at_ms)
    site.now_ms = site.desk.state.now_ms
    assert site.now_ms == NOON + BEHIND_FOR_MS
    while site.desk.to_load() is not None:
        site.load()
    site.settle(held[0], 1)
    site.wait(LOOK_FOR_ROOM_MS)
    site.load()
    assert site.served() == [waiting]


@pytest.mark.usefixtures("room_for_six")
def test_who_waits_for_room_holds_up_nobody_whose_name_has_it() -> None:
    site = a_site()
    held = [first_use(site, f"acme/users/{number}") for number in range(4)]
    first, stranger, second = (site.parked(budget=name) for name in (ANN, BOB, ANN))
    site.answers()
    site.settle(held[0], 1)
    site.wait(LOOK_FOR_ROOM_MS)
    site.load()
    assert site.served() == [first, second]
    assert site.desk.queue.get(stranger) is not None


@pytest.mark.usefixtures("room_for_six")
def test_a_call_for_several_names_finds_room_for_all_or_waits() -> None:
    site = a_site()
    for number in range(4):
        site.settle(first_use(site, f"acme/users/{number}"), 1)
    site.wait(2 * SECOND)
    site.parked(budget=tuple(f"acme/users/{letter}" for letter in "abcd"))
    assert names(site) == {"acme", *(f"acme/users/{letter}" for letter in "abcd")}


def test_any_number_of_names_take_the_room_of_those_in_use() -> None:
    """In random order, each with one call or a few, and in many runs of the ledger: no name is ever above its cap."""
    random, active = Random(1), 300
    site = Site(config(budgets={"users/*": capped(day=3)}, services={"s": service()}))
    stored: Counter[str] = Counter()
    sizes: list[int] = []
    for step in range(6_000):
        if step % 1_000 == 0:
            site.cut()
            sizes.append(len(site.desk.dump()))
        name = f"users/{step // active * 50 + random.randrange(active)}"
        site.reserve(candidate(usd=random.randint(1, 3)), budget=name, mode="fail")
        while (wanted := site.desk.to_load()) is not None:
            site.load({key: dict.fromkeys(("day", "total"), stored[key]) for key in wanted.accounts})
        site.answers()
        for hold in list(site.desk.ledger.pending.values()):
            assert hold.grant.budget == name
            stored[f"budget:{name}"] += hold.grant.bound_nanos
            assert stored[f"budget:{name}"] <= 3 * USD, f"{name} is above its cap"
            site.settle(hold.grant.hold_id, hold.grant.bound_nanos / USD)
        site.wait(3 * SECOND)
        site.new_alerts()
    assert len(stored) > 1_000
    assert len(site.desk.ledger.accounts) <= 301
    assert max(sizes[3:]) <= 1.1 * min(sizes[3:])


@pytest.mark.parametrize(
    ("path", "template"), [("acme/users/ann", "acme/users/*"), ("acme", "*"), ("a/b", "a/*"), ("*", "*")]
)
def test_the_template_of_a_path(path: str, template: str) -> None:
    assert template_of(path) == template
    assert check_budget_table(template) == template


@pytest.mark.parametrize("path", ["acme/*/chat", "acme/us*", "**", "acme/", "/*", "acme//*", f"{'a/' * 16}*"])
def test_what_is_no_template(path: str) -> None:
    with pytest.raises(ValueError, match="budget path"):
        check_budget_table(path)


def test_a_cut_desk_decides_as_one_that_was_not_cut() -> None:
    random = Random(2)
    first = config(budgets={"users/*": capped(hour=2), "acme": capped(day=50)})
    site, cut = Site(first), Site(first)
    for _ in range(300):
        cut.cut()
        names_of = [random.choice(["acme", "users/a", "users/b", "users/c"]) for _ in range(random.randint(1, 2))]
        usd, wait_ms = random.randint(1, 2), random.choice([0, SECOND, 6 * MINUTE, HOUR])
        answers = [each.reserve(candidate(usd=usd), budget=tuple(names_of)) for each in (site, cut)]
        assert answers[0] == answers[1]
        for each in (site, cut):
            while each.desk.to_load() is not None:
                each.load()
            for hold_id in list(each.desk.ledger.pending):
                each.settle(hold_id, 1)
            time_passes(each, wait_ms)
        assert site.desk.dump() == cut.desk.dump()


def test_denials_of_unknown_budgets_name_the_template_below() -> None:
    site = Site(config(budgets={"acme/users/*": capped(day=1)}))
    denied = site.denied(budget="acme/users")
    assert denied.reason == "unknown_budget"
    assert '[budgets."acme/users/*"] stands for the names below it, such as acme/users/NAME' in denied.detail
    assert "stands for" not in site.denied(budget="other").detail


# ---------------------------------------------------------------- names whose caps are watched only


def a_watched_site(**caps: int) -> Site:
    return Site(config(budgets={USERS: capped(**caps).model_copy(update={"enforce": False})}))


def let_through(site: Site, budget: str) -> None:
    """Its first call, which its cap has no room for."""
    site.settle(first_use(site, budget, usd=4), 4)


def told_of_watched(site: Site) -> list[str]:
    found = [alert.text for alert in site.alerts("watched")]
    site.new_alerts()
    return found


def test_a_watched_name_stays_until_its_window_is_told() -> None:
    site = a_watched_site(day=3)
    let_through(site, ANN)
    [_] = told_of_watched(site)
    time_passes(site)
    assert names(site) == {ANN}
    site.wait(DAY)
    time_passes(site)
    assert names(site) == set()
    [text] = told_of_watched(site)
    assert text.endswith("in the day that ended, its cap of $3.00 would have held up 1 calls")


def test_a_watched_name_whose_window_never_ends_is_forgotten() -> None:
    site = a_watched_site(total=3)
    let_through(site, ANN)
    time_passes(site)
    assert names(site) == set()


@pytest.mark.usefixtures("room_for_six")
def test_what_is_watched_only_makes_room() -> None:
    site = a_watched_site(day=3, month=3)
    for number in range(5):
        let_through(site, f"acme/users/{number}")
    told_of_watched(site)
    site.answers()
    hold_id = first_use(site, ANN)
    assert site.served() == [hold_id]
    over = "until others needed its room, its cap of $3.00 would have held up 1 calls"
    text = f"budget:acme/users/0 is watched only: in this {{}}, {over}"
    assert {text.format(window) for window in ("day", "month")} <= set(told_of_watched(site))
