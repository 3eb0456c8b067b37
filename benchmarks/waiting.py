"""Many calls at once in one worker process, all of them waiting for a service: what they cost while they wait."""

import asyncio
import time

import httpx

from benchmarks.figures import Figure
from benchmarks.resources import cpu_seconds, memory_mib
from benchmarks.site import Site
from paymaster import client as paymaster

_ARRIVE_WITHIN_S = 600.0


async def calls_at_once(site: Site, *, calls: int = 1_000, waiting_s: float = 5.0) -> list[Figure]:
    """The provider holds every request until the last has arrived, and then for so many seconds more."""
    memory_before = memory_mib(site.worker.pid)
    asked = [asyncio.create_task(paymaster.generate(site.client, site.request("later"))) for _ in range(calls)]
    async with httpx.AsyncClient(base_url=site.provider_url, trust_env=False) as provider:
        waiting = await _arrived(provider, calls)
        memory = memory_mib(site.worker.pid) - memory_before
        before, started = cpu_seconds(site.worker), time.perf_counter()
        await asyncio.sleep(waiting_s)
        busy = (cpu_seconds(site.worker) - before) / (time.perf_counter() - started)
        await provider.get("/release")
    results = await asyncio.gather(*asked)
    assert all(result.attempts == 1 for result in results)
    detail = f"over {waiting_s:g} s; {memory * 1024 / calls:.0f} KiB of memory for each"
    return [
        Figure("calls at once that wait in one worker process", waiting, "", ("≥", calls)),
        Figure("processor that they need while they wait", busy * 100, "% of one", ("≤", 15), detail),
    ]


async def _arrived(provider: httpx.AsyncClient, calls: int) -> int:
    """How many requests the provider holds: all, unless they take longer than they may."""
    deadline = time.monotonic() + _ARRIVE_WITHIN_S
    while True:
        waiting = int((await provider.get("/waiting")).text)
        if waiting >= calls or time.monotonic() > deadline:
            return waiting
        await asyncio.sleep(0.1)
