"""What accounts have spent in a replay until now, for a desk that forgets those that nobody uses."""

from typing import NamedTuple

from paymaster.messages import Window

_FEW = 10_000
"""So many accounts are never looked through for what is over."""


class Spent(NamedTuple):
    window: Window
    ends_at_ms: int | None
    """None: the window never ends."""
    nanos: int


class ReplayedSpend:
    """By account, what it has spent in windows that have not ended."""

    def __init__(self) -> None:
        self._spent: dict[str, tuple[Spent, ...]] = {}
        self._looked_through = _FEW

    def remember(self, account: str, spent: tuple[Spent, ...], now_ms: int) -> None:
        self._spent[account] = spent
        if len(self._spent) > 2 * self._looked_through:
            self._spent = {key: each for key, each in self._spent.items() if any(_is_open(one, now_ms) for one in each)}
            self._looked_through = max(_FEW, len(self._spent))

    def of(self, account: str, now_ms: int) -> dict[Window, int]:
        return {each.window: each.nanos for each in self._spent.get(account, ()) if _is_open(each, now_ms)}


def _is_open(spent: Spent, now_ms: int) -> bool:
    return spent.ends_at_ms is None or spent.ends_at_ms > now_ms
