"""Days, weeks and months in every zone of the tz database, against a model that looks at each minute."""

import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from desk_kit import DAY, HOUR, MINUTE, USD, Site, at, candidate, capped, config, service
from searches import examples

from paymaster.messages import DeskConfig, LoadedSpend, Window
from paymaster.messages.bounds import check_config
from paymaster.settings import ConfigurationError, Settings, load_settings
from paymaster.settings.desk_config import desk_config
from paymaster.settings.time_zones import FIRST_YEAR, LAST_YEAR, check_time_zone, offsets, offsets_of
from paymaster.values.time_zones import UTC_ZONE, Zone
from paymaster.values.windows import WINDOWS, window_end_ms, window_ends_ms, window_start_ms

NAMES = sorted(files("tzdata").joinpath("zones").read_text().split())
ODD = ("Pacific/Apia", "America/St_Johns", "America/Santiago", "Australia/Lord_Howe", "Pacific/Kwajalein", "Asia/Gaza")
"""A skipped day, changes a minute after midnight and at midnight, half an hour, and changes of another law."""
OLDEST = 1973
"""Before it, the clocks of some zones were ahead by seconds too."""
OSLO = "Europe/Oslo"


@lru_cache
def zone_of(name: str) -> ZoneInfo:
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, name)


# ---------------------------------------------------------------- the model


def date_ms(zone: ZoneInfo, at_ms: int) -> date:
    return datetime.fromtimestamp(at_ms / 1_000, UTC).astimezone(zone).date()


@lru_cache(maxsize=10_000)
def begins_ms(zone: ZoneInfo, day: date) -> int:
    """The first minute at which somebody there who looks at the calendar sees this day or a later one."""
    now_ms = at(day.year, day.month, day.day) - 26 * HOUR
    while date_ms(zone, now_ms) < day:
        now_ms += MINUTE
    return now_ms


FIRST: dict[Window, Callable[[date], bool]] = {
    "day": lambda day: True,
    "week": lambda day: day.isoweekday() == 1,
    "month": lambda day: day.day == 1,
}


def around_ms(zone: ZoneInfo, window: Window, now_ms: int) -> tuple[int, int]:
    """Goes back day by day to the one that began it, and forward to the one that ends it."""
    day = date_ms(zone, now_ms) + timedelta(days=2)
    while not (FIRST[window](day) and begins_ms(zone, day) <= now_ms):
        day -= timedelta(days=1)
    start_ms = begins_ms(zone, day)
    while not (FIRST[window](day) and begins_ms(zone, day) > now_ms):
        day += timedelta(days=1)
    return start_ms, begins_ms(zone, day)


def check(name: str, first_year: int, last_year: int, changes: int) -> None:
    zone, chance = zone_of(name), random.Random(name)
    found = offsets(zone, first_year, last_year)
    ours = Zone(found)
    times = [minute * MINUTE for minute, _ in chance.sample(found[1:], min(changes, len(found) - 1))]
    for time_ms in [*times, chance.randrange(at(first_year), at(last_year), MINUTE)]:
        for now_ms in (time_ms - DAY, time_ms - MINUTE, time_ms - 1, time_ms, time_ms + 59 * MINUTE, time_ms + DAY):
            local = datetime.fromtimestamp(now_ms / 1_000, UTC).astimezone(zone).replace(tzinfo=UTC)
            assert ours.local_ms(now_ms) == round(local.timestamp() * 1_000)
            for window in FIRST:
                expected = around_ms(zone, window, now_ms)
                assert (window_start_ms(window, now_ms, ours), window_end_ms(window, now_ms, ours)) == expected, (
                    f"{name} {window} {datetime.fromtimestamp(now_ms / 1_000, UTC)}"
                )


@pytest.mark.parametrize("part", range(6))
def test_windows_of_all_zones_begin_and_end_as_the_model_says(part: int) -> None:
    """Around changes of the clocks from 1973 on, and around those that the ledger gets to know."""
    names = NAMES[part::6]
    for name in random.Random(part).sample(names, min(len(names), examples(60))):
        check(name, OLDEST, FIRST_YEAR, 1)
        check(name, FIRST_YEAR, LAST_YEAR, 1)


@pytest.mark.parametrize("name", ODD)
def test_windows_of_odd_zones_begin_and_end_as_the_model_says(name: str) -> None:
    check(name, OLDEST, FIRST_YEAR, examples(100))


@pytest.mark.parametrize("name", [*ODD, OSLO, "Asia/Kathmandu", "Africa/Casablanca"])
def test_windows_of_a_zone_have_no_gap(name: str) -> None:
    ours, chance = Zone(offsets_of(name)), random.Random(name)
    for _ in range(examples(300)):
        now_ms = chance.randint(at(FIRST_YEAR, 3), at(LAST_YEAR + 9))
        assert sorted(window_ends_ms(now_ms, ours), key=lambda each: each[1]) == list(window_ends_ms(now_ms, ours))
        for window in WINDOWS:
            start_ms, end_ms = window_start_ms(window, now_ms, ours), window_end_ms(window, now_ms, ours)
            assert start_ms <= now_ms
            assert window_start_ms(window, start_ms, ours) == start_ms
            if end_ms is not None:
                assert now_ms < end_ms
                assert window_start_ms(window, end_ms - 1, ours) == start_ms
                assert window_start_ms(window, end_ms, ours) == end_ms


