"""Calls through the gateway, against those of a client of Temporal, and against another gateway by its address."""

import json
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import httpx2

from benchmarks.calls import AT_ONCE
from benchmarks.figures import Figure, percentile
from benchmarks.paired import paired
from benchmarks.resources import cpu_seconds
from benchmarks.site import PROMPT, ROOT, Site, said_by
from benchmarks.wire_calls import wire
from paymaster.devstack import GuardedProcess

Ask = Callable[[Site], Awaitable[None]]


class Address(NamedTuple):
    """What speaks OpenAI's API somewhere."""

    url: str
    """Up to `/v1`."""
    key: str
    model: str


async def cost_of_the_gateway(site: Site, *, pairs: int = 9, calls: int = 200) -> list[Figure]:
    """50 at once, not streamed: calls a second through the gateway, and as many wire calls of a client, in turns."""
    async with running_gateway(site) as (process, ours), _asking(ours) as ask:
        before = cpu_seconds(process)
        taken = await paired(site, ask, wire, time.perf_counter, pairs, calls)
        needed_ms = 1_000 * (cpu_seconds(process) - before) / ((pairs + 1) * calls)
    return [
        *_compared(taken, "without it", 0.85),
        Figure("processor time of the gateway for a call", needed_ms, "ms"),
    ]


async def against_another(site: Site, *, other: Address, pairs: int = 9, calls: int = 200) -> list[Figure]:
    """Calls a second through our gateway, and through another one, which has a provider like ours
    (`python -m benchmarks.provider`) behind it, in turns; and how long one takes."""
    times: dict[str, list[float]] = {"ours": [], "the other": []}
    async with running_gateway(site) as (_, ours), _asking(ours) as ask, _asking(other) as ask_other:
        timed, timed_other = _timed(ask, times["ours"]), _timed(ask_other, times["the other"])
        taken = await paired(site, timed, timed_other, time.perf_counter, pairs, calls)
    return [
        *_compared(taken, "the other", None),
        *(
            Figure(f"one of 50 at once through {name}, p{part:.0f}", percentile(each, part / 100), "ms")
            for name, each in times.items()
            for part in (50.0, 99.0)
        ),
    ]


def _compared(taken: list[tuple[float, float]], theirs: str, reach: float | None) -> list[Figure]:
    """`taken`: seconds for each call, of both."""
    ratios = sorted(other / ours for ours, other in taken)
    detail = f"{len(taken)} pairs: {', '.join(f'{other / ours:.2f}' for ours, other in taken)}"
    best = {"through the gateway": min(ours for ours, _ in taken), theirs: min(other for _, other in taken)}
    bound = None if reach is None else ("≥", reach)
    return [
        Figure(f"calls through the gateway / {theirs}, 50 at once", percentile(ratios, 0.5), "", bound, detail),
        *(
            Figure(f"calls {name}, 50 at once", 1 / each, "a second", None, "the best round")
            for name, each in best.items()
        ),
    ]


def _timed(ask: Ask, taken_ms: list[float]) -> Ask:
    async def timed(site: Site) -> None:
        began = time.perf_counter()
        await ask(site)
        taken_ms.append((time.perf_counter() - began) * 1_000)

    return timed


@asynccontextmanager
async def _asking(where: Address) -> AsyncGenerator[Ask]:
    """A call of a model there, over connections that are kept."""
    body = json.dumps({"model": where.model, "messages": [{"role": "user", "content": PROMPT}]}).encode()
    headers = {"authorization": f"Bearer {where.key}", "content-type": "application/json"}
    limits = httpx2.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
    async with httpx2.AsyncClient(limits=limits, headers=headers, timeout=120, trust_env=False) as client:

        async def ask(site: Site) -> None:
            response = await client.post(f"{where.url}/chat/completions", content=body)
            assert response.status_code == 200, response.text

        yield ask


@asynccontextmanager
async def running_gateway(site: Site) -> AsyncGenerator[tuple[GuardedProcess, Address]]:
    """`paymaster serve`, for anybody on this machine, and where it listens."""
    command = [sys.executable, "-m", "paymaster", "serve", "--address", "127.0.0.1:0", "--budget", "bench/agent"]
    log_file = site.folder / "gateway.log"
    async with GuardedProcess(command, env=site.environment, cwd=ROOT, log_file=log_file) as process:
        said = await said_by(process, "Gateway ")
        yield process, Address(f"{said.split()[1]}/v1", "-", "now")
