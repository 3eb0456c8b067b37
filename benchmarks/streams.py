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
"""From the provider to the caller, each token."""
HOLDS_P99_MS = 100.0
"""So many streams hold: their tokens do not come later than that."""
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
    first_ms: Sequence[float]
    """Of the first one of each stream."""
    missing: int
    """Tokens that did not come."""
    processor: dict[str, float]
    """Seconds, by process."""
    memory: dict[str, tuple[float, float]]
    """MiB, by process: when all streams had begun, and when the first ended."""


async def latency(
    site: Site, *, streams: int = 200, a_second: float = 4, tokens: int = 1_200, every_ms: int = 50
) -> list[Figure]:
    """Streams through one gateway and one worker, begun one after the other."""
    async with running_gateway(site) as gateway:
        await _round(site, gateway, 2, 10, 20, every_ms)
        found = await _round(site, gateway, streams, a_second, tokens, every_ms)
    return [*_figures(found, f"{streams} streams, a token every {every_ms} ms"), *_costs(found, streams * tokens)]


async def how_many_hold(
    site: Site, *, every_ms: int = 20, steps: Sequence[int] = (40, 80, 120, 160, 200), tokens: int = 1_000
) -> list[Figure]:
    """With quicker tokens: the largest number of streams at once whose tokens are not late."""
    figures: list[Figure] = []
    holding = 0
    async with running_gateway(site) as gateway:
        await _round(site, gateway, 2, 10, 20, every_ms)
        for streams in steps:
            found = await _round(site, gateway, streams, 10, tokens, every_ms)
            figures += _figures(found, f"{streams} streams, a token every {every_ms} ms")[:1]
            if percentile(found.late_ms, 0.99) > HOLDS_P99_MS or found.missing:
                break
            holding = streams
    return [Figure(f"streams that hold a token every {every_ms} ms", holding, "", None), *figures]


def _figures(found: _Round, what: str) -> list[Figure]:
    return [
        Figure(f"{what}: {which}, {part:.0%}", percentile(late, part), "ms", ("≤", bound), f"{len(late):,} tokens")
        for which, late in (("each token", found.late_ms), ("the first token", found.first_ms))
        for part, bound in ((0.5, P50_MS), (0.99, P99_MS))
    ]


def _costs(found: _Round, tokens: int) -> list[Figure]:
    figures = [Figure("tokens that did not come", found.missing, "", ("≤", 0))]
    for name, seconds in found.processor.items():
        figures.append(Figure(f"processor of the {name} for a token", seconds / tokens * 1e6, "µs"))
    for name, (before, after) in found.memory.items():
        detail = f"{before:.0f} MiB with all streams begun, {after:.0f} MiB when the first ended"
        figures.append(Figure(f"memory of the {name}, late / early", after / before, "", ("≤", 1.1), detail))
    return figures


async def _round(site: Site, gateway: _Gateway, streams: int, a_second: float, tokens: int, every_ms: int) -> _Round:
    process, where = gateway
    port = urlsplit(where.url).port or 80
    processes = {"worker": site.worker.pid, "gateway": process.pid, "provider": site.provider.pid}
    began = {name: cpu_seconds(pid) for name, pid in processes.items()}
    loop = asyncio.get_running_loop()
    callers: list[_Caller] = []
    for number in range(streams):
        caller = _Caller(_request(tokens, every_ms, number), loop.create_future())
        await loop.create_connection(lambda caller=caller: caller, "127.0.0.1", port)
        callers.append(caller)
        await asyncio.sleep(1 / a_second)
    early = {name: memory_mib(pid) for name, pid in processes.items()}
    await callers[0].ended
    late = {name: memory_mib(pid) for name, pid in processes.items()}
    await asyncio.gather(*(caller.ended for caller in callers))
    late_ms = [each for caller in callers for each in caller.late_ms]
    return _Round(
        late_ms or [0.0],
        [caller.late_ms[0] for caller in callers if caller.late_ms] or [0.0],
        streams * tokens - len(late_ms),
        {name: cpu_seconds(pid) - began[name] for name, pid in processes.items()},
        {name: (early[name], late[name]) for name in ("worker", "gateway")},
    )


def _request(tokens: int, every_ms: int, number: int) -> bytes:
    messages = [{"role": "user", "content": f"{number}: {PROMPT}"}]
    asked = {"model": "tokens", "stream": True, "max_tokens": tokens, "seed": every_ms, "messages": messages}
    body = json.dumps(asked).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body