def test_minutes_and_hours_are_those_of_utc_everywhere() -> None:
    kathmandu = Zone(offsets_of("Asia/Kathmandu"))
    for window in ("minute", "hour", "total"):
        now_ms = at(2027, 3, 10, 12, 34, 56)
        assert window_start_ms(window, now_ms, kathmandu) == window_start_ms(window, now_ms, UTC_ZONE)
    assert window_start_ms("day", at(2027, 3, 10, 12), kathmandu) == at(2027, 3, 9, 18, 15)


# ---------------------------------------------------------------- what the ledger gets


def zoned(zone: str = OSLO, digest: str = "first", **caps: int) -> DeskConfig:
    budgets = {"acme": capped(**(caps or {"day": 10})).model_copy(update={"time_zone": zone})}
    zones = {} if zone == "UTC" else {zone: offsets_of(zone)}
    return config(digest, budgets, {"s": service()}).model_copy(update={"time_zones": zones})


def settings_of(folder: Path, text: str) -> Settings:
    file = folder / "paymaster.toml"
    file.write_text(text)
    return load_settings(file, environ={})


def test_settings_name_a_zone_and_the_ledger_gets_its_clocks(tmp_path: Path) -> None:
    """Once each; and the digest of a configuration without zones is what it was."""
    text = '[budgets.a]\ntime_zone = "Europe/Oslo"\n[budgets.b]\ntime_zone = "Europe/Oslo"\n[budgets.c]\n'
    found = desk_config(settings_of(tmp_path, text))
    assert found.time_zones == {OSLO: offsets_of(OSLO)}
    assert [account.time_zone for account in found.budgets.values()] == [OSLO, OSLO, "UTC"]
    assert "time_zone" not in desk_config(settings_of(tmp_path, "[budgets.c]\n")).model_dump_json()
    with pytest.raises(ConfigurationError, match=r"no time zone 'Europe/Olso'"):
        settings_of(tmp_path, '[budgets.a]\ntime_zone = "Europe/Olso"\n')


@pytest.mark.parametrize("name", ["", "..", "Europe", "../zones", "/etc/localtime", "Europe/Oslo\n", "europe/oslo"])
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        check_time_zone(name)


def test_every_zone_changes_at_whole_minutes_in_order() -> None:
    for name in random.Random(0).sample(NAMES, min(len(NAMES), examples(200))):
        check_config(zoned(name) if name != "UTC" else zoned())
        assert all(before < after for (before, _), (after, _) in pairwise(offsets_of(name)))


