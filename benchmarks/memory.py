"""The memory of a worker: what it has after its first calls, it has after twenty times as many."""

from benchmarks.calls import AT_ONCE, governed, rate
from benchmarks.figures import Figure
from benchmarks.resources import memory_mib
from benchmarks.site import Site


async def growth(site: Site, *, first: int = 1_000, last: int = 20_000) -> list[Figure]:
    """Resident memory of Paymaster's worker after so many calls, against after its first thousand."""
    await rate(site, governed, first, AT_ONCE)
    before = memory_mib(site.worker.pid)
    await rate(site, governed, last - first, AT_ONCE)
    after = memory_mib(site.worker.pid)
    detail = f"{before:.0f} MiB after {first:,} calls, {after:.0f} MiB after {last:,}"
    return [Figure("memory of a worker after many calls / after few", after / before, "", ("≤", 1.1), detail)]
