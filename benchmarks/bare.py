"""Governed calls against the bare call, which is one workflow with one activity that calls the service.

Both in turns within one run. The bare one is the plain SDK: its converter for Pydantic's models, asyncio's event loop,
and its activity on the workflow's task queue, so that it starts eagerly.
"""

from dataclasses import dataclass
from uuid import uuid4

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from benchmarks.calls import AT_ONCE, Call, governed, rate, times_alone
from benchmarks.compared import BARE_TASK_QUEUE
from benchmarks.figures import Figure, percentile
from benchmarks.site import Site
from benchmarks.where_time_goes import processor_seconds
from paymaster.devstack.temporal_on_postgres import TemporalOnPostgres


@dataclass(frozen=True)
class _Round:
    """What one round of one kind took, for each call."""

    seconds: float
    processor_ms: float
    """Of all parts."""
    worker_ms: float


async def bare_client(address: str, namespace: str) -> Client:
    return await Client.connect(address, namespace=namespace, data_converter=pydantic_data_converter)


async def compared(
    site: Site, *, rounds: int = 9, calls: int = 600, alone: int = 100, aged_calls: int = 0
) -> list[Figure]:
    """One alone on a Temporal that is fresh, 50 at once, and one alone again, when at least `aged_calls` of each kind
    have been made.

    A round is so long that its begin and its end, when there are fewer at once, count for little.
    """
    client = await bare_client(site.stack.temporal_address, site.client.namespace)

    async def bare(site: Site) -> None:
        await client.execute_workflow(
            "BareCall", site.request(), id=f"bare/{uuid4()}", task_queue=BARE_TASK_QUEUE, result_type=str
        )

    fresh = await _alone(site, bare, alone)
    pairs = await _rounds(site, bare, rounds, calls)
    for call in (governed, bare):
        await rate(site, call, max(0, aged_calls - rounds * calls), AT_ONCE)
    aged = await _alone(site, bare, alone)
    return [*_at_once(site, pairs), *_one_alone(fresh, aged, max(aged_calls, rounds * calls))]


async def _alone(site: Site, bare: Call, pairs: int) -> tuple[float, float]:
    """The median milliseconds of a governed call and of a bare one, one of each in turn."""
    ours, theirs = await times_alone(site, governed, bare, pairs)
    return percentile(ours, 0.5), percentile(theirs, 0.5)


async def _rounds(site: Site, bare: Call, rounds: int, calls: int) -> list[tuple[_Round, _Round]]:
    """Governed and bare ones, in turns; which comes first changes."""
    for call in (governed, bare):  # what only the first calls cost
        await rate(site, call, min(AT_ONCE, calls), AT_ONCE)
    pairs: list[tuple[_Round, _Round]] = []
    for turn in range(rounds):
        of_pair: dict[Call, _Round] = {}
        for call in (governed, bare) if turn % 2 == 0 else (bare, governed):
            of_pair[call] = await _round(site, call, calls)
        pairs.append((of_pair[governed], of_pair[bare]))
    return pairs


async def _round(site: Site, call: Call, calls: int) -> _Round:
    before = processor_seconds(site)
    a_second = await rate(site, call, calls, AT_ONCE)
    used = {part: (after - before[part]) * 1_000 / calls for part, after in processor_seconds(site).items()}
    return _Round(1 / a_second, sum(used.values()), used["worker"])


def _at_once(site: Site, pairs: list[tuple[_Round, _Round]]) -> list[Figure]:
    on_postgresql = isinstance(site.stack.temporal, TemporalOnPostgres)
    rates = [bare.seconds / ours.seconds for ours, bare in pairs]
    processor = [bare.processor_ms / ours.processor_ms for ours, bare in pairs]
    worker = [ours.worker_ms / bare.worker_ms for ours, bare in pairs]
    ours_ms, bare_ms = (percentile([pair[kind].processor_ms for pair in pairs], 0.5) for kind in (0, 1))
    worker_ms, bare_worker_ms = (percentile([pair[kind].worker_ms for pair in pairs], 0.5) for kind in (0, 1))
    best, best_bare = (1 / min(pair[kind].seconds for pair in pairs) for kind in (0, 1))
    return [
        Figure(
            "calls a second, governed / bare, 50 at once",
            percentile(rates, 0.5),
            "",
            ("≥", 0.82 if on_postgresql else 0.85),
            f"best {best:.1f} and {best_bare:.1f} a second; {_each(rates)}",
        ),
        Figure(
            "processor time of all parts, bare / governed",
            percentile(processor, 0.5),
            "",
            ("≥", 0.85),
            f"{bare_ms:.1f} and {ours_ms:.1f} ms a call; {_each(processor)}",
        ),
        Figure(
            "worker's processor time, governed / bare",
            percentile(worker, 0.5),
            "",
            ("≤", 1.4),
            f"{worker_ms:.1f} and {bare_worker_ms:.1f} ms a call; {_each(worker)}",
        ),
    ]


def _one_alone(fresh: tuple[float, float], aged: tuple[float, float], calls: int) -> list[Figure]:
    """`fresh` and `aged`: milliseconds of a governed call and of a bare one."""

    def detail(pair: tuple[float, float]) -> str:
        return f"p50 {pair[0]:.1f} against {pair[1]:.1f} ms"

    grown, bare_grown = (after / before for before, after in zip(fresh, aged, strict=True))
    return [
        Figure("one alone, governed / bare, p50, fresh", fresh[0] / fresh[1], "", ("≤", 1.9), detail(fresh)),
        Figure(f"the same after {calls:,} calls of each kind", aged[0] / aged[1], "", None, detail(aged)),
        Figure(
            "its growth / that of the bare call",
            grown / bare_grown,
            "",
            ("≤", 1.05),
            f"{grown:.2f} against {bare_grown:.2f} times",
        ),
    ]


def _each(ratios: list[float]) -> str:
    return f"{len(ratios)} pairs: {', '.join(f'{ratio:.2f}' for ratio in ratios)}"
