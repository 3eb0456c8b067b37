"""Which parked calls the next copy of the status has: those that changed since they were copied, some at a time."""

from collections.abc import Iterable
from itertools import islice

CALLS_AT_ONCE = 500
"""In one copy: they take as much as so many accounts."""
_MARKED_MAX = 5_000
"""Beyond this number all are copied anew."""


class ChangedCalls:
    """By hold id. The ledger's next run does not know of it, and copies all anew."""

    def __init__(self) -> None:
        self._marked: dict[str, None] = {}
        self._all = True
        self._round_began = 0
        """The version of the first copy of a round in which all are copied anew. 0: none is under way."""

    def __bool__(self) -> bool:
        """Whether the copy lacks something that is known to have changed. A new run of the ledger knows of nothing, and
        waits for a change."""
        return bool(self._marked) or self._round_began > 0

    def mark(self, hold_id: str) -> None:
        """The call was parked, waits for something else, or waits no more."""
        if not self._all:
            self._marked[hold_id] = None
            if len(self._marked) > _MARKED_MAX:
                self.mark_all()

    def mark_all(self) -> None:
        """Takes no room, however many there are and were."""
        self._marked.clear()
        self._all = True

    def again(self) -> None:
        """A copy did not arrive, or nobody knows."""
        self.mark_all()
        self._round_began = 1

    def take(self, parked: Iterable[str], version: int) -> tuple[list[str], int]:
        """Those for the copy of this version, and the version before which no copied call is right any more: 0, unless
        a round ends with this copy. `parked` are all that wait, in order."""
        if self._all:
            self._all, self._round_began = False, version
            self._marked.update(dict.fromkeys(parked))
        taken = list(islice(self._marked, CALLS_AT_ONCE))
        for hold_id in taken:
            del self._marked[hold_id]
        if self._marked:
            return taken, 0
        began, self._round_began = self._round_began, 0
        return taken, began
