"""Stored calls against another configuration: the desk of the ledger says what it would have held up."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from desk_kit import DAY, HOUR, MINUTE, NOON, SECOND, USD, Site, at, candidate, capped, config, service, usd_caps
from hypothesis import given
from hypothesis import strategies as st

from paymaster.admission import books
from paymaster.messages import AccountConfig, DeskConfig, Grant, Granted, RunTerms, Window
from paymaster.reports.replayed import WINDOWS_KEPT, StoredHold
from paymaster.reports.what_if import Replay, replayed_from_ms
from paymaster.settings.time_zones import offsets_of
from paymaster.values.budget_path import accounts_charged

OSLO = "Europe/Oslo"
BUDGETS = ("acme", "acme/team", "solo")
TEMPLATES = ("acme/*", "users/*")
NAMED = st.sampled_from(
    [("acme",), ("acme/team",), ("acme/team/x",), ("solo",), ("acme/team", "solo"), ("solo", "acme")]
)
ANYBODY = NAMED | st.sampled_from([("users/ann",), ("users/bob",), ("acme/ads", "users/ann")])
SERVICES = st.sampled_from(["s", "t"])
CAPS = st.dictionaries(st.sampled_from(["hour", "day", "week", "month", "total"]), st.integers(0, 12), max_size=2)


def stored(
    usd: float = 1,
    at_ms: int = NOON,
    budget: str | tuple[str, ...] = "acme",
    service: str = "s",
    ended: tuple[int, ...] = (),
    tokens: int = 0,
    call_id: str = "c",
    run: str | None = None,
) -> StoredHold:
    """`ended`: how long after the grant its attempts ended."""
    return StoredHold(
        call_id=call_id,
        budgets=(budget,) if isinstance(budget, str) else budget,
        service=service,
        model="m",
        granted_at_ms=at_ms,
        cost_nanos=round(usd * USD),
        tokens=tokens,
        run=run,
        attempts_ended_ms=tuple(at_ms + after_ms for after_ms in ended or (SECOND,)),
    )


def replayed(configuration: DeskConfig, calls: Iterable[StoredHold], since_ms: int = 0, budget: str = "") -> Replay:
    replay = Replay(configuration, since_ms=since_ms, budget=budget or None)
    for call in calls:
        replay.take(call)
    return replay


def told(replay: Replay) -> dict[tuple[str, str], tuple[int, str, int]]:
    """By account and cap or limit: calls, the first, and in how many windows."""
    return {key: (each.calls, each.first.call_id, each.windows) for key, each in replay.held_up.items()}


# ---------------------------------------------------------------- against the desk, and against an obvious model


class Recorded:
    """A desk that decides for real, and what would be stored of its calls."""

    def __init__(self, configuration: DeskConfig) -> None:
        self.site = Site(configuration)
        self.running: dict[str, Grant] = {}
        self.stored: list[StoredHold] = []

    def ask(self, budgets: tuple[str, ...], usd: int, service: str) -> None:
        answer = self.site.reserve(candidate(service, usd=usd), budget=budgets, wait_ms=40 * DAY)
        if isinstance(answer, Granted):
            self.running[answer.grant.hold_id] = answer.grant

    def end_first(self, part: float, failures: int) -> None:
        """The call that runs longest costs this part of its bound, and failed so many times before, all at once."""
        self.hear()
        if not self.running:
            return
        grant = self.running.pop(next(iter(self.running)))
        for _ in range(failures):
            self.site.report(grant, trips_breaker=False)
        cost_nanos = round(grant.bound_nanos * part)
        self.site.settle(grant, cost_nanos / USD)
        self.stored.append(
            StoredHold(
                call_id=grant.hold_id,
                budgets=grant.budgets,
                service=grant.service,
                model=grant.model,
                granted_at_ms=grant.granted_at_ms,
                cost_nanos=cost_nanos,
                tokens=0,
                run=None,
                attempts_ended_ms=(self.site.now_ms,) * (failures + 1),
            )
        )

    def hear(self) -> None:
        for answer in self.site.answers().values():
            assert isinstance(answer, Granted)
            self.running[answer.grant.hold_id] = answer.grant

    def rows(self) -> list[StoredHold]:
        """In the order in which they were granted."""
        while self.running:
            self.end_first(1.0, 0)
        return sorted(self.stored, key=lambda each: each.granted_at_ms)


ASK = st.tuples(st.just("ask"), NAMED, st.integers(0, 5), SERVICES)
END = st.tuples(st.just("end"), st.sampled_from([0.0, 0.25, 1.0]), st.integers(0, 1))
WAIT = st.tuples(st.just("wait"), st.sampled_from([1, SECOND, MINUTE, 20 * MINUTE, 5 * HOUR, DAY, 9 * DAY]))


@given(
    caps=st.lists(CAPS, min_size=5, max_size=5),
    concurrent=st.none() | st.integers(1, 3),
    requests=st.none() | st.integers(1, 5),
    steps=st.lists(ASK | END | WAIT, max_size=40),
)
def test_what_a_desk_granted_it_would_not_hold_up(
    caps: list[dict[Window, int]], concurrent: int | None, requests: int | None, steps: list[tuple[object, ...]]
) -> None:
    """Its own configuration replayed: bounds above the bills, calls that waited, and failed attempts change nothing."""
    budgets = {
        path: capped(**each).model_copy(update={"max_concurrent": concurrent, "requests_per_minute": requests})
        for path, each in zip(BUDGETS, caps, strict=False)
    }
    configuration = config(budgets=budgets, services={"s": service(**caps[3]), "t": service(**caps[4], concurrent=2)})
    recorded = Recorded(configuration)
    for step in steps:
        match step:
            case ("ask", tuple() as named, int() as usd, str() as name):
                recorded.ask(named, usd, name)
            case ("end", float() as part, int() as failures):
                recorded.end_first(part, failures)
            case ("wait", int() as ms):
                recorded.site.wait(ms)
                recorded.hear()
            case _:
                raise AssertionError(step)
    rows = recorded.rows()
    replay = replayed(configuration, rows)
    assert (told(replay), replay.refusals) == ({}, {})
    assert (replay.total.calls, replay.total.held_up, replay.total.denied) == (len(rows), 0, 0)


def name_of(window: Window, at_ms: int, zone: str) -> object:
    """What people call the window around this time."""
    there = datetime.fromtimestamp(at_ms / 1000, ZoneInfo(zone))
    match window:
        case "hour":
            return at_ms // HOUR
        case "day":
            return there.date()
        case "week":
            return there.isocalendar()[:2]
        case "month":
            return there.year, there.month
        case _:
            return None


class Model:
    """What one configuration would have held up, added up call by call."""

    def __init__(self, configuration: DeskConfig, calls: Sequence[StoredHold]) -> None:
        accounts = {f"budget:{path}": each for path, each in configuration.budgets.items()}
        self.accounts = accounts | {f"service:{name}": each for name, each in configuration.services.items()}
        self.spent: dict[tuple[str, Window, object], int] = defaultdict(int)
        self.held_up: dict[tuple[str, str], list[tuple[StoredHold, object]]] = defaultdict(list)
        self.waited = self.denied = 0
        for call in calls:
            self.take(call)

    def take(self, call: StoredHold) -> None:
        waits = denied = False
        for key in accounts_charged(call.budgets, call.service):
            account = self.account(key)
            for window, cap_nanos in account.caps_nanos.items():
                name = name_of(window, call.granted_at_ms, account.time_zone)
                self.spent[key, window, name] += call.cost_nanos
                if call.cost_nanos and self.spent[key, window, name] > cap_nanos:
                    self.held_up[key, window].append((call, name))
                    waits = waits or account.enforce
                    denied = denied or (account.enforce and call.cost_nanos > cap_nanos)
        self.waited += waits and not denied
        self.denied += denied

    def account(self, key: str) -> AccountConfig:
        """By its own table, else by the template of its name; neither: without a cap."""
        return self.accounts.get(key) or self.accounts.get(f"{key.rpartition('/')[0]}/*") or AccountConfig()

    def told(self) -> dict[tuple[str, str], tuple[int, str, int]]:
        return {
            key: (len(calls), calls[0][0].call_id, len({name for _, name in calls}))
            for key, calls in self.held_up.items()
        }


@st.composite
def calls_in_order(draw: st.DrawFn) -> list[StoredHold]:
    """Over some weeks, around a change of Oslo's clocks and the end of a month."""
    start_ms, drawn = at(2027, 3, 25), st.tuples(st.integers(0, 3), ANYBODY, SERVICES, st.integers(0, 30 * 24 * 4))
    found = [
        stored(usd, start_ms + quarters * 15 * MINUTE, budgets, name, ended=(HOUR,))
        for usd, budgets, name, quarters in draw(st.lists(drawn, max_size=40))
    ]
    found.sort(key=lambda each: each.granted_at_ms)
    return [replace(each, call_id=f"c-{number}") for number, each in enumerate(found)]


