"""Many items in, one commit out: in order, one group at a time, and one bad item blocks nobody."""

import asyncio
from collections.abc import Sequence

import pytest

from paymaster.group_commit import CommitUnavailable, GroupCommit, PoisonedBatch


class Recorder:
    """A commit function that waits at a gate and remembers its groups."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures: list[Exception] = []
        self.in_flight = 0
        self.in_flight_max = 0

    async def __call__(self, items: Sequence[str]) -> Sequence[str]:
        self.groups.append(list(items))
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            await self.gate.wait()
            if self.failures:
                raise self.failures.pop(0)
            if "bad" in items:
                raise PoisonedBatch("bad item")
            return [item.upper() for item in items]
        finally:
            self.in_flight -= 1


def commits(recorder: Recorder, **limits: float) -> GroupCommit[str, str]:
    return GroupCommit(recorder, size_of=len, **limits)  # pyright: ignore[reportArgumentType]


async def test_what_comes_while_a_commit_is_in_flight_goes_as_the_next_one() -> None:
    """Answers match their items; there is never more than one commit in flight; the order is kept."""
    recorder = Recorder()
    recorder.gate.clear()
    group = commits(recorder)
    first = asyncio.create_task(group.submit("a"))
    while not recorder.groups:
        await asyncio.sleep(0)
    others = [asyncio.create_task(group.submit(item)) for item in "bcd"]
    await asyncio.sleep(0)
    recorder.gate.set()
    assert await asyncio.gather(first, *others) == ["A", "B", "C", "D"]
    assert recorder.groups == [["a"], ["b", "c", "d"]]
    assert recorder.in_flight_max == 1


@pytest.mark.parametrize(("limits", "groups"), [({"items_max": 2}, 3), ({"bytes_max": 6}, 5), ({}, 1)])
async def test_a_group_is_bounded_in_items_and_bytes(limits: dict[str, float], groups: int) -> None:
    """An item that is larger than the bound goes alone."""
    recorder = Recorder()
    group = commits(recorder, **limits)
    items = ["aaaa", "bbbb", "cccc", "dddd", "eeeeeeeeee"]
    assert await asyncio.gather(*map(group.submit, items)) == [item.upper() for item in items]
    assert len(recorder.groups) == groups


async def test_a_bad_item_fails_alone() -> None:
    """The others of its group get their answers."""
    recorder = Recorder()
    group = commits(recorder)
    answers = await asyncio.gather(*map(group.submit, ["a", "b", "bad", "c", "d"]), return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, str)] == ["A", "B", "C", "D"]
    assert isinstance(answers[2], PoisonedBatch)


async def test_a_failed_commit_is_sent_again_whole() -> None:
    """A lost connection says nothing about the items."""
    recorder = Recorder()
    recorder.failures = [ConnectionError("lost"), ConnectionError("lost")]
    group = commits(recorder)
    assert await asyncio.gather(*map(group.submit, "ab")) == ["A", "B"]
    assert recorder.groups == [["a", "b"]] * 3


async def test_nobody_waits_longer_than_the_limit() -> None:
    """Then the item fails, and the next one is tried."""
    recorder = Recorder()
    recorder.failures = [ConnectionError("lost")] * 3
    group = commits(recorder, give_up_after_s=0.0)
    with pytest.raises(CommitUnavailable, match="lost"):
        await group.submit("a")
    recorder.failures = []
    assert await group.submit("b") == "B"


async def test_an_item_whose_waiter_is_gone_is_not_sent() -> None:
    """A cancelled reservation must not be made."""
    recorder = Recorder()
    recorder.gate.clear()
    group = commits(recorder)
    first = asyncio.create_task(group.submit("a"))
    while not recorder.groups:
        await asyncio.sleep(0)
    gone, stays = asyncio.create_task(group.submit("b")), asyncio.create_task(group.submit("c"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    recorder.gate.set()
    assert await asyncio.gather(first, stays) == ["A", "C"]
    assert recorder.groups == [["a"], ["c"]]
