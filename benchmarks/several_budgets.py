"""What a call costs that counts for a run, for a name under a template and for two budgets, against a plain one."""

import itertools

from benchmarks.calls import governed
from benchmarks.figures import Figure, percentile
from benchmarks.paired import paired
from benchmarks.resources import cpu_seconds
from benchmarks.site import Site
from paymaster import RunLimits
from paymaster import client as paymaster

_CUSTOMERS, _RUNS = 50, 20
"""Names in use at once."""
_NUMBERS = itertools.count()


async def with_run_and_budgets(site: Site) -> None:
    number = next(_NUMBERS)
    asked = {
        "budget": ("bench/agent", f"customers/{number % _CUSTOMERS}"),
        "run": f"run-{number % _RUNS}",
        "run_limits": RunLimits(usd="1000", calls=1_000_000),
    }
    await paymaster.generate(site.client, site.request().model_copy(update=asked))


async def cost_of_budgets(site: Site, *, pairs: int = 15, calls: int = 100) -> list[Figure]:
    """Processor time of the worker, with the ledger in it, for a call of each kind, in turn."""
    taken = await paired(site, with_run_and_budgets, governed, lambda: cpu_seconds(site.worker), pairs, calls)
    ratios = sorted(ours / theirs for ours, theirs in taken)
    detail = f"{pairs} pairs of {calls} calls: {ratios[0]:.2f} to {ratios[-1]:.2f}"
    what = "processor time in the worker, call with a run, a template and two budgets / plain call"
    return [Figure(what, percentile(ratios, 0.5), "", ("≤", 1.1), detail)]