@st.composite
def configurations(draw: st.DrawFn) -> DeskConfig:
    def budget() -> AccountConfig:
        changed = {"enforce": draw(st.booleans()), "time_zone": draw(st.sampled_from(["UTC", OSLO]))}
        return capped(**draw(CAPS)).model_copy(update=changed)

    budgets = {path: budget() for path in (*BUDGETS, *TEMPLATES)}
    services = {name: service(**draw(CAPS)) for name in ("s", "t")}
    zones = {OSLO: offsets_of(OSLO)}
    return config(budgets=budgets, services=services).model_copy(update={"time_zones": zones})


@given(configuration=configurations(), calls=calls_in_order())
def test_exactly_those_wait_that_an_obvious_model_says(configuration: DeskConfig, calls: list[StoredHold]) -> None:
    replay, model = replayed(configuration, calls), Model(configuration, calls)
    assert told(replay) == model.told()
    assert (replay.total.held_up, replay.total.denied) == (model.waited, model.denied)
    assert replay.total.cost_nanos == sum(call.cost_nanos for call in calls)
    assert all(each.enforced == model.account(key).enforce for (key, _), each in replay.held_up.items())


@given(configuration=configurations(), calls=calls_in_order(), since=st.integers(0, 30 * 24))
def test_a_part_needs_no_calls_from_before_its_windows(
    configuration: DeskConfig, calls: list[StoredHold], since: int
) -> None:
    since_ms = at(2027, 3, 25) + since * HOUR
    from_ms = replayed_from_ms(configuration, since_ms)
    whole = replayed(configuration, calls, since_ms)
    part = replayed(configuration, [call for call in calls if call.granted_at_ms >= from_ms], since_ms)
    assert (part.held_up, part.total, part.by_budget) == (whole.held_up, whole.total, whole.by_budget)
    assert whole.total.calls == sum(call.granted_at_ms >= since_ms for call in calls)


