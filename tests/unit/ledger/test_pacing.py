"""How long a process waits before its next update, and that any number of processes gets through with it."""

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from jumping_loop import now, run

from paymaster.admission.senders import EACH_MS, HANDOVER_MS, Senders
from paymaster.ledger.group_commit import Busy, GroupCommit
from paymaster.ledger.pacing import (
    BACK_OFF_MAX_S,
    BACK_OFF_S,
    JITTER,
    NAMED_MAX_S,
    SLOWER_MAX,
    TAKES_S,
    WARNED_EVERY_S,
    Pace,
    back_off_s,
    jittered,
    turn_s,
)
from paymaster.values.limits import TEMPORAL_UPDATES_IN_FLIGHT, UPDATES_PER_RUN

# ---------------------------------------------------------------- how long


def test_a_turn_is_what_the_ledger_named() -> None:
    assert turn_s(0.32, 0.004) == turn_s(0.32, TAKES_S) == 0.32
    assert turn_s(0.0, 10.0) == 0.0


def test_where_updates_take_longer_turns_do_too() -> None:
    """Within bounds: neither one slow update nor a ledger's mistake stops a process."""
    assert turn_s(0.32, 2 * TAKES_S) == pytest.approx(0.64)
    assert turn_s(0.32, 60.0) == pytest.approx(0.32 * SLOWER_MAX)
    assert turn_s(10**9, 0.0) == NAMED_MAX_S


def test_waits_differ_by_chance() -> None:
    assert jittered(1.0, lambda: 0.0) == pytest.approx(1 - JITTER)
    assert jittered(1.0, lambda: 0.5) == 1.0
    assert jittered(1.0, lambda: 1.0) == pytest.approx(1 + JITTER)


def test_pauses_after_failures_grow_up_to_a_second() -> None:
    pauses = [back_off_s(failures, lambda: 0.5) for failures in range(1, 2_000)]
    assert pauses[0] == BACK_OFF_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == BACK_OFF_MAX_S


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_process_rests_until_its_turn() -> None:
    clock = Clock()
    pace = Pace(clock, lambda: 0.5)
    assert pace.rest_s() == 0
    assert pace.answered(320, 0.01) == pytest.approx(0.32)
    assert pace.rest_s() == pytest.approx(0.32)
    clock.now_s += 0.3
    assert pace.rest_s() == pytest.approx(0.02)
    clock.now_s += 1
    assert pace.rest_s() == 0


def test_one_slow_update_alone_changes_nothing() -> None:
    """It met the end of a run, say. Three in a row are what an update takes now."""
    pace = Pace(Clock(), lambda: 0.5)
    pace.answered(100, TAKES_S)
    assert pace.answered(100, 1.0) == pace.answered(100, 1.0) == pytest.approx(0.1)
    assert pace.answered(100, 1.0) == pytest.approx(0.1 * SLOWER_MAX)


def test_processes_have_names_of_their_own() -> None:
    assert len({Pace().sender for _ in range(100)}) == 100


def test_a_long_wait_is_warned_of_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    pace = Pace(clock, lambda: 0.5)
    with caplog.at_level(logging.WARNING):
        pace.answered(900, 0.01)
        assert caplog.messages == []
        pace.answered(1_100, 0.01)
        pace.answered(1_200, 0.01)
        assert caplog.messages == [
            "updates to the ledger wait 1.1 s for their turn, and take 10 ms: many processes send, or Temporal is slow"
        ]
        clock.now_s += WARNED_EVERY_S
        pace.answered(1_200, 0.01)
    assert len(caplog.messages) == 2


# ---------------------------------------------------------------- many at once


@dataclass
class Temporal:
    """Takes ten updates at once and answers one after the other; its ledger begins anew, which takes a while."""

    update_takes_s: float = 0.003
    new_run_takes_s: float = 0.1
    senders: Senders = field(default_factory=Senders)
    in_flight: int = 0
    refused: int = 0
    aborted: int = 0
    updates: int = 0
    runs: int = 1
    begins_anew: bool = False
    line: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def update(self, sender: str) -> int:
        if self.in_flight >= TEMPORAL_UPDATES_IN_FLIGHT:
            self.refused += 1
            raise Busy("ten are in flight")
        if self.begins_anew:
            self.aborted += 1
            raise OSError("aborted")
        self.in_flight += 1
        try:
            async with self.line:
                await asyncio.sleep(self.update_takes_s)
                self.updates += 1
                named_ms = self.senders.heard(sender, int(now() * 1_000))
        finally:
            self.in_flight -= 1
        return named_ms

    async def run_anew_when_it_is_time(self) -> None:
        """What workflows/ledger_duties.py does at the end of a run."""
        while True:
            while not self.senders.sent_enough:
                await asyncio.sleep(0.001)
            told_by_s = now() + self.senders.tell_all(int(now() * 1_000)) / 1_000
            while not self.senders.all_told and now() < told_by_s:
                await asyncio.sleep(0.001)
            self.begins_anew = True
            async with self.line:
                await asyncio.sleep(self.new_run_takes_s)
                self.senders, self.begins_anew = Senders(self.senders.count(int(now() * 1_000))), False
                self.runs += 1


