"""Agents of every sort at once: quick and long calls, parked ones, some that fall back, are limited or cancelled."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

from paymaster_process import Site, until
from temporalio.client import WorkflowFailureError
from temporalio.service import RPCError

from paymaster import LLMRequest, LLMResult
from paymaster.client import start

ENDED_WITHIN_S = 180.0
"""The last calls after the agents stop asking: a window of a minute, a lost task and a hold's timeouts."""
LONG_PROMPT = "tides " * 30_000
"""180 KB."""
METADATA = {f"key-{number}": "value " * 100 for number in range(20)}
"""12 KB."""

Ask = Callable[[int], LLMRequest]
"""The request of this number."""


def _plain(number: int) -> LLMRequest:
    return LLMRequest(route="writer", budget=f"acme/plain/agent-{number % 7}", prompt=f"plain {number}")


def _long(number: int) -> LLMRequest:
    budget = "acme/plain/long"
    return LLMRequest(route="writer", budget=budget, prompt=f"{LONG_PROMPT} {number}", metadata=METADATA)


def _careful(number: int) -> LLMRequest:
    return LLMRequest(route="careful", budget="acme/careful", prompt=f"careful {number}", priority=number % 3)


def _limited(number: int) -> LLMRequest:
    return LLMRequest(route="limited", budget="acme/limited", prompt=f"limited {number}")


def _by_the_minute(number: int) -> LLMRequest:
    return LLMRequest(route="writer", budget="acme/minute", prompt=f"by the minute {number}")


def _raised(number: int) -> LLMRequest:
    return LLMRequest(route="writer", budget="acme/raised", prompt=f"raised {number}")


AGENTS: dict[Ask, int] = {_plain: 6, _long: 1, _careful: 4, _limited: 4, _by_the_minute: 3, _raised: 3}
"""How many of each sort."""


class MixedLoad:
    """What the agents got so far, by outcome and reason."""

    def __init__(self) -> None:
        self.outcomes = Counter[str]()
        self.open: set[str] = set()

    def __len__(self) -> int:
        return sum(self.outcomes.values())


@asynccontextmanager
async def mixed_load(site: Site, load: MixedLoad, chance: random.Random) -> AsyncGenerator[None]:
    """Agents ask for as long as the block runs. Afterwards every call has ended."""
    stopping = asyncio.Event()
    numbers = itertools.count(len(load))

    async def ask_on(ask: Ask) -> None:
        while not stopping.is_set():
            number = next(numbers)
            request = ask(number).model_copy(update={"call_id": f"soak-{number}-{chance.getrandbits(32):08x}"})
            assert request.call_id is not None
            load.open.add(request.call_id)
            load.outcomes[await _answer(site, request, cancel=chance.random() < 0.02)] += 1
            load.open.remove(request.call_id)

    async with asyncio.TaskGroup() as group:
        agents = [group.create_task(ask_on(ask)) for ask, count in AGENTS.items() for _ in range(count)]
        try:
            yield
        finally:
            stopping.set()
        await until(lambda: all(agent.done() for agent in agents), "every call has ended", ENDED_WITHIN_S)


async def _answer(site: Site, request: LLMRequest, *, cancel: bool) -> str:
    """How the call ended; asks again under the same call id while Temporal is away."""
    while True:
        with suppress(RPCError):
            call = await start(site.client, request)
            if cancel:
                await call.cancel()
            try:
                return _told(await call.result())
            except WorkflowFailureError as error:
                return type(error.cause).__name__
        await asyncio.sleep(0.2)


def _told(result: LLMResult) -> str:
    return result.outcome.value if result.reason is None else f"{result.outcome.value}: {result.reason}"
