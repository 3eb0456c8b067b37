"""Python's search for garbage, in a process that runs for weeks."""

import gc
from collections.abc import Generator
from contextlib import contextmanager

ENDED_BYTES_MAX = 64 * 2**20
"""Of requests that may wait to be found as garbage; each is there as text, as JSON and as it was sent."""
YOUNG_MAX = 5_000
"""Objects that may have come since young ones were searched; Python's own is 700. Where it was, a ledger that takes
4,000 commands a second searched all its holds every three seconds, for a tenth of a second each time."""


@contextmanager
def no_collection() -> Generator[None]:
    """Nothing of what is being made is garbage; to look for some takes as long as all the rest."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def keep_what_is_there() -> None:
    """Takes everything that there is now out of the search for garbage, for as long as the process lives.

    For a process that has imported everything and has no work yet: a call of now would stay as well.
    To look at it again and again took a fifth of a busy ledger's time. The second collection sets the measure of
    Python's rule that old objects are searched when a quarter of what the last search left has been added
    (CPython 3.11, `gc_collect_generations`): with the imports as the measure, ended calls stayed by the thousand.
    """
    gc.collect()
    gc.freeze()
    gc.collect()
    gc.set_threshold(YOUNG_MAX, *gc.get_threshold()[1:])


class EndedRequests:
    """Has garbage searched for by the bytes that it holds: Python counts objects, and ended calls are few but large.

    The SDK's instance of a workflow refers to itself, so a call's request goes only when it is found.
    """

    def __init__(self) -> None:
        self._bytes = 0

    def add(self, size: int) -> None:
        """Of a request that will have ended before long. One that is counted again has the search begin earlier."""
        self._bytes += size
        if self._bytes > ENDED_BYTES_MAX:
            self._bytes = 0
            gc.collect()