def test_a_window_is_replayed_from_its_midnight() -> None:
    budget = capped(day=1).model_copy(update={"time_zone": OSLO})
    configuration = config(budgets={"acme": budget}).model_copy(update={"time_zones": {OSLO: offsets_of(OSLO)}})
    assert replayed_from_ms(configuration, at(2027, 3, 11, 0, 30)) == at(2027, 3, 10, 23)
    assert replayed_from_ms(config(), at(2027, 3, 11, 0, 30)) == at(2027, 3, 10, 23, 30), "calls may still have run"


# ---------------------------------------------------------------- what is told


def test_a_cap_says_which_calls_and_for_how_long() -> None:
    calls = [
        stored(2, at(2027, 3, 10, 8), call_id="a"),
        stored(2, at(2027, 3, 10, 15), call_id="b"),
        stored(0.5, at(2027, 3, 10, 23), call_id="c"),
        stored(3, at(2027, 3, 11, 1), call_id="d"),
        stored(1, at(2027, 3, 11, 2), call_id="e"),
    ]
    [found] = replayed(config(budgets={"acme": capped(day=3)}), calls).held_up.values()
    assert (found.account, found.what, found.most) == ("budget:acme", "day", 3 * USD)
    assert (found.calls, found.cost_nanos, found.windows, found.never_fit) == (3, 3.5 * USD, 2, 0)
    assert (found.first.call_id, found.first.granted_at_ms) == ("b", at(2027, 3, 10, 15))
    assert found.longest_ms == 22 * HOUR
    days = [(each.window.began_at_ms, each.window.ends_at_ms, each.calls, each.cost_nanos) for each in found.by_window]
    assert days == [
        (at(2027, 3, 10), at(2027, 3, 11), 2, 2.5 * USD),
        (at(2027, 3, 11), at(2027, 3, 12), 1, USD),
    ]
    assert [each.first.call_id for each in found.by_window] == ["b", "e"]


