"""When a process sends its next update to the ledger: at the time that the ledger names, and after a failure.

Temporal aborts all updates in flight to a workflow when it refuses one. So a process whose update was refused or
aborted waits for longer before it tries again, each time more.
"""

import logging
import random
import time
from collections.abc import Callable
from uuid import uuid4

logger = logging.getLogger(__name__)

NAMED_MAX_S = 10.0
"""No ledger names a longer wait."""
REFUSED_WAITS_S = 1.0
"""Who is refused waits at least so long, until the ledger has answered those whom Temporal still asks again itself."""
REFUSED_WITHIN_S = 3.0
"""And so much longer at most. There are more than the ten that Temporal takes, and meanwhile a worker may read a whole
run again, for up to a second, in which ten of sixty should come back at most."""
LONGER_EACH_TIME = 2.0
LONGER_MAX = 4.0
MANY_FROM_S = 0.1
"""Where the ledger names such a wait there may be more than ten: an update that is aborted was so with one refused."""
NEW_RUN_WITHIN_S = 0.25
JITTER = 0.5
"""So much of a pause, more or less, so that those who failed together do not come back together."""
BACK_OFF_S = 0.05
BACK_OFF_MAX_S = 1.0
WARNED_FROM_S = 1.0
WARNED_EVERY_S = 60.0
_DOUBLINGS_MAX = 10
_NEWEST_WEIGHS = 0.3


def jittered(wait_s: float, chance: Callable[[], float] = random.random) -> float:
    """A little more or less; `chance` draws a number between 0 and 1."""
    return wait_s * (1 + JITTER * (2 * chance() - 1))


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
        self._longer = 1.0
        self.was_refused = False
        """An update was, since the last answer."""
        self._warned_at_s: float | None = None

    def answered(self, named_ms: int, took_s: float) -> float:
        """Notes the answer to an update. Returns how many seconds the next one waits."""
        before_s = took_s if self._takes_s is None else self._takes_s
        self._takes_s = before_s + _NEWEST_WEIGHS * (took_s - before_s)
        self._named_s = min(named_ms / 1_000, NAMED_MAX_S)
        self._longer, self.was_refused = 1.0, False
        return self._wait(self._named_s)

    def failed(self, *, refused: bool) -> float:
        """Notes an update without an answer. Returns how many seconds the next one waits; 0 for one that is alone and
        was not refused, whose pauses are group commit's.

        Any time of a span is as likely, so that those who failed together do not come back together.
        """
        self.was_refused = self.was_refused or refused
        longer, self._longer = self._longer, min(self._longer * LONGER_EACH_TIME, LONGER_MAX)
        if not refused and self._named_s < MANY_FROM_S:
            return self._wait(self._named_s * longer * self._chance())
        return self._wait((REFUSED_WAITS_S + REFUSED_WITHIN_S * self._chance()) * longer)

    def missed(self) -> float:
        """Notes an update that came while a new run began. Returns how many seconds the next one waits."""
        return self._wait(NEW_RUN_WITHIN_S * self._chance())

    def rest_s(self) -> float:
        """How long the next update still has to wait."""
        return max(0.0, self._next_at_s - self._clock())

    def _wait(self, wait_s: float) -> float:
        now_s = self._clock()
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
