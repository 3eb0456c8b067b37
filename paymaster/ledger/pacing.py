"""When a process sends its next update to the ledger: how long it waits for its turn, and after a failure.

Temporal aborts all updates in flight to a workflow when it refuses one. So a process whose update was refused or
aborted waits for longer before it tries again, and for some turns to come.
"""

import logging
import random
import time
from collections.abc import Callable
from uuid import uuid4

logger = logging.getLogger(__name__)

NAMED_MAX_S = 10.0
"""No ledger names a longer wait."""
TAKES_S = 0.015
"""What an update takes where the waits that the ledger names are right: three of ten places are taken then."""
SLOWER_MAX = 32.0
SLOWER_AFTER_FAILURE = 1.5
FASTER_AFTER_ANSWER = 0.8
REFUSED_WAITS_S = 0.3
"""Who is refused waits at least so long, also where it does not know yet how many others there are."""
FAILED_WAITS_MAX_S = 5.0
JITTER = 0.25
"""So much of each wait, more or less, so that those who once came together do not do so for ever."""
BACK_OFF_S = 0.05
BACK_OFF_MAX_S = 1.0
WARNED_FROM_S = 1.0
WARNED_EVERY_S = 60.0
_DOUBLINGS_MAX = 10
_NEWEST_WEIGHS = 0.3


def jittered(wait_s: float, chance: Callable[[], float] = random.random) -> float:
    """A little more or less; `chance` draws a number between 0 and 1."""
    return wait_s * (1 + JITTER * (2 * chance() - 1))


def slower_by(takes_s: float) -> float:
    """How many times as long turns are where an update takes so long, because Temporal is slow, so that no more of them
    are in flight than otherwise."""
    return min(max(takes_s / TAKES_S, 1.0), SLOWER_MAX)


def back_off_s(failures: int, chance: Callable[[], float] = random.random) -> float:
    """How long to wait after the last of several failures, one after the other."""
    return jittered(min(BACK_OFF_S * 2 ** min(failures - 1, _DOUBLINGS_MAX), BACK_OFF_MAX_S), chance)


class Pace:
    """That of one process."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        """`clock` tells seconds; `chance` draws a number between 0 and 1."""
        self.sender = uuid4().hex[:12]
        """The process's name for the ledger."""
        self._clock = clock
        self._chance = chance
        self._next_at_s = 0.0
        self._named_s = 0.0
        self._takes_s: float | None = None
        self._slower = 1.0
        self._warned_at_s: float | None = None

    def answered(self, named_ms: int, took_s: float) -> float:
        """Notes the answer to an update. Returns how many seconds the next one waits."""
        before_s = took_s if self._takes_s is None else self._takes_s
        self._takes_s = takes_s = before_s + _NEWEST_WEIGHS * (took_s - before_s)
        self._slower = max(1.0, self._slower * FASTER_AFTER_ANSWER)
        named_s = min(named_ms / 1_000, NAMED_MAX_S)
        turn_s = min(named_s, self._named_s)  # not what one answer adds, because a new run begins
        self._named_s = named_s
        return self._wait(named_s + turn_s * (max(slower_by(takes_s), self._slower) - 1))

    def failed(self, *, refused: bool) -> float:
        """Notes an update without an answer. Returns how many seconds the next one waits; 0 for one that is alone and
        was not refused, whose pauses are group commit's."""
        if refused or self._named_s:
            self._slower = min(self._slower * SLOWER_AFTER_FAILURE, SLOWER_MAX)
        least_s = REFUSED_WAITS_S if refused else 0.0
        return self._wait(min(max(self._named_s, least_s) * self._slower, FAILED_WAITS_MAX_S))

    def rest_s(self) -> float:
        """How long the next update still has to wait."""
        return max(0.0, self._next_at_s - self._clock())

    def _wait(self, wait_s: float) -> float:
        wait_s, now_s = jittered(wait_s, self._chance), self._clock()
        self._next_at_s = now_s + wait_s
        if wait_s >= WARNED_FROM_S and (self._warned_at_s is None or now_s >= self._warned_at_s + WARNED_EVERY_S):
            self._warned_at_s = now_s
            takes = "had no answer yet" if self._takes_s is None else f"take {1_000 * self._takes_s:.0f} ms"
            logger.warning(
                "updates to the ledger wait %.1f s for their turn, and %s: many processes send, or Temporal is slow",
                wait_s,
                takes,
            )
        return wait_s