class Sender:
    """A process of which so many calls wait for the ledger at any time."""

    def __init__(self, temporal: Temporal, chance: random.Random, calls: int = 8) -> None:
        self.waits_s: list[float] = []
        self._temporal = temporal
        self._pace = pace = Pace(now, chance.random)
        self._calls = calls
        self.commits = GroupCommit[int, None](
            self._commit, size_of=lambda item: 1, rest_s=pace.rest_s, chance=chance.random
        )

    async def _commit(self, items: Sequence[int]) -> Sequence[None]:
        began_s = now()
        named_ms = await self._temporal.update(self._pace.sender)
        self._pace.answered(named_ms, now() - began_s)
        return [None] * len(items)

    async def send_until(self, end_s: float) -> None:
        async def call(number: int) -> None:
            while now() < end_s:
                began_s = now()
                await self.commits.submit(number)
                self.waits_s.append(now() - began_s)

        await asyncio.gather(*(call(number) for number in range(self._calls)))


async def sent_for(temporal: Temporal, senders: int, seconds: float) -> list[float]:
    """How long each command waited, in order, once all have sent for a while."""
    chance = random.Random(senders)
    running = asyncio.create_task(temporal.run_anew_when_it_is_time())
    many = [Sender(temporal, chance) for _ in range(senders)]
    await asyncio.gather(*(sender.send_until(2.0) for sender in many))
    temporal.refused = temporal.aborted = temporal.updates = 0
    for sender in many:
        sender.waits_s.clear()
    await asyncio.gather(*(sender.send_until(2.0 + seconds) for sender in many))
    running.cancel()
    assert all(sender.waits_s for sender in many), "somebody starved"
    return sorted(wait_s for sender in many for wait_s in sender.waits_s)


@pytest.mark.parametrize("senders", [2, 12, 64, 200])
def test_any_number_gets_through_also_across_new_runs(senders: int) -> None:
    """Hardly one is refused or meets the end of a run, and nobody waits a second longer than two turns."""

    async def story() -> None:
        temporal = Temporal()
        waits_s = await sent_for(temporal, senders, seconds=15)
        assert temporal.runs >= 3
        assert temporal.refused + temporal.aborted < 0.05 * temporal.updates
        assert temporal.updates > 15 * 120
        longest_s = 2 * senders * EACH_MS / 1_000 + HANDOVER_MS / 1_000
        assert waits_s[int(len(waits_s) * 0.99)] < longest_s
        assert waits_s[-1] < longest_s + 0.5

    run(story())


def test_where_temporal_is_slow_everybody_gets_through_later() -> None:
    """It takes sixty updates a second and not two hundred: a turn is a second and not a third of one."""

    async def story() -> None:
        temporal = Temporal(update_takes_s=1 / 60)
        waits_s = await sent_for(temporal, 64, seconds=30)
        assert temporal.updates > 0.8 * 30 * 60
        assert waits_s[int(len(waits_s) * 0.99)] < 4.0

    run(story())


def test_without_turns_most_would_be_refused() -> None:
    """What turns are for."""

    class Unpaced(Temporal):
        async def update(self, sender: str) -> int:
            await super().update(sender)
            return 0

    async def story() -> None:
        temporal = Unpaced()
        await sent_for(temporal, 64, seconds=10)
        assert temporal.refused > 0.2 * temporal.updates

    run(story())


def test_a_run_ends_after_a_thousand_updates_and_a_round() -> None:
    """Far below the two thousand that Temporal takes."""

    async def story() -> None:
        temporal = Temporal()
        await sent_for(temporal, 64, seconds=15)
        assert temporal.updates / temporal.runs < UPDATES_PER_RUN + 3 * 64

    run(story())
