"""Where the time of a governed call goes: processor time of each part under load, and the steps of one call alone."""

import time
from collections.abc import Sequence
from itertools import pairwise
from uuid import uuid4

from temporalio.api.enums.v1 import EventType

from benchmarks.calls import AT_ONCE, governed, rate, unbudgeted
from benchmarks.figures import Figure, percentile
from benchmarks.resources import cpu_seconds
from benchmarks.site import Site
from paymaster import client as paymaster
from paymaster.messages import call_workflow_id

_STEPS = (
    ("Temporal gives the call to a worker", EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED),
    ("reserve: the ledger decides", EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED),
    ("Temporal gives the activity to a worker", EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED),
    ("the service answers", EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED),
    ("Temporal gives the answer to the workflow", EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED),
    ("record in PostgreSQL, settle in the ledger", EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED),
)
"""What happens until an event of this type is written, in the order of a call's history."""


async def processor_time(site: Site, *, calls: int = 400) -> list[Figure]:
    """Processor time of each part for each call, 50 at once, governed and not. Depends little on what else runs."""
    figures: list[Figure] = []
    totals: list[float] = []
    for name, call in (("governed", governed), ("without budget", unbudgeted)):
        before = processor_seconds(site)
        await rate(site, call, calls, AT_ONCE)
        of_a_call = {part: (after - before[part]) * 1_000 / calls for part, after in processor_seconds(site).items()}
        longest = max(of_a_call.values())
        figures += [
            Figure(f"processor time of a call, {name}: {part}", ms, "ms", None, _bar(ms, longest))
            for part, ms in of_a_call.items()
        ]
        totals.append(sum(of_a_call.values()))
    detail = f"{totals[0]:.1f} against {totals[1]:.1f} ms for each call"
    return [*figures, Figure("processor time, governed / without budget", totals[0] / totals[1], "", None, detail)]


def processor_seconds(site: Site) -> dict[str, float]:
    """What each part has used until now; the worker is that of the governed calls and the other one together."""
    return {
        "worker": cpu_seconds(site.worker, site.unbudgeted_worker),
        "Temporal": cpu_seconds(site.stack.temporal.process),
        "PostgreSQL": cpu_seconds(site.stack.postgres.process),
        "provider": cpu_seconds(site.provider),
        "client": time.process_time(),
    }


async def steps_of_a_call(site: Site, *, calls: int = 50) -> list[Figure]:
    """The median time between the events in the history of calls that are alone."""
    taken = [await _steps(site) for _ in range(calls)]
    medians = [percentile(each, 0.5) for each in zip(*taken, strict=True)]
    return [
        Figure(f"one call alone: {name}", ms, "ms", None, _bar(ms, max(medians)))
        for (name, _), ms in zip(_STEPS, medians, strict=True)
    ]


async def _steps(site: Site) -> Sequence[float]:
    call_id = str(uuid4())
    await paymaster.generate(site.client, site.request().model_copy(update={"call_id": call_id}))
    events = [
        event async for event in site.client.get_workflow_handle(call_workflow_id(call_id)).fetch_history_events()
    ]
    at = [events[0].event_time]
    remaining = iter(events)
    for _, kind in _STEPS:
        at.append(next(event.event_time for event in remaining if event.event_type == kind))
    return [(after.ToNanoseconds() - before.ToNanoseconds()) / 1e6 for before, after in pairwise(at)]


def _bar(value: float, longest: float) -> str:
    return "█" * round(30 * value / longest)
