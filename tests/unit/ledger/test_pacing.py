"""How long a process waits before its next update, and that any number of processes gets through with it."""

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from jumping_loop import now, run

from paymaster.admission.senders import Senders
from paymaster.ledger.group_commit import Busy, CommitUnavailable, GroupCommit
from paymaster.ledger.pacing import (
    BACK_OFF_MAX_S,
    BACK_OFF_S,
    JITTER,
    LONGER_MAX,
    NAMED_MAX_S,
    NEW_RUN_WITHIN_S,
    REFUSED_WAITS_S,
    REFUSED_WITHIN_S,
    WARNED_EVERY_S,
    Pace,
    back_off_s,
    jittered,
)
from paymaster.values.limits import COMMANDS_PER_RUN, TEMPORAL_UPDATES_IN_FLIGHT, UPDATES_PER_RUN

# ---------------------------------------------------------------- how long


def test_a_process_waits_as_long_as_the_ledger_says() -> None:
    """Exactly: the ledger gives each a time of its own."""
    pace = Pace(Clock())
    assert [pace.answered(320, took_s) for took_s in (0.004, 0.1, 3.0)] == [0.32] * 3
    assert pace.answered(10**12, 0.0) == NAMED_MAX_S, "a ledger's mistake stops no process"


def test_waits_after_failures_differ_by_chance() -> None:
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


def test_each_failure_makes_the_wait_longer_until_an_answer() -> None:
    """Where there may be more than ten senders, an update that is aborted was so with one that was refused."""
    pace = Pace(Clock(), lambda: 0.5)
    pace.answered(800, 0.01)
    failed_s = [pace.failed(refused=refused) for refused in [True, False] * 10]
    assert failed_s == sorted(failed_s)
    assert failed_s[0] < failed_s[-1] == failed_s[-2] == failed_s[0] * LONGER_MAX
    pace.answered(800, 0.01)
    assert pace.failed(refused=False) == failed_s[0]


def test_who_is_refused_comes_back_at_any_time_of_a_span() -> None:
    """Many that start together do not know of each other."""
    waits_s = [Pace(Clock(), lambda chance=chance: chance).failed(refused=True) for chance in (0.0, 0.5, 1.0)]
    assert waits_s == [REFUSED_WAITS_S, REFUSED_WAITS_S + REFUSED_WITHIN_S / 2, REFUSED_WAITS_S + REFUSED_WITHIN_S]


def test_one_of_few_whose_update_is_aborted_comes_back_soon() -> None:
    """With ten or fewer none can have been refused."""
    pace = Pace(Clock(), lambda: 0.5)
    pace.answered(50, 0.01)
    assert pace.failed(refused=False) < 0.05


def test_who_misses_the_end_of_a_run_comes_back_soon() -> None:
    pace = Pace(Clock(), lambda: 1.0)
    pace.answered(800, 0.01)
    assert [pace.missed() for _ in range(10)] == [NEW_RUN_WITHIN_S] * 10


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
    it has in memory of the workflow; the worker then reads the whole history again. Those that come while a new run
    begins are aborted, too.
    """

    task_takes_s: float = 0.015
    update_takes_s: float = 0.002
    new_run_takes_s: float = 0.1
    reading_takes_s: float = 0.0045
    """Each update of the run's history."""
    commands: int = 40
    """In an update."""
    senders: Senders = field(default_factory=Senders)
    stalls_s: float = 0.0
    """So much longer a task takes now and then: once in `stalls_every_s` or so."""
    stalls_every_s: float = 1.0
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    in_flight: list[tuple[str, bool, asyncio.Future[int]]] = field(
        default_factory=list[tuple[str, bool, asyncio.Future[int]]]
    )
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    refused: int = 0
    aborted: int = 0
    updates: int = 0
    updates_of_run: int = 0
    runs: int = 1
    begins_anew: bool = False
    forgot: bool = False

    async def update(self, sender: str, *, was_refused: bool) -> int:
        if len(self.in_flight) >= TEMPORAL_UPDATES_IN_FLIGHT:
            self.refused += 1
            self.abort()
            raise Busy("ten are in flight")
        answer = asyncio.get_running_loop().create_future()
        self.in_flight.append((sender, was_refused, answer))
        self.arrived.set()
        if self.begins_anew:
            self.abort()
        return await answer

    def abort(self) -> None:
        self.aborted += len(self.in_flight)
        for _, _, answer in self.in_flight:
            answer.set_exception(Aborted())
        self.in_flight = []
        self.forgot = True

    async def work(self) -> None:
        stalls_at_s = now() + self.stalls_every_s
        while True:
            await self.arrived.wait()
            self.arrived.clear()
            taken, began_ms = list(self.in_flight), int(now() * 1_000)
            reading_s = self.reading_takes_s * self.updates_of_run if self.forgot else 0.0
            self.forgot = False
            takes_s = self.task_takes_s + self.update_takes_s * len(taken)
            if now() >= stalls_at_s:
                takes_s += self.stalls_s
                stalls_at_s = now() + self.stalls_every_s * (0.5 + self.chance.random())
            await asyncio.sleep(reading_s + takes_s * (0.7 + 0.6 * self.chance.random()))
            for sender, was_refused, answer in taken:
                if not answer.done():
                    self.updates += 1
                    self.updates_of_run += 1
                    next_ms = self.senders.heard(sender, began_ms, self.commands, was_refused=was_refused)
                    answer.set_result(next_ms)
            self.in_flight = [each for each in self.in_flight if not each[2].done()]
            if self.in_flight:
                self.arrived.set()

    async def run_anew_when_it_is_time(self) -> None:
        """What workflows/ledger_duties.py does at the end of a run."""
        while True:
            self.senders.commands_max = COMMANDS_PER_RUN
            while not self.senders.sent_enough:
                await asyncio.sleep(0.001)
            told_by_s = now() + self.senders.tell_all(int(now() * 1_000)) / 1_000
            while not self.senders.all_told and now() < told_by_s:
                await asyncio.sleep(0.001)
            self.begins_anew = True
            await asyncio.sleep(self.new_run_takes_s)
            before = self.senders
            self.senders = Senders(before.count(int(now() * 1_000)), before.next_at_ms, before.spacing_ms)
            self.begins_anew, self.updates_of_run = False, 0
            self.runs += 1


