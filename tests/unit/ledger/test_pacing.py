"""How long a process waits before its next update, and that any number of processes gets through with it."""

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from jumping_loop import now, run

from paymaster.admission.senders import Senders
from paymaster.ledger.group_commit import Busy, GroupCommit
from paymaster.ledger.pacing import (
    BACK_OFF_MAX_S,
    BACK_OFF_S,
    FAILED_WAITS_MAX_S,
    JITTER,
    NAMED_MAX_S,
    REFUSED_WAITS_S,
    SLOWER_MAX,
    TAKES_S,
    WARNED_EVERY_S,
    Pace,
    back_off_s,
    jittered,
    slower_by,
)
from paymaster.values.limits import TEMPORAL_UPDATES_IN_FLIGHT, UPDATES_PER_RUN

# ---------------------------------------------------------------- how long


def test_where_updates_take_longer_turns_do_too() -> None:
    """Within bounds: a turn has an end, however slow Temporal is."""
    assert slower_by(0.0) == slower_by(TAKES_S) == 1.0
    assert slower_by(2 * TAKES_S) == pytest.approx(2.0)
    assert slower_by(3_600.0) == SLOWER_MAX


def test_a_turn_is_what_the_ledger_named() -> None:
    pace = Pace(Clock(), lambda: 0.5)
    assert [pace.answered(320, 0.004) for _ in range(3)] == [pytest.approx(0.32)] * 3
    assert pace.answered(10**12, 0.0) <= NAMED_MAX_S, "a ledger's mistake stops no process"


def test_what_a_new_run_adds_to_a_wait_is_added_once() -> None:
    """Where Temporal is slow, the turn is longer and not the time in which the run begins."""
    pace = Pace(Clock(), lambda: 0.5)
    pace.answered(60, 10 * TAKES_S)
    assert pace.answered(60 + 250, 10 * TAKES_S) == pytest.approx(0.6 + 0.25)
    assert pace.answered(60, 10 * TAKES_S) == pytest.approx(0.6)


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


def test_what_updates_take_is_learnt_little_by_little() -> None:
    pace = Pace(Clock(), lambda: 0.5)
    assert pace.answered(100, TAKES_S) == pytest.approx(0.1)
    waits_s = [pace.answered(100, 4 * TAKES_S) for _ in range(20)]
    assert 0.1 < waits_s[0] < 0.2
    assert waits_s == sorted(waits_s)
    assert waits_s[-1] == pytest.approx(0.4, rel=0.01)


def test_a_refusal_makes_waits_longer_and_answers_shorter() -> None:
    pace = Pace(Clock(), lambda: 0.5)
    pace.answered(400, 0.01)
    refused_s = [pace.failed(refused=True) for _ in range(20)]
    assert 0.4 < refused_s[0] < refused_s[1] < refused_s[-1] == FAILED_WAITS_MAX_S
    answered_s = [pace.answered(400, 0.01) for _ in range(20)]
    assert answered_s == sorted(answered_s, reverse=True)
    assert answered_s[-1] == pytest.approx(0.4)


def test_who_is_refused_at_once_does_not_come_back_at_once() -> None:
    """Many that start together do not know of each other."""
    assert Pace(Clock(), lambda: 0.5).failed(refused=True) >= REFUSED_WAITS_S


def test_one_that_is_alone_notices_soon_that_temporal_is_back() -> None:
    pace = Pace(Clock(), lambda: 0.5)
    pace.answered(0, 0.01)
    assert [pace.failed(refused=False) for _ in range(100)] == [0.0] * 100


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


class Aborted(Exception):
    """An update whose workflow task was lost."""