def test_nobody_can_say_when_a_total_has_room_again() -> None:
    [found] = replayed(config(budgets={"acme": capped(total=1)}), [stored(), stored()]).held_up.values()
    assert found.longest_ms is None


def test_what_costs_more_than_a_cap_would_have_been_denied() -> None:
    replay = replayed(config(budgets={"acme": capped(day=3)}), [stored(4), stored(1)])
    assert (replay.total.denied, replay.total.held_up) == (1, 1)
    assert (replay.total.denied_nanos, replay.total.held_up_nanos) == (4 * USD, USD)


def test_a_call_that_two_caps_hold_up_is_one() -> None:
    budgets = {"acme": capped(day=1, month=1), "solo": capped(day=1)}
    both = ("acme", "solo")
    replay = replayed(config(budgets=budgets), [stored(budget=both), stored(budget=both)])
    assert {key: each.calls for key, each in replay.held_up.items()} == {
        ("budget:acme", "day"): 1,
        ("budget:acme", "month"): 1,
        ("budget:solo", "day"): 1,
    }
    assert (replay.total.calls, replay.total.held_up) == (2, 1)


def test_limits_say_how_long_a_burst_would_have_waited() -> None:
    """Ten a minute: one at once, and the next every 6.667 seconds. A second attempt was a request too."""
    calls = [stored(ended=(SECOND, 2 * SECOND)), *[stored(at_ms=NOON + 2 * SECOND)] * 2]
    [found] = replayed(config(budgets={"acme": AccountConfig(requests_per_minute=10)}), calls).held_up.values()
    assert (found.what, found.most, found.calls, found.windows) == ("requests_per_minute", 10, 2, 0)
    assert found.longest_ms == 3 * 6_667 - 1 - 2 * SECOND, "three were before it"


def test_places_are_taken_until_the_last_attempt_ended() -> None:
    calls = [stored(ended=(SECOND, MINUTE)), stored(at_ms=NOON + 59 * SECOND), stored(at_ms=NOON + MINUTE)]
    [found] = replayed(config(services={"s": service(concurrent=1)}), calls).held_up.values()
    assert (found.account, found.what, found.calls, found.longest_ms) == ("service:s", "max_concurrent", 1, None)


def test_tokens_are_those_that_were_used() -> None:
    limited = AccountConfig(tokens_per_minute=1_000)
    calls = [stored(tokens=400), stored(tokens=1, at_ms=NOON + SECOND)]
    [found] = replayed(config(budgets={"acme": limited}), calls).held_up.values()
    assert (found.what, found.calls) == ("tokens_per_minute", 1)


def test_what_is_only_watched_is_told_and_waits_for_nothing() -> None:
    watched = capped(day=1).model_copy(update={"enforce": False})
    replay = replayed(config(budgets={"acme": watched}), [stored(), stored()])
    [found] = replay.held_up.values()
    assert (found.calls, found.enforced) == (1, False)
    assert (replay.total.held_up, replay.total.denied) == (0, 0)


def test_what_the_configuration_does_not_have_would_have_been_denied() -> None:
    calls = [stored(budget="other"), stored(service="gone"), stored(budget="other")]
    replay = replayed(config(), calls)
    assert {reason: each.calls for reason, each in replay.refusals.items()} == {
        "unknown_budget": 2,
        "unknown_service": 1,
    }
    assert 'add [budgets."other"]' in replay.refusals["unknown_budget"].detail
    assert (replay.total.denied, replay.total.held_up) == (3, 0)


def test_purchases_wait_for_caps_and_not_for_limits() -> None:
    """They share the caps with calls, and take no place and no request from them."""
    limited = capped(day=3).model_copy(update={"max_concurrent": 1, "requests_per_minute": 1})
    bought = replace(stored(service="web-search"), model="purchase")
    replay = replayed(config(budgets={"acme": limited}), [bought, bought, stored(), bought])
    assert told(replay) == {("budget:acme", "day"): (1, "c", 1)}
    assert (replay.total.calls, replay.total.held_up, replay.refusals) == (4, 1, {})


