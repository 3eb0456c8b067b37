"""A time zone without a tz database: how far its clocks are ahead of UTC, and from when on.

The ledger gets these numbers with its configuration, and so decides the same on every machine, also when it replays
what a machine with an older tz database decided.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

UTC_NAME = "UTC"
Offsets = tuple[tuple[int, int], ...]
"""In minutes since the epoch, when the clocks changed, and by how many minutes they were ahead of UTC from then on. The
first ones hold before their time too."""

_MINUTE_MS = 60_000
_NEVER = float("inf")


class Zone:
    """The clocks of a time zone. Of equal zones each is another key of a cache."""

    def __init__(self, offsets: Sequence[tuple[int, int]]) -> None:
        self._changes_ms = [from_minute * _MINUTE_MS for from_minute, _ in offsets]
        self._ahead_ms = [ahead * _MINUTE_MS for _, ahead in offsets]
        ends = [after for _, after in pairwise(self._changes_ms)]
        self._pieces = list(zip([-_NEVER, *self._changes_ms[1:]], self._ahead_ms, [*ends, _NEVER], strict=True))

    def local_ms(self, at_ms: int) -> int:
        """What its clocks show at this time, as if it were UTC."""
        return at_ms + self._ahead_ms[max(0, bisect_right(self._changes_ms, at_ms) - 1)]

    def first_ms(self, local_ms: int) -> int:
        """When its clocks show this or a later time for the first time: they may skip it, and show it twice."""
        for from_ms, ahead_ms, until_ms in self._pieces:
            if local_ms - ahead_ms < until_ms:
                return int(max(from_ms, local_ms - ahead_ms))
        raise AssertionError("the last piece never ends")


UTC_ZONE = Zone(((0, 0),))
