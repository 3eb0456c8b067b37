"""How long the event loop is held: what holds it, holds up every call, heartbeat and answer of the process."""

import asyncio
import logging
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from paymaster.observability.measurements import measure_event_loop_delay

LOOKS_EVERY_S = 0.05
"""Between two looks; a delay that is shorter is not noticed, and a longer one may be longer by so much."""
RECORDED_EVERY_S = 1.0
WARNED_FROM_S = 0.5
logger = logging.getLogger("paymaster.worker")  # what it says is about the worker, and stands with its lines


class EventLoopWatch:
    """Wakes again and again, and sees how much later it was than it had asked for."""

    def __init__(
        self,
        record: Callable[[float], None],
        *,
        every_s: float = LOOKS_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        record_every_s: float = RECORDED_EVERY_S,
    ) -> None:
        """`record` is given the largest delay of each `record_every_s`."""
        self._record_every_s = record_every_s
        self._record = record
        self._every_s = every_s
        self._clock = clock

    async def run(self) -> None:
        """Until it is cancelled."""
        largest_s, recorded_at = 0.0, self._clock()
        while True:
            before = self._clock()
            await asyncio.sleep(self._every_s)
            now = self._clock()
            delay_s = max(0.0, now - before - self._every_s)
            largest_s = max(largest_s, delay_s)
            if delay_s >= WARNED_FROM_S:
                logger.warning("nothing ran for %.0f ms: something held the event loop", delay_s * 1000)
            if now - recorded_at >= self._record_every_s:
                self._record(largest_s)
                largest_s, recorded_at = 0.0, now


@contextmanager
def watched_event_loop() -> Generator[None]:
    """Measures the running loop while the block runs."""
    task = asyncio.create_task(EventLoopWatch(measure_event_loop_delay).run(), name="event loop watch")
    try:
        yield
    finally:
        task.cancel()