@pytest.mark.parametrize(
    ("zones", "said"),
    [
        ({}, "not among the time zones"),
        ({OSLO: ()}, "changes of a time zone"),
        ({OSLO: ((5, 60), (4, 0))}, "order of time"),
        ({OSLO: ((0, 60_000),)}, "ahead of UTC"),
        ({OSLO: ((0, 0),), "UTC": ((0, 60),)}, "UTC"),
    ],
)
def test_a_configuration_with_bad_zones_is_refused(zones: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_config(zoned().model_copy(update={"time_zones": zones}))


# ---------------------------------------------------------------- at the desk


def test_the_day_of_a_budget_ends_at_midnight_in_its_zone() -> None:
    """In Oslo at 22:00 UTC in summer and 23:00 in winter; the service's day goes on until midnight in UTC."""
    for midnight in (at(2027, 7, 1, 22), at(2027, 12, 1, 23), at(2027, 3, 27, 23), at(2027, 3, 28, 22)):
        site = Site(zoned(day=5, total=100), midnight - MINUTE)
        site.settle(site.granted(candidate(usd=5)), 5)
        waiting = site.parked(candidate(usd=5))
        site.wait_until(midnight - 1)
        assert site.served() == []
        site.wait_until(midnight)
        assert site.served() == [waiting], "the desk wakes by itself"
        assert (site.pending(), site.pending(window="total")) == (5, 5)
        assert (site.posted("service:s"), site.posted()) == (5, 0)
        site.cut()
        assert (site.posted("service:s"), site.posted(), site.pending()) == (5, 0, 5)
        status = {each.account: each for each in site.desk.status().accounts}["budget:acme"]
        assert (status.time_zone, status.windows[0].began_at_ms) == (OSLO, midnight)


def test_what_is_loaded_is_of_the_days_of_the_zone() -> None:
    """A question for each zone, with its own starts; each account has what its own days say."""
    now_ms = at(2027, 3, 10, 23, 30)
    site = Site(zoned(), now_ms, load=False)
    starts: dict[str, dict[Window, int]] = {}
    while (wanted := site.desk.to_load()) is not None:
        starts |= dict.fromkeys(wanted.accounts, wanted.window_starts_ms)
        posted = {key: dict.fromkeys(WINDOWS, USD) for key in wanted.accounts}
        site.desk.loaded(LoadedSpend(number=wanted.number, posted_nanos=posted), now_ms)
    assert starts["budget:acme"]["day"] == at(2027, 3, 10, 23)
    assert starts["service:s"]["day"] == at(2027, 3, 10)
    assert (site.posted(), site.posted("service:s")) == (1, 1)


@pytest.mark.parametrize("before", ["UTC", "Asia/Tokyo"])
def test_another_zone_has_other_days_which_are_loaded_first(before: str) -> None:
    """What was spent in the day that was is not carried over, nor called missing; `total` stays."""
    now_ms = at(2027, 3, 10, 23, 30)
    site = Site(zoned(before, day=5, total=100), now_ms)
    held = site.granted(candidate(usd=1))
    site.settle(site.granted(candidate(usd=4)), 4)
    site.desk.configure(zoned(digest="second", day=5, total=100), now_ms, may_remove=True)
    waiting = site.parked(candidate(usd=2))
    wanted = site.desk.to_load()
    assert wanted is not None
    assert (wanted.accounts, wanted.window_starts_ms["day"]) == (("budget:acme",), at(2027, 3, 10, 23))
    stored: dict[Window, int] = dict.fromkeys(WINDOWS, 4 * USD)
    site.load({"budget:acme": {**stored, "day": 2 * USD}})
    assert site.served() == [waiting]
    assert (site.posted(), site.posted(window="total"), site.alerts("spending_missing")) == (2, 4, [])
    site.settle(held, 1)
    assert (site.posted(), site.pending()) == (3, 2)
    (change,) = [alert.text for alert in site.alerts("config_changed") if "time_zone" in alert.text]
    assert f"time_zone {before} → {OSLO}" in change


def test_other_clocks_of_the_same_zone_are_followed() -> None:
    """A worker with a newer tz database: what begins elsewhere now is loaded, what does not goes on as it was."""
    now_ms = at(2027, 7, 10, 22, 30)
    site = Site(zoned(), now_ms)
    site.settle(site.granted(candidate(usd=4)), 4)
    no_summer = zoned(digest="second").model_copy(update={"time_zones": {OSLO: ((0, 60),)}})
    site.desk.configure(no_summer, now_ms)
    wanted = site.desk.to_load()
    assert wanted is not None
    assert wanted.window_starts_ms["day"] == at(2027, 7, 9, 23)
    site.load({"budget:acme": {"day": 6 * USD, "total": 6 * USD}})
    assert site.posted() == 6
    more_years = zoned(digest="third").model_copy(update={"time_zones": {OSLO: ((0, 60), (10**8, 120))}})
    site.desk.configure(more_years, now_ms)
    assert (site.desk.to_load(), site.posted()) == (None, 6)
    assert any("the clocks of Europe/Oslo change at other times" in alert.text for alert in site.alerts())


def test_under_the_rules_of_0_1_0_no_zone_is_taken() -> None:
    site = Site(rules=1)
    told = site.desk.configure(zoned(digest="second"), site.now_ms)
    assert (told.applied, "know no Europe/Oslo" in told.detail) == (False, True)


def test_of_two_days_the_one_that_ends_later_is_named() -> None:
    """In the evening Oslo's day ends first: the service's cap lasts longer."""
    site = Site(zoned(day=5).model_copy(update={"services": {"s": service(day=5)}}), at(2027, 3, 10, 12))
    site.settle(site.granted(candidate(usd=5)), 5)
    assert "service:s has a cap" in site.denied().detail
    site.wait_until(at(2027, 3, 10, 23))
    assert "service:s has a cap" in site.denied().detail
    site.wait_until(at(2027, 3, 11))
    site.granted(candidate(usd=5))


def test_an_answer_for_the_days_of_another_zone_is_not_taken() -> None:
    """The zone changed while the database was being asked."""
    now_ms = at(2027, 3, 10, 23, 30)
    site = Site(zoned("UTC"), now_ms)
    site.desk.reload(now_ms)
    asked = site.desk.to_load()
    assert asked is not None
    site.desk.configure(zoned(digest="second"), now_ms, may_remove=True)
    site.desk.loaded(LoadedSpend(number=asked.number, posted_nanos={"budget:acme": {"day": 9 * USD}}), now_ms)
    starts: dict[str, int] = {}
    while (wanted := site.desk.to_load()) is not None:
        assert wanted.number != asked.number
        starts |= dict.fromkeys(wanted.accounts, wanted.window_starts_ms["day"])
        site.load()
    assert starts["budget:acme"] == at(2027, 3, 10, 23)
    assert site.posted() == 0
