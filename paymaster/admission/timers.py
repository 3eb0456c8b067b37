"""When something is due: for each key one time, of which the first is found without a look at all of them."""

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

NEVER_MS = 2**62


class Timers:
    def __init__(self, times: Iterable[tuple[str, int]] = ()) -> None:
        self._times = dict(times)
        self._heap: list[tuple[int, str]] = []
        """Also times that were changed since; they are passed over."""
        self._tidy()

    def get(self, key: str) -> int:
        """NEVER_MS if nothing is due."""
        return self._times.get(key, NEVER_MS)

    def set(self, key: str, at_ms: int | None) -> None:
        """Instead of the time before. None: nothing is due any more."""
        if at_ms is None:
            self._times.pop(key, None)
        elif self._times.get(key) != at_ms:
            self._times[key] = at_ms
            heappush(self._heap, (at_ms, key))
            if len(self._heap) > 2 * len(self._times) + 1_000:
                self._tidy()

    def first_ms(self) -> int:
        """NEVER_MS if nothing is due."""
        while self._heap and self._times.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else NEVER_MS

    def take_due(self, now_ms: int, most: int | None = None) -> list[str]:
        """The keys that are due, the earliest first, and of keys that are due at once the smaller. `most`: so many."""
        due: list[str] = []
        while (most is None or len(due) < most) and self.first_ms() <= now_ms:
            due.append(heappop(self._heap)[1])
            del self._times[due[-1]]
        return due

    def _tidy(self) -> None:
        self._heap = [(at_ms, key) for key, at_ms in self._times.items()]
        heapify(self._heap)
