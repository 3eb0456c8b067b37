"""Many processes that ask one ledger at once, without the calls, workflows and services around it.

Each sender is what a worker process has of the ledger: a connection of its own, group commit, and its turn.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from uuid import uuid4

from temporalio.client import Client

from benchmarks.figures import Figure, percentile
from benchmarks.resources import cpu_seconds
from benchmarks.site import Site, ledger_of_its_own
from paymaster.devstack import GuardedProcess
from paymaster.ledger.commits import client_of_commits, ledger_commits
from paymaster.ledger.group_commit import GroupCommit
from paymaster.ledger.handle import Ledger
from paymaster.messages import (
    AccountConfig,
    Answer,
    AnswerBatch,
    CallRef,
    Candidate,
    Command,
    DeskConfig,
    Ended,
    Granted,
    Reserve,
    ServiceConfig,
    Settle,
    Settled,
)
from paymaster.plugin import PaymasterPlugin
from paymaster.values.collection import no_collection
from paymaster.values.money import Price

BOUND_NANOS = 2_000
"""Of each hold."""
PLENTY, CAPPED = "plenty", "capped"
"""Budgets."""
_PRICE = Price(input_nanos=0, output_nanos=1_000_000_000, source="bench")
SERVICE_TAKES_S = 2.0
"""Seconds from the hold to the settlement of a call that begins at its time."""
_BEGIN_WITHIN_S = 2.0
_WARM_S = 8.0
"""Until the ledger has heard of all of them, and knows how far apart they should come."""


def config_of(capped_holds: int) -> DeskConfig:
    """One budget without an end, and one for so many holds."""
    caps = {PLENTY: 10**18, CAPPED: capped_holds * BOUND_NANOS}
    budgets = {name: AccountConfig(caps_nanos={"total": nanos}) for name, nanos in caps.items()}
    return DeskConfig(digest="senders", budgets=budgets, services={"s": ServiceConfig()})


def reserve_of(budget: str) -> Reserve:
    """It holds BOUND_NANOS."""
    now_ms, run_id = time.time_ns() // 1_000_000, str(uuid4())
    return Reserve(
        hold_id=f"{run_id}/1",
        call=CallRef(workflow_id=f"call/{uuid4()}", run_id=run_id),
        budget=budget,
        candidates=(Candidate(service="s", model="m", max_output_tokens=2, price=_PRICE),),
        input_bytes=0,
        on_exhausted="wait",
        deadline_at_ms=now_ms + 3_600_000,
        asked_at_ms=now_ms,
    )


@dataclass
class Updates:
    """Those of all senders."""

    took_s: list[float] = field(default_factory=list[float])
    """Each that was answered."""
    commands: int = 0
    failed: int = 0
    """Refused because ten were in flight, or aborted by such a refusal or a new run: all were sent again."""
    in_flight: int = 0
    most_in_flight: int = 0

    def clear(self) -> None:
        self.took_s.clear()
        self.commands = self.failed = self.most_in_flight = 0


class CountedLedger(Ledger):
    """The ledger, which counts the updates that it is sent."""

    def __init__(self, client: Client, name: str, updates: Updates) -> None:
        super().__init__(client, name)
        self._updates = updates

    async def apply(
        self,
        commands: Sequence[Command],
        config: DeskConfig,
        *,
        who: str = "",
        sender: str = "",
        was_refused: bool = False,
    ) -> AnswerBatch:
        began_s = time.perf_counter()
        self._updates.in_flight += 1
        self._updates.most_in_flight = max(self._updates.most_in_flight, self._updates.in_flight)
        try:
            answers = await super().apply(commands, config, who=who, sender=sender, was_refused=was_refused)
        except Exception:
            self._updates.failed += 1
            raise
        finally:
            self._updates.in_flight -= 1
        self._updates.took_s.append(time.perf_counter() - began_s)
        self._updates.commands += len(commands)
        return answers


@dataclass
class Sender:
    """One process, and what its calls got."""

    commits: GroupCommit[Command, Answer]
    waits_s: list[float] = field(default_factory=list[float])
    """How long each reservation waited for its answer."""
    held_nanos: int = 0
    """Of the capped budget."""
    not_granted: int = 0
    """Reservations of the other one that were answered without a hold."""

    async def reserve(self, budget: str) -> Granted | None:
        began_s = time.perf_counter()
        answer = await self.commits.submit(reserve_of(budget))
        self.waits_s.append(time.perf_counter() - began_s)
        return answer if isinstance(answer, Granted) else None

    async def call(self, lasts_s: float = 0.0) -> None:
        """Holds, does nothing for as long as its service would take, and settles.

        A question that has waited for longer than the ledger remembers is answered without a hold; a call asks again.
        """
        granted = await self.reserve(PLENTY)
        if granted is None:
            self.not_granted += 1
            return
        await asyncio.sleep(lasts_s)
        settled = await self.commits.submit(Settle(hold_id=granted.grant.hold_id, cost_nanos=1))
        assert isinstance(settled, Settled), settled

    async def call_until(self, over: asyncio.Event) -> None:
        """One call after the other."""
        while not over.is_set():
            await self.call()

    async def begin_calls_until(self, over: asyncio.Event, every_s: float) -> None:
        """Begins a call at each such time, whether or not those before have been answered."""
        begins_s = time.perf_counter()
        async with asyncio.TaskGroup() as calls:
            while not over.is_set():
                calls.create_task(self.call(SERVICE_TAKES_S))
                begins_s += every_s
                await asyncio.sleep(begins_s - time.perf_counter())

    async def hold(self, times: int) -> None:
        """Asks at once for so many holds on the capped budget, and keeps what it gets."""
        answers = await asyncio.gather(*(self.reserve(CAPPED) for _ in range(times)))
        self.held_nanos += sum(answer.grant.bound_nanos for answer in answers if answer is not None)


async def senders_of(
    address: str, namespace: str, ledger: str, config: DeskConfig, number: int, updates: Updates | None = None
) -> list[Sender]:
    """So many, for a ledger that runs. `updates` counts theirs."""
    counted = updates or Updates()
    client = await Client.connect(address, namespace=namespace, plugins=[PaymasterPlugin()])
    clients = await asyncio.gather(*(client_of_commits(client) for _ in range(number)))
    return [Sender(ledger_commits(CountedLedger(client, ledger, counted), config)) for client in clients]


async def until_granted(sender: Sender) -> None:
    """A ledger reads first what was spent before. It takes the hold back where no workflow is there for the answer."""
    first = reserve_of(PLENTY)
    while True:
        if isinstance(await sender.commits.submit(first), Granted | Ended):
            return
        await asyncio.sleep(0.05)


@asynccontextmanager
async def calling(senders: Sequence[Sender], calls: int) -> AsyncGenerator[None]:
    """Each has so many calls at once, while the block runs."""

    async def call(sender: Sender, over: asyncio.Event) -> None:
        await asyncio.gather(*(sender.call_until(over) for _ in range(calls)))

    async with _all_doing(senders, call):
        yield


@asynccontextmanager
async def beginning_calls(senders: Sequence[Sender], a_second: float) -> AsyncGenerator[None]:
    """So many calls begin a second, evenly over all, while the block runs."""

    async def call(sender: Sender, over: asyncio.Event) -> None:
        await sender.begin_calls_until(over, len(senders) / a_second)

    async with _all_doing(senders, call):
        yield


@asynccontextmanager
async def _all_doing(
    senders: Sequence[Sender], work: Callable[[Sender, asyncio.Event], Awaitable[None]]
) -> AsyncGenerator[None]:
    """They begin one after the other, as processes do, and end after the block."""
    over = asyncio.Event()

    async def begin(sender: Sender, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await work(sender, over)

    async with asyncio.TaskGroup() as group:
        for number, sender in enumerate(senders):
            group.create_task(begin(sender, number * _BEGIN_WITHIN_S / len(senders)))
        yield
        over.set()


def waits_of(senders: Sequence[Sender]) -> list[float]:
    """How long each reservation waited, in order."""
    return sorted(wait_s for sender in senders for wait_s in sender.waits_s)


async def many(
    site: Site, *, number: int = 64, a_second: float = 2_100.0, seconds: float = 20.0, capped_holds: int = 2_000
) -> list[Figure]:
    """How long reservations wait where so many calls begin a second, evenly over all senders, and are settled after
    SERVICE_TAKES_S, and whether a cap is exact that all want to have at once."""
    return await _measured(site, partial(beginning_calls, a_second=a_second), number, seconds, capped_holds)


async def busy(
    site: Site, *, number: int = 64, calls: int = 32, seconds: float = 20.0, capped_holds: int = 2_000
) -> list[Figure]:
    """What they get where each sender has so many calls at once that do nothing but hold and settle.

    So the one figure follows from the other: reservations a second are all calls at once, divided by the time that one
    waits for its hold and its settlement.
    """
    return await _measured(site, partial(calling, calls=calls), number, seconds, capped_holds)


async def _measured(
    site: Site,
    load: Callable[[Sequence[Sender]], AbstractAsyncContextManager[None]],
    number: int,
    seconds: float,
    capped_holds: int,
) -> list[Figure]:
    config, address = config_of(capped_holds), site.client.service_client.config.target_host
    async with ledger_of_its_own(site) as (ledger, worker):
        await ledger.configure(config)
        updates = Updates()
        senders = await senders_of(address, site.client.namespace, ledger.name, config, number, updates)
        await until_granted(senders[0])
        # They are in one process here, which a search for its garbage would stop, and so all of them at once.
        with no_collection():
            async with load(senders):
                await asyncio.sleep(_WARM_S)
                updates.clear()
                for sender in senders:
                    sender.waits_s.clear()
                used_s = _processor_seconds(site, worker)
                await asyncio.sleep(seconds)
                waits_s = waits_of(senders)
                used_s = {part: after_s - used_s[part] for part, after_s in _processor_seconds(site, worker).items()}
                costs = _costs(updates, used_s, seconds)
        each = 2 * capped_holds // number + 1
        await asyncio.gather(*(sender.hold(each) for sender in senders))
    not_granted = sum(sender.not_granted for sender in senders)
    held = sum(sender.held_nanos for sender in senders) // BOUND_NANOS
    spread = f"p50 {percentile(waits_s, 0.5):.2f} s, longest {waits_s[-1]:.2f} s"
    asked = f"{number * each:,} asked for {capped_holds:,} holds, all were answered"
    return [
        Figure(f"reservations of {number} senders", len(waits_s) / seconds, "a second", ("≥", 2_000)),
        Figure(
            f"how long the ledger lets {number} senders wait, p99", percentile(waits_s, 0.99), "s", ("≤", 1.0), spread
        ),
        Figure(f"holds of {number} senders above their cap, or left", abs(held - capped_holds), "", ("≤", 0), asked),
        Figure("reservations that were answered without a hold", not_granted, "", ("≤", 0)),
        *costs,
    ]


def _processor_seconds(site: Site, worker: GuardedProcess) -> dict[str, float]:
    """What each part has used until now."""
    return {
        "Temporal": cpu_seconds(site.stack.temporal.process),
        "the ledger's worker": cpu_seconds(worker),
        "the senders": time.process_time(),
    }


def _costs(updates: Updates, used_s: dict[str, float], seconds: float) -> list[Figure]:
    answered = len(updates.took_s)
    parts = ", ".join(f"{part} {1_000 * part_s / answered:.1f}" for part, part_s in used_s.items())
    took = f"an update took p50 {percentile(updates.took_s, 0.5):.3f} s, p99 {percentile(updates.took_s, 0.99):.3f} s"
    failed = "refused or aborted, and sent again"
    return [
        Figure("updates of all senders", answered / seconds, "a second", None, took),
        Figure("… that failed", updates.failed / seconds, "a second", None, failed),
        Figure("commands in an update", updates.commands / answered),
        Figure("processor time of an update", 1_000 * sum(used_s.values()) / answered, "ms", None, parts),
    ]
