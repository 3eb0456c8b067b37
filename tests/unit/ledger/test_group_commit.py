"""Group commit, in the order in which things are submitted and answered, and what its pauses come to."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jumping_loop import now, run

from paymaster.ledger.group_commit import (
    BUSY_LONGER_S,
    GATHERS_AT_MOST_S,
    Busy,
    CommitUnavailable,
    GroupCommit,
    PoisonedBatch,
)

Commits = GroupCommit[int, str]


class Ledger:
    """Takes groups one at a time, or as many as a test says, as far as it opens the door, and remembers them."""

    def __init__(self, *, takes: int = 1) -> None:
        self.takes = takes
        self.groups: list[list[int]] = []
        self.times: list[float] = []
        self.in_flight = 0
        self.door = asyncio.Event()
        self.door.set()
        self.arrived = asyncio.Event()
        self.outcomes: list[Exception] = []
        """What the next commits fail with."""
        self.bad: set[int] = set()

    async def commit(self, items: Sequence[int]) -> Sequence[str]:
        self.groups.append(list(items))
        self.times.append(now())
        self.in_flight += 1
        assert self.in_flight <= self.takes, "too many commits at once"
        self.arrived.set()
        await self.door.wait()
        self.in_flight -= 1
        if self.outcomes:
            raise self.outcomes.pop(0)
        if not self.bad.isdisjoint(items):
            raise PoisonedBatch("one of them")
        return [answer_to(item) for item in items]


def answer_to(item: int) -> str:
    return f"answer to {item}"


def group_commit(
    commit: Callable[[Sequence[int]], Awaitable[Sequence[str]]],
    *,
    size_of: Callable[[int], int] = lambda item: 1,
    items_max: int = 100,
    bytes_max: int = 1_000,
    give_up_after_s: float = 30.0,
    has_room_beside: Callable[[], bool] = lambda: False,
) -> Commits:
    return GroupCommit[int, str](
        commit,
        size_of=size_of,
        items_max=items_max,
        bytes_max=bytes_max,
        give_up_after_s=give_up_after_s,
        has_room_beside=has_room_beside,
        chance=lambda: 0.5,
    )


async def submit_all(commits: Commits, items: Sequence[int]) -> list[asyncio.Task[str]]:
    """All in this order, each by a task of its own; returns when all are in the queue."""
    tasks = [asyncio.create_task(commits.submit(item)) for item in items]
    await asyncio.sleep(0)
    return tasks


# ---------------------------------------------------------------- groups


def test_what_comes_during_a_commit_goes_together_as_the_next() -> None:
    """The first goes alone; ninety-nine wait for it, and are one group."""

    async def story() -> None:
        ledger = Ledger()
        ledger.door.clear()
        commits = group_commit(ledger.commit)
        first = asyncio.create_task(commits.submit(0))
        await ledger.arrived.wait()
        others = await submit_all(commits, range(1, 100))
        assert ledger.groups == [[0]]
        ledger.door.set()
        assert await asyncio.gather(first, *others) == [answer_to(n) for n in range(100)]
        assert ledger.groups == [[0], list(range(1, 100))]

    run(story())


@given(
    sizes=st.lists(st.integers(0, 30), max_size=40),
    items_max=st.integers(1, 10),
    bytes_max=st.integers(1, 40),
    bad=st.sets(st.integers(0, 40), max_size=5),
    beside=st.booleans(),
)
def test_groups_keep_order_and_limits_and_each_item_gets_its_own_answer(
    sizes: list[int], items_max: int, bytes_max: int, bad: set[int], beside: bool
) -> None:
    """At most so many items and bytes, unless one alone is larger; a bad item fails alone and the others do not. One
    group may pass another that goes beside it."""

    async def story() -> None:
        ledger = Ledger(takes=2 if beside else 1)
        ledger.bad = bad
        commits = group_commit(
            ledger.commit,
            size_of=sizes.__getitem__,
            items_max=items_max,
            bytes_max=bytes_max,
            has_room_beside=lambda: beside,
        )
        answers = await asyncio.gather(*(commits.submit(n) for n in range(len(sizes))), return_exceptions=True)
        for n, answer in enumerate(answers):
            assert isinstance(answer, PoisonedBatch) if n in bad else answer == answer_to(n)
        for group in ledger.groups:
            assert 1 <= len(group) <= items_max
            assert len(group) == 1 or sum(sizes[n] for n in group) <= bytes_max
        good = [n for group in ledger.groups if bad.isdisjoint(group) for n in group]
        assert (sorted(good) if beside else good) == [n for n in range(len(sizes)) if n not in bad]

    run(story())


def test_a_whole_group_goes_beside_the_one_in_flight() -> None:
    """Less than a whole one waits, and so does a third."""

    async def story() -> None:
        ledger = Ledger(takes=2)
        ledger.door.clear()
        commits = group_commit(ledger.commit, items_max=3, has_room_beside=lambda: True)
        tasks = await submit_all(commits, range(1))
        await ledger.arrived.wait()
        tasks += await submit_all(commits, range(1, 3))
        await asyncio.sleep(1)
        assert ledger.groups == [[0]]
        tasks += await submit_all(commits, range(3, 9))
        await asyncio.sleep(1)
        assert ledger.groups == [[0], [1, 2, 3]]
        ledger.door.set()
        assert await asyncio.gather(*tasks) == [answer_to(n) for n in range(9)]
        assert ledger.groups == [[0], [1, 2, 3], [4, 5, 6], [7, 8]]

    run(story())


def test_where_there_is_no_room_beside_one_a_whole_group_waits() -> None:
    """It is asked anew each time."""

    async def story() -> None:
        ledger = Ledger(takes=2)
        room = [True]
        commits = group_commit(ledger.commit, items_max=2, has_room_beside=lambda: room[0])
        for room[0], in_flight in ((True, 2), (False, 1)):
            ledger.door.clear()
            tasks = await submit_all(commits, range(6))
            await asyncio.sleep(1)
            assert ledger.in_flight == in_flight
            ledger.door.set()
            await asyncio.gather(*tasks)

    run(story())


def test_a_group_that_fails_holds_up_none_that_goes_beside_it() -> None:
    """It is sent again when its pause is over."""

    async def story() -> None:
        ledger = Ledger(takes=2)
        ledger.outcomes = [OSError("the line was cut")]
        commits = group_commit(ledger.commit, items_max=2, has_room_beside=lambda: True)
        tasks = await submit_all(commits, range(6))
        assert await asyncio.gather(*tasks) == [answer_to(n) for n in range(6)]
        assert ledger.groups[-1] == ledger.groups[0]

    run(story())


def test_one_bad_item_of_two_hundred_costs_few_commits() -> None:
    """The group is halved until the bad one is alone: about twice the logarithm, not two hundred."""

    async def story() -> int:
        ledger = Ledger()
        ledger.bad = {137}
        commits = group_commit(ledger.commit, items_max=200)
        answers = await asyncio.gather(*(commits.submit(n) for n in range(200)), return_exceptions=True)
        assert [n for n, answer in enumerate(answers) if isinstance(answer, Exception)] == [137]
        return len(ledger.groups)

    assert run(story()) <= 20


def test_after_a_bad_item_the_next_ones_are_committed() -> None:
    """It stops nothing."""

    async def story() -> None:
        ledger = Ledger()
        ledger.bad = {1}
        commits = group_commit(ledger.commit)
        with pytest.raises(PoisonedBatch):
            await commits.submit(1)
        assert await commits.submit(2) == answer_to(2)

    run(story())


# ---------------------------------------------------------------- gathering


def test_a_group_waits_until_so_many_are_there_as_are_worth_waiting_for_and_no_longer() -> None:
    """The last of three sends them off, long before the half second is over. Who says how many sees which ones wait."""

    async def story() -> None:
        ledger, told = Ledger(), list[Sequence[int]]()

        def three(items: Sequence[int]) -> int:
            told.append(items)
            return 3

        commits = GroupCommit[int, str](ledger.commit, size_of=lambda item: 1, worth_waiting_for=three)
        tasks = await submit_all(commits, [1, 2])
        await asyncio.sleep(0.2)
        assert ledger.groups == []
        assert told == [[1, 2]]
        tasks += await submit_all(commits, [3])
        assert await asyncio.gather(*tasks) == [answer_to(n) for n in (1, 2, 3)]
        assert ledger.groups == [[1, 2, 3]]
        assert ledger.times == [pytest.approx(0.2)]

    run(story())


def test_who_waits_in_vain_for_others_goes_after_half_a_second() -> None:
    """It is asked anew before each group: what the first waited for, the second need not."""

    async def story() -> None:
        ledger = Ledger()
        wanted = [3, 1]
        commits = GroupCommit[int, str](
            ledger.commit, size_of=lambda item: 1, worth_waiting_for=lambda items: wanted.pop(0)
        )
        assert await commits.submit(1) == answer_to(1)
        assert now() == pytest.approx(GATHERS_AT_MOST_S)
        assert await commits.submit(2) == answer_to(2)
        assert now() == pytest.approx(GATHERS_AT_MOST_S)

    run(story())


def test_a_group_gathers_no_longer_than_it_is_given() -> None:
    async def story() -> None:
        commits = GroupCommit[int, str](
            Ledger().commit, size_of=lambda item: 1, worth_waiting_for=lambda items: 2, gathers_at_most_s=0.1
        )
        assert await commits.submit(1) == answer_to(1)
        assert now() == pytest.approx(0.1)

    run(story())


def test_those_who_leave_while_a_group_gathers_are_not_sent() -> None:
    """Also when nobody is left."""

    async def story() -> None:
        ledger = Ledger()
        commits = GroupCommit[int, str](ledger.commit, size_of=lambda item: 1, worth_waiting_for=lambda items: 2)
        (lonely,) = await submit_all(commits, [1])
        lonely.cancel()
        await asyncio.sleep(GATHERS_AT_MOST_S * 2)
        assert ledger.groups == []
        assert await asyncio.gather(*await submit_all(commits, [2, 3])) == [answer_to(2), answer_to(3)]

    run(story())


def test_a_group_takes_along_what_comes_before_its_turn() -> None:
    """Also when it has gathered company before."""

    async def story() -> None:
        ledger = Ledger()
        turn_at_s = 0.3
        commits = GroupCommit[int, str](
            ledger.commit,
            size_of=lambda item: 1,
            worth_waiting_for=lambda items: 2,
            rest_s=lambda: max(0.0, turn_at_s - now()),
        )
        tasks = await submit_all(commits, [1, 2])
        await asyncio.sleep(0.2)
        tasks += await submit_all(commits, [3])
        assert await asyncio.gather(*tasks) == [answer_to(n) for n in (1, 2, 3)]
        assert ledger.groups == [[1, 2, 3]]
        assert ledger.times == [pytest.approx(turn_at_s)]

    run(story())


# ---------------------------------------------------------------- cancelled waiters


def test_a_waiter_that_is_cancelled_before_its_item_is_sent_takes_the_item_along() -> None:
    """A cancelled call must not get a hold that nobody knows of."""

    async def story() -> None:
        ledger = Ledger()
        ledger.door.clear()
        commits = group_commit(ledger.commit)
        tasks = await submit_all(commits, range(1))
        await ledger.arrived.wait()
        tasks += await submit_all(commits, range(1, 6))
        for n in (1, 3, 5):
            tasks[n].cancel()
        ledger.door.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert ledger.groups == [[0], [2, 4]]
        assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [False, True] * 3

    run(story())


def test_when_all_that_wait_are_cancelled_nothing_is_sent_and_the_next_one_is() -> None:
    """An empty group is no group, and the committing task that ended is started again."""

    async def story() -> None:
        ledger = Ledger()
        ledger.door.clear()
        commits = group_commit(ledger.commit)
        first, second = (*await submit_all(commits, [1]), *await submit_all(commits, [2]))
        await ledger.arrived.wait()
        second.cancel()
        ledger.door.set()
        assert await first == answer_to(1)
        assert await commits.submit(3) == answer_to(3)
        assert ledger.groups == [[1], [3]]

    run(story())


def test_a_waiter_that_is_cancelled_during_the_commit_disturbs_nobody() -> None:
    """Its item is committed, and the others of the group get their answers."""

    async def story() -> None:
        ledger = Ledger()
        ledger.door.clear()
        commits = group_commit(ledger.commit)
        tasks = await submit_all(commits, [1, 2, 3])
        await ledger.arrived.wait()
        tasks[1].cancel()
        ledger.door.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [answers[0], answers[2]] == [answer_to(1), answer_to(3)]

    run(story())


def test_a_waiter_that_is_cancelled_during_a_failing_commit_is_not_sent_again() -> None:
    """Only who still waits is."""

    async def story() -> None:
        ledger = Ledger()
        ledger.door.clear()
        ledger.outcomes = [OSError("the line was cut")]
        commits = group_commit(ledger.commit)
        tasks = await submit_all(commits, [1, 2])
        await ledger.arrived.wait()
        tasks[0].cancel()
        ledger.door.set()
        assert await tasks[1] == answer_to(2)
        assert ledger.groups == [[1, 2], [2]]

    run(story())


# ---------------------------------------------------------------- failing commits


def test_a_failed_commit_is_sent_again_the_same_and_before_what_came_later() -> None:
    """It may have been committed after all: the same items again are harmless, in another order they might not be."""

    async def story() -> None:
        ledger = Ledger()
        ledger.outcomes = [OSError("cut"), TimeoutError("late"), RuntimeError("odd")]
        commits = group_commit(ledger.commit)
        tasks = await submit_all(commits, [1, 2])
        tasks += await submit_all(commits, [3])
        assert await asyncio.gather(*tasks) == [answer_to(1), answer_to(2), answer_to(3)]
        assert ledger.groups == [[1, 2]] * 4 + [[3]]

    run(story())


def test_pauses_between_attempts_grow_up_to_a_second() -> None:
    """A ledger that is down is not flooded, and one that is back is noticed soon."""

    async def story() -> list[float]:
        ledger = Ledger()
        ledger.outcomes = [OSError("down")] * 12
        assert await group_commit(ledger.commit).submit(1) == answer_to(1)
        return [later - earlier for earlier, later in zip(ledger.times, ledger.times[1:], strict=False)]

    pauses = run(story())
    assert 0 < pauses[0] < 0.2
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(1.0)


def test_an_item_is_given_up_when_its_own_time_is_over() -> None:
    """Not before, at most a second after, and the one that came ten seconds later ten seconds later."""

    async def story() -> None:
        ledger = Ledger()
        ledger.outcomes = [OSError("down")] * 1_000
        commits = group_commit(ledger.commit, give_up_after_s=30)

        async def gives_up_after() -> float:
            began = now()
            with pytest.raises(CommitUnavailable, match="down"):
                await commits.submit(1)
            return now() - began

        first = asyncio.create_task(gives_up_after())
        await asyncio.sleep(10)
        second = asyncio.create_task(gives_up_after())
        for waited_s in await asyncio.gather(first, second):
            assert 30 <= waited_s <= 31.1
        ledger.outcomes.clear()
        assert await commits.submit(2) == answer_to(2)

    run(story())


def test_who_comes_after_others_is_tried_for_longer() -> None:
    """Not for as long as an activity may take: where no worker has the ledger, all find others there before them."""

    async def story() -> None:
        ledger = Ledger()
        ledger.outcomes = [Busy("ten are in flight")] * 45
        assert await group_commit(ledger.commit, give_up_after_s=30).submit(1) == answer_to(1)
        assert now() > 40
        ledger.outcomes = [Busy("ten are in flight")] * 1_000
        began = now()
        with pytest.raises(CommitUnavailable, match="no answer for 50 s: ten are in flight"):
            await group_commit(ledger.commit, give_up_after_s=30).submit(2)
        assert 30 + BUSY_LONGER_S <= now() - began < 52
        ledger.outcomes = [*[Busy("ten are in flight")] * 35, *[OSError("down")] * 1_000]
        began = now()
        with pytest.raises(CommitUnavailable, match="no answer for 30 s: down"):
            await group_commit(ledger.commit, give_up_after_s=30).submit(3)
        assert now() - began < 37

    run(story())


def test_two_that_are_refused_together_do_not_come_back_together() -> None:
    """Each pause is a little longer or shorter, by chance."""

    async def second_try_at(chance: float) -> float:
        ledger = Ledger()
        ledger.outcomes = [Busy("ten are in flight")]
        await GroupCommit[int, str](ledger.commit, size_of=lambda item: 1, chance=lambda: chance).submit(1)
        return ledger.times[1] - ledger.times[0]

    async def story() -> tuple[float, float]:
        early, late = await asyncio.gather(second_try_at(0.0), second_try_at(1.0))
        return early, late

    early, late = run(story())
    assert 1.2 * early < late < 0.1


def test_in_a_group_that_fails_only_the_old_items_are_given_up() -> None:
    """A younger one of the same group is sent again and answered."""

    async def story() -> None:
        ledger = Ledger()
        ledger.outcomes = [OSError("down")] * 2
        commits = group_commit(ledger.commit, give_up_after_s=5)
        ledger.door.clear()
        blocker = asyncio.create_task(commits.submit(0))
        await ledger.arrived.wait()
        old = asyncio.create_task(commits.submit(1))
        await asyncio.sleep(4.9)
        young = asyncio.create_task(commits.submit(2))
        await asyncio.sleep(0.2)
        ledger.door.set()
        old_answer, young_answer, blocker_answer = await asyncio.gather(old, young, blocker, return_exceptions=True)
        assert isinstance(blocker_answer, CommitUnavailable)
        assert isinstance(old_answer, CommitUnavailable)
        assert young_answer == answer_to(2)
        assert ledger.groups == [[0], [1, 2], [2]]

    run(story())


def test_a_group_that_is_split_is_sent_again_too_when_the_line_fails() -> None:
    """The halves of a bad batch have the same rights as a whole one."""

    async def story() -> None:
        ledger = Ledger()
        ledger.bad = {3}
        ledger.outcomes = [PoisonedBatch("first"), OSError("cut"), OSError("cut again")]
        commits = group_commit(ledger.commit)
        answers = await asyncio.gather(*(commits.submit(n) for n in range(1, 5)), return_exceptions=True)
        assert [answer for answer in answers if isinstance(answer, str)] == [answer_to(n) for n in (1, 2, 4)]
        assert isinstance(answers[2], PoisonedBatch)

    run(story())


def test_a_commit_with_too_few_answers_leaves_nobody_waiting() -> None:
    """It cannot be said which answer is whose: all of them fail, and the next item is committed."""

    async def forgetful(items: Sequence[int]) -> Sequence[str]:
        return [answer_to(item) for item in items][: 2 if len(items) == 3 else None]

    async def story() -> bool:
        commits = group_commit(forgetful)
        done, waiting = await asyncio.wait(await submit_all(commits, [1, 2, 3]), timeout=60)
        assert await commits.submit(4) == answer_to(4)
        return not waiting and all(task.exception() is not None for task in done)

    assert run(story())