class Sender:
    """A process of which so many calls wait for the ledger at any time."""

    def __init__(self, temporal: Temporal, chance: random.Random, begins_at_s: float, calls: int = 8) -> None:
        self.waits_s: list[float] = []
        self._temporal = temporal
        self._pace = pace = Pace(now, chance.random)
        self._begins_at_s = begins_at_s
        self._calls = calls
        self.commits = GroupCommit[int, None](
            self._commit, size_of=lambda item: 1, rest_s=pace.rest_s, chance=chance.random
        )

    async def _commit(self, items: Sequence[int]) -> Sequence[None]:
        began_s = now()
        try:
            named_ms = await self._temporal.update(self._pace.sender, was_refused=self._pace.was_refused)
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

        await asyncio.sleep(max(0.0, self._begins_at_s - now()))
        await asyncio.gather(*(call(number) for number in range(self._calls)))


WARM_S = 12.0


async def sent_for(temporal: Temporal, senders: int, seconds: float, *, begin_within_s: float = 4.0) -> list[float]:
    """How long each command waited, in order, once all have sent for a while."""
    chance = random.Random(senders)
    running = [asyncio.create_task(each) for each in (temporal.work(), temporal.run_anew_when_it_is_time())]
    many = [Sender(temporal, chance, number * begin_within_s / senders) for number in range(senders)]
    sending = [asyncio.create_task(sender.send_until(WARM_S + seconds)) for sender in many]
    await asyncio.sleep(WARM_S)
    temporal.refused = temporal.aborted = temporal.updates = 0
    for sender in many:
        sender.waits_s.clear()
    await asyncio.gather(*sending)
    for each in running:
        each.cancel()
    assert all(sender.waits_s for sender in many), "somebody starved"
    return sorted(wait_s for sender in many for wait_s in sender.waits_s)


@pytest.mark.parametrize(("senders", "longest_s"), [(2, 0.3), (12, 0.4), (64, 1.0), (200, 3.0)])
def test_any_number_gets_through_also_across_new_runs(senders: int, longest_s: float) -> None:
    """None is refused, and each waits for its turn, and for a new run."""

    async def story() -> None:
        temporal = Temporal()
        waits_s = await sent_for(temporal, senders, seconds=15)
        assert temporal.runs >= 2
        assert temporal.refused == temporal.aborted == 0
        assert temporal.updates > 15 * 50
        assert waits_s[-1] < longest_s

    run(story())


def test_where_temporal_is_slow_everybody_waits_longer() -> None:
    """Of updates that come every 10 ms it would have more than ten while one task takes 60 ms."""

    async def story() -> None:
        temporal = Temporal(task_takes_s=0.06)
        waits_s = await sent_for(temporal, 64, seconds=30)
        assert temporal.refused < 10
        assert waits_s[len(waits_s) // 2] < 2.0
        assert waits_s[-1] < 15.0

    run(story())


def test_where_temporal_stalls_all_come_further_apart() -> None:
    """For 0.1 s once in a second or so, in which ten updates come where they are 10 ms apart."""

    async def story() -> None:
        temporal = Temporal(stalls_s=0.1)
        waits_s = await sent_for(temporal, 64, seconds=30)
        assert temporal.refused < 10
        assert temporal.senders.spacing_ms > 15
        assert waits_s[len(waits_s) // 2] < 2.0

    run(story())


def test_who_was_refused_says_so_until_it_is_answered() -> None:
    pace = Pace(Clock(), lambda: 0.5)
    pace.failed(refused=False)
    assert not pace.was_refused
    pace.failed(refused=True)
    pace.failed(refused=False)
    assert pace.was_refused
    pace.answered(10, 0.01)
    assert not pace.was_refused


def test_all_that_begin_at_the_same_moment_are_answered() -> None:
    """Most of them are refused at first."""

    async def story() -> None:
        temporal = Temporal()
        await sent_for(temporal, 64, seconds=15, begin_within_s=0.0)
        assert temporal.refused == temporal.aborted == 0, "after a while nobody is refused any more"

    run(story())


def test_without_turns_hardly_any_update_is_answered() -> None:
    """What turns are for: each refusal costs ten others their answers, and some never get one."""

    class Unpaced(Temporal):
        async def update(self, sender: str, *, was_refused: bool) -> int:
            await super().update(sender, was_refused=was_refused)
            return 0

    async def story() -> None:
        temporal = Unpaced()
        with pytest.raises(CommitUnavailable):
            await sent_for(temporal, 64, seconds=30)
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
