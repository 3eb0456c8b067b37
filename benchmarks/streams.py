"""Streams through the gateway: how long a token is on its way from the provider to the caller, and what that takes."""

import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

from benchmarks.figures import Figure, percentile
from benchmarks.gateway import Address, running_gateway
from benchmarks.resources import cpu_seconds, memory_mib
from benchmarks.site import PROMPT, Site
from paymaster.devstack import GuardedProcess

P50_MS, P99_MS = 20.0, 100.0
"""From the provider to the caller, each token. So many streams hold: their tokens do not come later than that."""
_NEXT_TO = 20
"""How exactly the number of streams that hold is said."""
_TOKEN = re.compile(rb'"content": "(\d+)"')
_END = b"0\r\n\r\n"


@dataclass
class _Caller(asyncio.Protocol):
    """Reads one stream."""

    request: bytes
    ended: asyncio.Future[None]
    late_ms: list[float] = field(default_factory=list[float])
    """Of each token."""
    _rest: bytes = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self._rest += data
        at = 0
        for found in _TOKEN.finditer(self._rest):
            self.late_ms.append((now - int(found[1])) / 1e6)
            at = found.end()
        self._rest = self._rest[at:]
        if self._rest.endswith(_END):
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


_Gateway = tuple[GuardedProcess, Address]


class _Round(NamedTuple):
    """What a number of streams took."""

    late_ms: Sequence[float]
    """Of all tokens."""
    late_together_ms: Sequence[float]
    """Of those that came while all streams lasted."""
    first_ms: Sequence[float]
    """Of the first one of each stream."""
    missing: int
    """Tokens that did not come."""
    processor_us: dict[str, float]
    """For a token, by process, while all streams lasted."""
    memory: dict[str, tuple[float, ...]]
    """MiB, by process: before any stream, when all had begun, when the first ended, and when all had."""

    @property
    def holds(self) -> bool:
        late = self.late_together_ms
        return not self.missing and percentile(late, 0.5) <= P50_MS and percentile(late, 0.99) <= P99_MS


async def latency(
    site: Site, *, streams: int = 200, a_second: float = 4, tokens: int = 1_200, every_ms: int = 50
) -> list[Figure]:
    """Streams through one gateway and one worker, begun one after the other."""
    async with running_gateway(site) as gateway:
        await _round(site, gateway, 2, 10, 20, every_ms)
        found = await _round(site, gateway, streams, a_second, tokens, every_ms)
    what = f"{streams} streams, a token every {every_ms} ms"
    return [
        *_figures("each token", found.late_ms, what),
        *_figures("the first token", found.first_ms, what),
        *_costs(found),
    ]


async def how_many_hold(
    site: Site, *, every_ms: int = 20, at_most: int = 400, a_second: float = 10, together_s: float = 10
) -> list[Figure]:
    """With quicker tokens: the largest number of streams at once whose tokens are not late, found by halving.

    Those that count come while all streams of a round last, which is `together_s`.
    """
    figures: list[Figure] = []
    holding, failing = 0, at_most + _NEXT_TO
    async with running_gateway(site) as gateway:
        await _round(site, gateway, 2, 10, 20, every_ms)
        while failing - holding > _NEXT_TO:
            streams = (holding + failing) // 2 // _NEXT_TO * _NEXT_TO
            tokens = int((streams / a_second + together_s) * 1_000 / every_ms)
            found = await _round(site, gateway, streams, a_second, tokens, every_ms)
            holding, failing = (streams, failing) if found.holds else (holding, streams)
            what = f"{streams} streams, a token every {every_ms} ms"
            figures += [*_figures("each token", found.late_together_ms, what), *_costs(found)]
    return [Figure(f"streams that hold a token every {every_ms} ms", holding, "", None), *figures]


def _figures(which: str, late_ms: Sequence[float], what: str) -> list[Figure]:
    return [
        Figure(
            f"{what}: {which}, p{part * 100:.0f}",
            percentile(late_ms, part),
            "ms",
            ("≤", bound),
            f"{len(late_ms):,} tokens",
        )
        for part, bound in ((0.5, P50_MS), (0.99, P99_MS))
    ]


def _costs(found: _Round) -> list[Figure]:
    figures = [Figure("tokens that did not come", found.missing, "", ("≤", 0))]
    for name, micros in found.processor_us.items():
        figures.append(Figure(f"processor of the {name} for a token", micros, "µs"))
    for name, (before, begun, ending, after) in found.memory.items():
        detail = (
            f"MiB: {before:.0f} before, {begun:.0f} with all begun, {ending:.0f} at the first end, {after:.0f} after"
        )
        figures.append(Figure(f"memory of the {name}, late / early", ending / begun, "", ("≤", 1.1), detail))
    return figures


async def _round(site: Site, gateway: _Gateway, streams: int, a_second: float, tokens: int, every_ms: int) -> _Round:
    process, where = gateway
    port = urlsplit(where.url).port or 80
    processes = {"worker": site.worker.pid, "gateway": process.pid, "provider": site.provider.pid}

    def memory() -> dict[str, float]:
        return {name: memory_mib(processes[name]) for name in ("worker", "gateway")}

    def processor() -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in processes.items()}

    loop = asyncio.get_running_loop()
    callers: list[_Caller] = []
    memories = [memory()]
    for number in range(streams):
        caller = _Caller(_request(tokens, every_ms, number), loop.create_future())
        await loop.create_connection(lambda caller=caller: caller, "127.0.0.1", port)
        callers.append(caller)
        await asyncio.sleep(1 / a_second)
    memories.append(memory())
    used, seen = processor(), [len(caller.late_ms) for caller in callers]
    await asyncio.wait([caller.ended for caller in callers], return_when=asyncio.FIRST_COMPLETED)
    memories.append(memory())
    together = [each for caller, before in zip(callers, seen, strict=True) for each in caller.late_ms[before:]]
    processor_us = {name: (now - used[name]) / max(1, len(together)) * 1e6 for name, now in processor().items()}
    await asyncio.gather(*(caller.ended for caller in callers))
    memories.append(memory())
    late_ms = [each for caller in callers for each in caller.late_ms]
    return _Round(
        late_ms or [0.0],
        together or [0.0],
        [caller.late_ms[0] for caller in callers if caller.late_ms] or [0.0],
        streams * tokens - len(late_ms),
        processor_us,
        {name: tuple(each[name] for each in memories) for name in ("worker", "gateway")},
    )


def _request(tokens: int, every_ms: int, number: int) -> bytes:
    messages = [{"role": "user", "content": f"{number}: {PROMPT}"}]
    asked = {"model": "tokens", "stream": True, "max_tokens": tokens, "seed": every_ms, "messages": messages}
    body = json.dumps(asked).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body
