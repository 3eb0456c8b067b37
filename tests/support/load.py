"""Agents that ask all the time, so that whatever happens happens to calls in every state."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from paymaster_process import Site, until
from temporalio.service import RPCError

from paymaster import LLMRequest, LLMResult, Outcome
from paymaster.client import try_generate

LAST_ANSWER_WITHIN_S = 120.0
"""After the block. It takes a retry, a task and a hold that ran into their timeouts, but no parking without an end."""
_NUMBERS = itertools.count(1)


class Load:
    """What the agents got so far."""

    def __init__(self) -> None:
        self.results: list[LLMResult] = []
        self.ended_at_s: list[float] = []
        """When each of them came, on the monotonic clock."""

        self.open: set[str] = set()
        """Calls that have not ended."""

    @property
    def longest_pause_s(self) -> float:
        """In which no call ended at all."""
        return max((later - earlier for earlier, later in itertools.pairwise(self.ended_at_s)), default=0.0)

    async def answers(self, count: int, deadline_s: float = 60.0) -> None:
        """Waits until so many more calls have ended."""
        before = len(self.results)
        await until(lambda: len(self.results) >= before + count, f"{count} more calls have ended", deadline_s)


async def _answer(site: Site, request: LLMRequest) -> LLMResult:
    """Asks again under the same call id while Temporal is away."""
    while True:
        try:
            return await try_generate(site.client, request)
        except RPCError:
            await asyncio.sleep(0.2)


@asynccontextmanager
async def asking(site: Site, agents: int = 8) -> AsyncGenerator[Load]:
    """Each agent asks one thing after the other for as long as the block runs. Afterwards every call was answered."""
    load = Load()
    stopping = asyncio.Event()

    async def ask_on(agent: int) -> None:
        while not stopping.is_set():
            prompt = f"question {next(_NUMBERS):06}"
            request = LLMRequest(route="writer", budget=f"acme/agent-{agent}", prompt=prompt, call_id=prompt)
            load.open.add(prompt)
            load.results.append(await _answer(site, request))
            load.open.remove(prompt)
            load.ended_at_s.append(time.monotonic())

    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(ask_on(agent)) for agent in range(agents)]
        try:
            yield load
        finally:
            stopping.set()
        await asyncio.wait(asking, timeout=LAST_ANSWER_WITHIN_S)
        assert not load.open, "calls that nobody answers"
    outcomes = Counter((result.outcome, result.reason) for result in load.results)
    assert outcomes == {(Outcome.COMPLETED, None): len(load.results)}
