"""Governed calls against the same workflow without a budget: throughput, the time that one adds, history events."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import uuid4

from temporalio.worker import Worker

from benchmarks.compared import AGENTS_TASK_QUEUE, UNBUDGETED_TASK_QUEUE, Agent
from benchmarks.figures import Figure, percentile
from benchmarks.site import Site
from paymaster import client as paymaster
from paymaster.messages import LLMResult, budget_workflow_id, call_workflow_id

AT_ONCE = 50
Call = Callable[[Site], Awaitable[object]]


async def governed(site: Site) -> LLMResult:
    return await paymaster.generate(site.client, site.request())


async def unbudgeted(site: Site) -> LLMResult:
    return await site.client.execute_workflow(
        "UnbudgetedCall", site.request(), id=f"u/{uuid4()}", task_queue=UNBUDGETED_TASK_QUEUE, result_type=LLMResult
    )


# ---------------------------------------------------------------- 50 at once


async def throughput(site: Site, *, calls: int = 200, rounds: int = 5) -> list[Figure]:
    """Calls a second, one round of each after the other; the ratio of the medians of each."""
    return await _paired(site, governed, unbudgeted, calls, rounds, AT_ONCE, "50 at once", 0.90)


async def throughput_of_agents(site: Site, *, calls: int = 10, rounds: int = 5, agents: int = 10) -> list[Figure]:
    """Calls for each second where each is a child of an agent, which makes five at once."""
    async with Worker(site.client, task_queue=AGENTS_TASK_QUEUE, workflows=[Agent]):

        async def one(site: Site, kind: str) -> None:
            await site.client.execute_workflow(
                Agent.run,
                args=[kind, site.request(), calls],
                id=f"agent/{uuid4()}",
                task_queue=AGENTS_TASK_QUEUE,
                execution_timeout=timedelta(minutes=10),
            )

        return await _paired(
            site,
            lambda site: one(site, "governed"),
            lambda site: one(site, "unbudgeted"),
            agents,
            rounds,
            10,
            "as children of agents, 50 at once",
            0.95,
            calls_each=calls,
        )


async def _paired(
    site: Site,
    ours: Call,
    theirs: Call,
    count: int,
    rounds: int,
    at_once: int,
    what: str,
    reach: float,
    *,
    calls_each: int = 1,
) -> list[Figure]:
    for call in (ours, theirs):  # what only the first calls cost
        await rate(site, call, min(at_once, count), at_once)
    rates: dict[str, list[float]] = {"governed": [], "unbudgeted": []}
    for turn in range(rounds):
        pair = [("governed", ours), ("unbudgeted", theirs)]
        for name, call in pair if turn % 2 == 0 else reversed(pair):
            rates[name].append(calls_each * await rate(site, call, count, at_once))
    ratios = [mine / other for mine, other in zip(rates["governed"], rates["unbudgeted"], strict=True)]
    spread = f"{rounds} pairs: {', '.join(f'{ratio:.2f}' for ratio in ratios)}"
    return [
        Figure(f"governed / without budget, {what}", percentile(ratios, 0.5), "", ("≥", reach), spread),
        Figure(f"governed calls, {what}", max(rates["governed"]), "a second", None, "the best round"),
        Figure(f"calls without budget, {what}", max(rates["unbudgeted"]), "a second", None, "the best round"),
    ]


async def rate(site: Site, call: Call, count: int, at_once: int) -> float:
    """Calls a second, with so many always running."""
    waiting = iter(range(count))

    async def one_after_another() -> None:
        for _ in waiting:
            await call(site)

    started = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(at_once)))
    return count / (time.perf_counter() - started)


# ---------------------------------------------------------------- one at a time


async def added_time(site: Site, *, pairs: int = 100) -> list[Figure]:
    """What a budget adds to a call that is alone: one of each in turn."""
    with_it, without = await times_alone(site, governed, unbudgeted, pairs)
    ours, theirs = percentile(with_it, 0.5), percentile(without, 0.5)
    detail = f"p50 {ours:.1f} against {theirs:.1f} ms, p90 {percentile(with_it, 0.9):.1f} against "
    detail += f"{percentile(without, 0.9):.1f} ms, {pairs} pairs"
    return [Figure("added by the budget to one call alone, p50", ours - theirs, "ms", ("≤", 12), detail)]


async def times_alone(site: Site, ours: Call, theirs: Call, pairs: int) -> tuple[list[float], list[float]]:
    """The milliseconds that calls of each kind took, one of each in turn."""
    times: dict[Call, list[float]] = {ours: [], theirs: []}
    for call in times:
        for _ in range(3):  # what only the first calls cost
            await call(site)
    for _ in range(pairs):
        for call, taken in times.items():
            started = time.perf_counter()
            await call(site)
            taken.append((time.perf_counter() - started) * 1_000)
    return times[ours], times[theirs]


# ---------------------------------------------------------------- history events


async def history_events(site: Site, *, calls: int = 600) -> list[Figure]:
    """Of a call, and of the budget workflow for each call at 50 at once, once so many run."""
    await governed(site)  # a new ledger reads first what was spent before, and the first call is parked meanwhile
    await rate(site, governed, calls // 6, AT_ONCE)
    before = await _events_of_the_ledger(site)
    await rate(site, governed, calls, AT_ONCE)
    of_the_ledger = await _events_of_the_ledger(site) - before
    call_id = str(uuid4())
    await paymaster.generate(site.client, site.request().model_copy(update={"call_id": call_id}))
    of_a_call = (await site.client.get_workflow_handle(call_workflow_id(call_id)).describe()).history_length
    return [
        Figure("history events of a call", of_a_call, "", ("≤", 17)),
        Figure(
            "history events of the budget workflow for each call, 50 at once",
            of_the_ledger / calls,
            "",
            ("≤", 0.5),
            f"{of_the_ledger} for {calls} calls",
        ),
    ]


async def _events_of_the_ledger(site: Site) -> int:
    """Of all its runs: continue-as-new begins a new history."""
    workflow_id = budget_workflow_id(site.ledger.name)
    now = await site.client.get_workflow_handle(workflow_id).describe()
    earlier = [
        run.history_length
        async for run in site.client.list_workflows(f'WorkflowId="{workflow_id}" AND ExecutionStatus="ContinuedAsNew"')
    ]
    return now.history_length + sum(earlier)