@dataclass
class Temporal:
    """What Server 1.32 does with updates to one workflow, each of whose tasks answers all that have come by then.

    It takes ten in flight. One more is refused, and those in flight are aborted with it, because the server drops what
    it has in memory of the workflow. The same befalls those that come while a new run begins.
    """

    task_takes_s: float = 0.015
    update_takes_s: float = 0.001
    new_run_takes_s: float = 0.1
    senders: Senders = field(default_factory=Senders)
    in_flight: list[tuple[str, asyncio.Future[int]]] = field(default_factory=list[tuple[str, asyncio.Future[int]]])
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    refused: int = 0
    aborted: int = 0
    updates: int = 0
    runs: int = 1
    begins_anew: bool = False

    async def update(self, sender: str) -> int:
        if len(self.in_flight) >= TEMPORAL_UPDATES_IN_FLIGHT:
            self.refused += 1
            self.abort()
            raise Busy("ten are in flight")
        answer = asyncio.get_running_loop().create_future()
        self.in_flight.append((sender, answer))
        self.arrived.set()
        if self.begins_anew:
            self.abort()
        return await answer

    def abort(self) -> None:
        self.aborted += len(self.in_flight)
        for _, answer in self.in_flight:
            answer.set_exception(Aborted())
        self.in_flight = []

    async def work(self) -> None:
        while True:
            await self.arrived.wait()
            self.arrived.clear()
            taken = list(self.in_flight)
            await asyncio.sleep(self.task_takes_s + self.update_takes_s * len(taken))
            for sender, answer in taken:
                if not answer.done():
                    self.updates += 1
                    answer.set_result(self.senders.heard(sender, int(now() * 1_000)))
            self.in_flight = [each for each in self.in_flight if not each[1].done()]
            if self.in_flight:
                self.arrived.set()

    async def run_anew_when_it_is_time(self) -> None:
        """What workflows/ledger_duties.py does at the end of a run."""
        while True:
            while not self.senders.sent_enough:
                await asyncio.sleep(0.001)
            told_by_s = now() + self.senders.tell_all(int(now() * 1_000)) / 1_000
            while not self.senders.all_told and now() < told_by_s:
                await asyncio.sleep(0.001)
            self.begins_anew = True
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
        try:
            named_ms = await self._temporal.update(self._pace.sender)
        except (Busy, Aborted) as error:
            self._pace.failed(refused=isinstance(error, Busy))
            raise
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
    running = [asyncio.create_task(each) for each in (temporal.work(), temporal.run_anew_when_it_is_time())]
    many = [Sender(temporal, chance) for _ in range(senders)]
    await asyncio.gather(*(sender.send_until(2.0) for sender in many))
    temporal.refused = temporal.aborted = temporal.updates = 0
    for sender in many:
        sender.waits_s.clear()
    await asyncio.gather(*(sender.send_until(2.0 + seconds) for sender in many))
    for each in running:
        each.cancel()
    assert all(sender.waits_s for sender in many), "somebody starved"
    return sorted(wait_s for sender in many for wait_s in sender.waits_s)


@pytest.mark.parametrize(("senders", "p99_s"), [(2, 0.5), (12, 0.5), (64, 2.0), (200, 6.0)])
def test_any_number_gets_through_also_across_new_runs(senders: int, p99_s: float) -> None:
    """Hardly one is refused, and most commands wait for a turn or two."""

    async def story() -> None:
        temporal = Temporal()
        waits_s = await sent_for(temporal, senders, seconds=15)
        assert temporal.runs >= 2
        assert temporal.refused < 0.02 * temporal.updates
        assert temporal.updates > 15 * 50
        assert waits_s[int(len(waits_s) * 0.99)] < p99_s

    run(story())


def test_where_temporal_is_slow_everybody_waits_longer() -> None:
    """It answers ten updates in 70 ms: a turn of 64 is two seconds and not a third of one."""

    async def story() -> None:
        temporal = Temporal(task_takes_s=0.06)
        waits_s = await sent_for(temporal, 64, seconds=30)
        assert temporal.refused < 0.05 * temporal.updates
        assert waits_s[int(len(waits_s) * 0.99)] < 6.0

    run(story())


def test_without_turns_hardly_any_update_is_answered() -> None:
    """What turns are for: each refusal costs ten others their answers."""

    class Unpaced(Temporal):
        async def update(self, sender: str) -> int:
            await super().update(sender)
            return 0

    async def story() -> None:
        temporal = Unpaced()
        await sent_for(temporal, 64, seconds=15)
        assert temporal.refused + temporal.aborted > temporal.updates

    run(story())


def test_a_run_ends_after_a_thousand_updates_and_a_round() -> None:
    """Far below the two thousand that Temporal takes."""

    async def story() -> None:
        temporal = Temporal(task_takes_s=0.005)
        await sent_for(temporal, 64, seconds=30)
        assert temporal.runs >= 3
        assert temporal.updates / temporal.runs < UPDATES_PER_RUN + 3 * 64

    run(story())
