"""Reservations through one budget workflow: many commands in one update, against a signal for each and one back."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import count
from uuid import uuid4

from benchmarks.compared import UNBUDGETED_TASK_QUEUE, Mailbox, SignalledLedger
from benchmarks.figures import Figure
from benchmarks.site import Site, ledger_of_its_own
from paymaster.ledger.commits import ledger_commits
from paymaster.ledger.group_commit import GroupCommit
from paymaster.messages import Answer, CallRef, Candidate, Command, Granted, LedgerStart, Reserve
from paymaster.settings import load_settings
from paymaster.settings.desk_config import desk_config
from paymaster.values.money import Price

_PRICE = Price(input_nanos=1_000, output_nanos=4_000, source="bench")


async def per_second(
    site: Site, *, reservations: int = 4_000, signals: int = 400, at_once: int = 400, rounds: int = 3
) -> list[Figure]:
    """Each round both ways, one after the other, with so many that wait for their answer at any time."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        ours.append(await _by_update(site, reservations, at_once))
        theirs.append(await _by_signal(site, signals, at_once))
    ratios = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
    spread = f"{rounds} pairs: {', '.join(f'{ratio:.0f}' for ratio in ratios)}"
    return [
        Figure("reservations by group commit / by a signal each", ratios[len(ratios) // 2], "", ("≥", 20), spread),
        Figure("reservations by group commit", max(ours), "a second", ("≥", 2_000), "the best round"),
        Figure("reservations by a signal each, and one back", max(theirs), "a second", None, "the best round"),
    ]


async def _by_update(site: Site, reservations: int, at_once: int) -> float:
    """Through the budget workflow of Paymaster's worker, a ledger of its own for each round."""
    config = desk_config(load_settings(site.config_file, environ={}))
    async with ledger_of_its_own(site) as (ledger, _):
        commits = ledger_commits(ledger, config)
        await _until_granted(commits)  # it reads first what was spent before

        async def reserve() -> None:
            answer = await commits.submit(_reserve("nobody"))
            assert isinstance(answer, Granted), answer

        return await _rate(reserve, reservations, at_once)


async def _until_granted(commits: GroupCommit[Command, Answer]) -> None:
    first = _reserve("nobody")
    while True:
        if isinstance(await commits.submit(first), Granted):
            return
        await asyncio.sleep(0.05)


async def _by_signal(site: Site, reservations: int, at_once: int) -> float:
    """Through a ledger that has the same desk. The answers of all go to one workflow, which counts them."""
    mailbox = await site.client.start_workflow(
        Mailbox.run, reservations, id=f"mailbox/{uuid4()}", task_queue=UNBUDGETED_TASK_QUEUE
    )
    start = LedgerStart(ledger="signalled", config=desk_config(load_settings(site.config_file, environ={})))
    ledger = await site.client.start_workflow(
        SignalledLedger.run, start, id=f"signalled/{uuid4()}", task_queue=UNBUDGETED_TASK_QUEUE
    )

    async def reserve() -> None:
        await ledger.signal(SignalledLedger.reserve, _reserve(mailbox.id))

    try:
        started = time.perf_counter()
        await _rate(reserve, reservations, at_once)
        await mailbox.result()
        return reservations / (time.perf_counter() - started)
    finally:
        await ledger.terminate()


async def _rate(reserve: Callable[[], Awaitable[None]], reservations: int, at_once: int) -> float:
    """Reservations a second, with so many always waiting."""
    waiting = iter(range(reservations))

    async def one_after_another() -> None:
        for _ in waiting:
            await reserve()

    started = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(at_once)))
    return reservations / (time.perf_counter() - started)


_NUMBERS = count(1)


def _reserve(answer_to: str) -> Reserve:
    now_ms = time.time_ns() // 1_000_000
    return Reserve(
        hold_id=f"bench-run/{next(_NUMBERS)}",
        call=CallRef(workflow_id=answer_to, run_id="bench-run"),
        budget="bench/agent",
        candidates=(Candidate(service="now", model="bench-model", max_output_tokens=400, price=_PRICE),),
        input_bytes=1_100,
        on_exhausted="wait",
        deadline_at_ms=now_ms + 86_400_000,
        asked_at_ms=now_ms,
    )