def test_what_is_bought_from_a_service_would_have_been_denied() -> None:
    """Its name is one of the other configuration's services."""
    replay = replayed(config(), [replace(stored(service="s"), model="purchase")])
    assert (replay.refusals.keys(), replay.total.denied) == ({"bad_purchase"}, 1)


def in_run(usd: float, hours: int, run: str, budget: str = "acme") -> StoredHold:
    return stored(usd, NOON + hours * HOUR, budget, run=run, call_id=f"{run} {hours}")


@pytest.mark.parametrize("enforce", [True, False])
def test_all_runs_of_a_budget_are_told_together(enforce: bool) -> None:
    """The desk forgets a run after each of these calls."""
    each_run = {"per_run": RunTerms(usd_nanos=USD), "enforce": enforce}
    budgets = {"acme": AccountConfig().model_copy(update=each_run)}
    calls = [in_run(0.6, 0, "a"), in_run(0.6, 1, "b"), in_run(0.6, 2, "b/part"), in_run(0.5, 3, "a", "acme/x")]
    replay = replayed(config(budgets=budgets), [*calls, stored(5, NOON + 4 * HOUR)])
    [found] = replay.held_up.values()
    assert (found.account, found.most, found.calls, found.first.call_id) == ("runs of acme", USD, 2, "b/part 2")
    assert (found.enforced, replay.total.held_up) == (enforce, 2 * enforce)


def test_a_budget_is_told_with_what_others_spent_before() -> None:
    budgets = {"acme": capped(day=2), "acme/a": capped(day=9), "acme/b": capped(day=9)}
    calls = [stored(budget="acme/a"), stored(budget="acme/b"), stored(budget="acme/a"), stored(budget=("x", "acme/b"))]
    configuration = config(budgets=budgets | {"x": capped()})
    replay = replayed(configuration, calls, budget="acme/b")
    assert {path: (each.calls, each.held_up) for path, each in replay.by_budget.items()} == {"acme/b": (2, 1)}
    everything = replayed(configuration, calls).by_budget
    assert {path: (each.calls, each.held_up) for path, each in everything.items()} == {
        "acme/a": (2, 1),
        "acme/b": (1, 0),
        "x": (1, 1),
    }


def test_windows_are_all_counted_and_the_first_ones_told() -> None:
    calls = [stored(2, NOON + number * MINUTE) for number in range(WINDOWS_KEPT + 20)]
    [found] = replayed(config(budgets={"acme": AccountConfig(caps_nanos=usd_caps(minute=1))}), calls).held_up.values()
    assert (found.windows, found.calls, len(found.by_window)) == (WINDOWS_KEPT + 20, WINDOWS_KEPT + 20, WINDOWS_KEPT)


def test_many_calls_at_once_are_all_judged() -> None:
    """More than the desk looks at in one activation, and more than it serves of those that it put off."""
    replay = replayed(config(budgets={"acme": capped(day=5_200)}), [stored()] * 5_300)
    assert (replay.total.calls, replay.total.held_up, replay.refusals) == (5_300, 100, {})


def test_names_that_were_forgotten_come_back_with_what_they_spent() -> None:
    calls = [stored(1, NOON + number * HOUR, f"users/{'ab'[number % 2]}", call_id=str(number)) for number in range(9)]
    replay = replayed(config(budgets={"users/*": capped(day=3)}), calls)
    assert told(replay) == {("budget:users/a", "day"): (2, "6", 1), ("budget:users/b", "day"): (1, "7", 1)}


def test_refused_calls_do_not_wait_in_each_others_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than may be parked, where there is no room for their accounts."""
    monkeypatch.setattr(books, "ACCOUNTS_MAX", 11)
    more = config().max_parked + 100
    calls = [stored(budget=f"users/{number}", ended=(HOUR,)) for number in range(more + 10)]
    replay = replayed(config(budgets={"users/*": capped(day=3)}), calls)
    assert {name: each.calls for name, each in replay.refusals.items()} == {"accounts_full": more}
    assert (replay.total.held_up, replay.total.denied) == (more, 0)
