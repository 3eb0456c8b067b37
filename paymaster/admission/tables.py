"""What many rows of a dump have in common, written once: a row has its number."""

from collections.abc import Hashable
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)


class Table(Generic[KeyT]):
    """Different values in the order of their first use."""

    def __init__(self) -> None:
        self._numbers: dict[KeyT, int] = {}

    def number(self, value: KeyT) -> int:
        return self._numbers.setdefault(value, len(self._numbers))

    def values(self) -> list[KeyT]:
        return list(self._numbers)
