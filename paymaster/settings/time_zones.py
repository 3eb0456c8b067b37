"""Time zones by their IANA names, from the package tzdata: the same on every machine, whatever its system has."""

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from importlib.resources import files
from zoneinfo import ZoneInfo

from paymaster.values.extras import names_extra
from paymaster.values.time_zones import UTC_NAME, Offsets

FIRST_YEAR, LAST_YEAR = 2025, 2050
"""Of which the ledger gets to know how the clocks change; after them they stay as they are then."""

_MINUTE = timedelta(minutes=1)
_DAY = 24 * 60
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def check_time_zone(name: str) -> str:
    """Raises ValueError for a name that the tz database does not have."""
    if name != UTC_NAME:
        _zone(name)
    return name


@lru_cache
def offsets_of(name: str) -> Offsets:
    """How the zone's clocks change from the first year to the last."""
    return offsets(_zone(name), FIRST_YEAR, LAST_YEAR)


def offsets(zone: tzinfo, first_year: int, last_year: int) -> Offsets:
    """Looks once a day how far the clocks are ahead, and between two days that differ for the minute of the change."""
    start, end = (_minute(datetime(year, 1, 1, tzinfo=UTC)) for year in (first_year, last_year + 1))
    found = [(start, _ahead(zone, start))]
    for day in range(start, end, _DAY):
        at, until = day, day + _DAY
        if _ahead(zone, until) == found[-1][1]:
            continue
        while until - at > 1:
            middle = (at + until) // 2
            at, until = (middle, until) if _ahead(zone, middle) == found[-1][1] else (at, middle)
        found.append((until, _ahead(zone, until)))
    return tuple(found)


def _ahead(zone: tzinfo, minute: int) -> int:
    ahead = (_EPOCH + minute * _MINUTE).astimezone(zone).utcoffset()
    assert ahead is not None
    return ahead // _MINUTE


def _minute(at: datetime) -> int:
    return (at - _EPOCH) // _MINUTE


@lru_cache
def _zone(name: str) -> ZoneInfo:
    with names_extra("a time zone"):
        data = files("tzdata").joinpath("zoneinfo")
    if name not in data.joinpath("..", "zones").read_text().split():
        raise ValueError(f'the tz database has no time zone {name!r}; one is written like "Europe/Oslo"')
    with data.joinpath(*name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, name)
