"""Two kinds of calls in turn, so that what the machine does beside them hits both."""

from collections.abc import Awaitable, Callable

from benchmarks.calls import AT_ONCE, rate
from benchmarks.site import Site


async def paired(
    site: Site,
    ours: Callable[[Site], Awaitable[object]],
    theirs: Callable[[Site], Awaitable[object]],
    seconds: Callable[[], float],
    pairs: int,
    calls: int,
) -> list[tuple[float, float]]:
    """Seconds for each call, of ours and of theirs."""
    for call in (ours, theirs):  # what only the first calls cost
        await rate(site, call, calls, AT_ONCE)
    taken: list[tuple[float, float]] = []
    for turn in range(pairs):
        of_pair: dict[bool, float] = {}
        for is_ours in (True, False) if turn % 2 == 0 else (False, True):
            before = seconds()
            await rate(site, ours if is_ours else theirs, calls, AT_ONCE)
            of_pair[is_ours] = (seconds() - before) / calls
        taken.append((of_pair[True], of_pair[False]))
    return taken
