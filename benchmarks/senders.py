"""Many processes that ask one ledger at once, without the calls, workflows and services around it.

Each sender is what a worker process has of the ledger: a connection of its own, group commit, and its turn.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from temporalio.client import Client

from benchmarks.figures import Figure, percentile
from benchmarks.site import Site, ledger_of_its_own
from paymaster.ledger.commits import client_of_commits, ledger_commits
from paymaster.ledger.group_commit import GroupCommit
from paymaster.ledger.handle import Ledger
from paymaster.messages import (
    AccountConfig,
    Answer,
    CallRef,
    Candidate,
    Command,
    DeskConfig,
    Granted,
    Reserve,
    ServiceConfig,
    Settle,
    Settled,
)
from paymaster.plugin import PaymasterPlugin
from paymaster.values.money import Price

BOUND_NANOS = 2_000
"""Of each hold."""
PLENTY, CAPPED = "plenty", "capped"
"""Budgets."""
_PRICE = Price(input_nanos=0, output_nanos=1_000_000_000, source="bench")
_NUMBERS = count(1)


def config_of(capped_holds: int) -> DeskConfig:
    """One budget without an end, and one for so many holds."""
    caps = {PLENTY: 10**18, CAPPED: capped_holds * BOUND_NANOS}
    budgets = {name: AccountConfig(caps_nanos={"total": nanos}) for name, nanos in caps.items()}
    return DeskConfig(digest="senders", budgets=budgets, services={"s": ServiceConfig()})


def reserve_of(budget: str) -> Reserve:
    """It holds BOUND_NANOS."""
    now_ms, hold_id = time.time_ns() // 1_000_000, f"senders/{next(_NUMBERS)}"
    return Reserve(
        hold_id=hold_id,
        call=CallRef(workflow_id=f"call/{hold_id}", run_id=hold_id),
        budget=budget,
        candidates=(Candidate(service="s", model="m", max_output_tokens=2, price=_PRICE),),
        input_bytes=0,
        on_exhausted="wait",
        deadline_at_ms=now_ms + 3_600_000,
        asked_at_ms=now_ms,
    )


@dataclass
class Sender:
    """One process, and what its calls got."""

    commits: GroupCommit[Command, Answer]
    waits_s: list[float] = field(default_factory=list[float])
    """How long each reservation waited for its answer."""
    held_nanos: int = 0
    """Of the capped budget."""

    async def reserve(self, budget: str) -> Granted | None:
        began_s = time.perf_counter()
        answer = await self.commits.submit(reserve_of(budget))
        self.waits_s.append(time.perf_counter() - began_s)
        return answer if isinstance(answer, Granted) else None

    async def call_until(self, end_s: float) -> None:
        """Holds and settles, one after the other."""
        while time.perf_counter() < end_s:
            granted = await self.reserve(PLENTY)
            assert granted is not None
            settled = await self.commits.submit(Settle(hold_id=granted.grant.hold_id, cost_nanos=1))
            assert isinstance(settled, Settled), settled

    async def hold(self, times: int) -> None:
        """Asks at once for so many holds on the capped budget, and keeps what it gets."""
        answers = await asyncio.gather(*(self.reserve(CAPPED) for _ in range(times)))
        self.held_nanos += sum(answer.grant.bound_nanos for answer in answers if answer is not None)


async def senders_of(address: str, namespace: str, ledger: str, config: DeskConfig, number: int) -> list[Sender]:
    """So many, for a ledger that runs."""
    client = await Client.connect(address, namespace=namespace, plugins=[PaymasterPlugin()])
    clients = await asyncio.gather(*(client_of_commits(client) for _ in range(number)))
    return [Sender(ledger_commits(Ledger(client, ledger), config)) for client in clients]


async def until_granted(sender: Sender) -> None:
    """A ledger reads first what was spent before."""
    first = reserve_of(PLENTY)
    while True:
        if isinstance(await sender.commits.submit(first), Granted):
            return
        await asyncio.sleep(0.05)


async def call_for(senders: Sequence[Sender], seconds: float, *, calls: int) -> list[float]:
    """How long each reservation waited, in order, where each sender has so many calls at once."""
    for sender in senders:
        sender.waits_s.clear()
    end_s = time.perf_counter() + seconds
    await asyncio.gather(*(sender.call_until(end_s) for sender in senders for _ in range(calls)))
    return sorted(wait_s for sender in senders for wait_s in sender.waits_s)


async def many(
    site: Site, *, number: int = 64, calls: int = 64, seconds: float = 20.0, capped_holds: int = 2_000
) -> list[Figure]:
    """Reservations a second and how long they wait, and whether a cap is exact that all want to have at once."""
    config, address = config_of(capped_holds), site.client.service_client.config.target_host
    async with ledger_of_its_own(site) as ledger:
        await ledger.configure(config)
        senders = await senders_of(address, site.client.namespace, ledger.name, config, number)
        await until_granted(senders[0])
        await call_for(senders, 3.0, calls=calls)  # so that the ledger has heard of all of them
        waits_s = await call_for(senders, seconds, calls=calls)
        each = 2 * capped_holds // number + 1
        await asyncio.gather(*(sender.hold(each) for sender in senders))
    held = sum(sender.held_nanos for sender in senders) // BOUND_NANOS
    spread = f"p50 {percentile(waits_s, 0.5):.2f} s, longest {waits_s[-1]:.2f} s"
    asked = f"{number * each:,} asked for {capped_holds:,} holds, all were answered"
    return [
        Figure(f"reservations of {number} senders", len(waits_s) / seconds, "a second", ("≥", 2_000)),
        Figure(
            f"how long the ledger lets {number} senders wait, p99", percentile(waits_s, 0.99), "s", ("≤", 1.0), spread
        ),
        Figure(f"holds of {number} senders above their cap, or left", abs(held - capped_holds), "", ("≤", 0), asked),
    ]
