"""The lists of genai-prices that this process has: its package's, and newer ones that it was given while it ran.

A grant's price names its list, and what its answer costs is decided by that list, whatever came since.
"""

from collections import deque
from datetime import datetime
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from typing import NamedTuple

from genai_prices.data_snapshot import DataSnapshot, get_snapshot, set_custom_snapshot
from genai_prices.types import Provider

LIST_DATES = {"0.2.3": "2026-11-10"}
"""When these versions of genai-prices were published, by PyPI: the list does not say it itself."""
_TIMES = " * "
_EARLIER_MAX = 2
_earlier = deque[DataSnapshot](maxlen=_EARLIER_MAX)


class Listing(NamedTuple):
    """A list with its name, which is in the source of each price that is from it."""

    name: str
    snapshot: DataSnapshot


def newest() -> Listing:
    """The list that prices are looked up in."""
    return _named(get_snapshot())


def listing_of(source: str) -> Listing | None:
    """The list that a price with this source is from. None: this process does not have it."""
    for each in map(_named, (get_snapshot(), *_earlier)):
        if source.startswith((f"{each.name}: ", f"{each.name}{_TIMES}")):
            return each
    return None


def priced_by(listing: Listing, factor: Decimal) -> str:
    """What the source of a price begins with: its list, and the factor of the configuration where there is one."""
    return listing.name if factor == 1 else f"{listing.name}{_TIMES}{factor.normalize():f}"


def factor_in(source: str) -> Decimal:
    """The factor that `priced_by` wrote there."""
    _, times, rest = source.partition(": ")[0].partition(_TIMES)
    return Decimal(rest) if times else Decimal(1)


def take(providers: list[Provider], at: datetime) -> None:
    """Looks prices up in this list from now on; `at`, in UTC, is when it was brought."""
    _earlier.appendleft(get_snapshot())
    set_custom_snapshot(DataSnapshot(providers, from_auto_update=True, timestamp=at))


@cache
def list_version() -> str:
    """Of the package that reads the lists."""
    return version("genai-prices")


def _named(snapshot: DataSnapshot) -> Listing:
    """With its date, as far as it is known."""
    listed = list_version()
    day = f"{snapshot.timestamp:%Y-%m-%dT%H:%M:%SZ}" if snapshot.from_auto_update else LIST_DATES.get(listed)
    return Listing(f"genai-prices {listed}" if day is None else f"genai-prices {listed} of {day}", snapshot)
