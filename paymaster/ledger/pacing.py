"""When a process sends its next update to the ledger: how long it waits for its turn, and after a failure."""

import logging
import random
import time
from collections import deque
from collections.abc import Callable
from uuid import uuid4

logger = logging.getLogger(__name__)

NAMED_MAX_S = 10.0
"""No ledger names a longer wait."""
TAKES_S = 0.025
"""What an update takes where the waits that the ledger names are right: five of ten places are taken then."""
SLOWER_MAX = 4.0
JITTER = 0.2
"""So much of each wait, more or less, so that those who once came together do not do so for ever."""
BACK_OFF_S = 0.05
BACK_OFF_MAX_S = 1.0
WARNED_FROM_S = 1.0
WARNED_EVERY_S = 60.0
_DOUBLINGS_MAX = 10
_SHORTEST_OF = 3


def jittered(wait_s: float, chance: Callable[[], float] = random.random) -> float:
    """A little more or less; `chance` draws a number between 0 and 1."""
    return wait_s * (1 + JITTER * (2 * chance() - 1))


def turn_s(named_s: float, takes_s: float) -> float:
    """How long to wait after the answer to an update.

    `named_s` is what the ledger named, for updates of 25 ms each. Where they take longer, because Temporal is slow,
    everybody waits as much longer, so that no more of them are in flight than otherwise.
    """
    return min(named_s, NAMED_MAX_S) * min(max(takes_s / TAKES_S, 1.0), SLOWER_MAX)


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
        self._took_s = deque[float](maxlen=_SHORTEST_OF)
        self._warned_at_s: float | None = None

    def answered(self, named_ms: int, took_s: float) -> float:
        """Notes the answer to an update. Returns how many seconds the next one waits."""
        self._took_s.append(took_s)
        wait_s = jittered(turn_s(named_ms / 1_000, min(self._took_s)), self._chance)
        now_s = self._clock()
        self._next_at_s = now_s + wait_s
        if wait_s >= WARNED_FROM_S and (self._warned_at_s is None or now_s >= self._warned_at_s + WARNED_EVERY_S):
            self._warned_at_s = now_s
            logger.warning(
                "updates to the ledger wait %.1f s for their turn, and take %.0f ms: many processes send, or Temporal "
                "is slow",
                wait_s,
                1_000 * min(self._took_s),
            )
        return wait_s

    def rest_s(self) -> float:
        """How long the next update still has to wait."""
        return max(0.0, self._next_at_s - self._clock())
