"""Many items in, one commit out: while one commit is in flight, further items queue, and all of them go as the next.

One busy workflow takes far more items in a few large updates than in many small ones, and the server allows only ten
updates in flight to it, so that each process has one, and waits for its turn where there are many; one that is alone
has a second, where a whole group waits. Items must be harmless to commit twice, since a commit that fails half-way is
sent again, and in any order, since another commit may pass it meanwhile.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

from paymaster.ledger.pacing import back_off_s
from paymaster.values.limits import BATCH_BYTES_MAX, BATCH_ITEMS_MAX

ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")


GATHERS_AT_MOST_S = 0.5
BUSY_LONGER_S = 20.0
"""How much longer an item is tried that others were there before. Together with its usual 30 s it is less than the
minute that an activity has which submits one: that one must still learn that nobody answers, and hand its record to the
backlog. A ledger without a worker looks busy, because what nobody answers stays in flight."""


class CommitUnavailable(Exception):
    """Nobody answered within the time limit. The item may or may not have been committed."""


class Busy(Exception):
    """Raised by a commit function when nothing was wrong but that others were there first."""


class PoisonedBatch(Exception):
    """Raised by a commit function when an item of the batch, not the connection, is at fault."""


class GroupCommit(Generic[ItemT, AnswerT]):
    """Commits items in groups, in the order in which they came, one group at a time; while `has_room_beside` says so,
    another one beside it where `items_max` items wait.

    `commit` gets 1 to `items_max` items and returns one answer for each. When it raises `PoisonedBatch` the group is
    split, so that a bad item fails alone and blocks nobody; when it raises anything else the group is sent again, with
    growing pauses up to a second, or in its turn, until an item is `give_up_after_s` seconds old, which fails with
    `CommitUnavailable`. For `Busy` it is tried `BUSY_LONGER_S` longer.

    Nothing waits for company while no commit is in flight, unless `worth_waiting_for` says so: before each group it
    tells of the items that wait how many the group should have, for which it then waits `gathers_at_most_s`. `rest_s`
    tells how many seconds the next group still has to wait for its turn.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[ItemT]], Awaitable[Sequence[AnswerT]]],
        *,
        size_of: Callable[[ItemT], int],
        items_max: int = BATCH_ITEMS_MAX,
        bytes_max: int = BATCH_BYTES_MAX,
        give_up_after_s: float = 30.0,
        worth_waiting_for: Callable[[Sequence[ItemT]], int] = lambda items: 1,
        gathers_at_most_s: float = GATHERS_AT_MOST_S,
        rest_s: Callable[[], float] = lambda: 0.0,
        has_room_beside: Callable[[], bool] = lambda: False,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`chance` draws a number between 0 and 1, for the pauses."""
        self._commit = commit
        self._size_of = size_of
        self._items_max = items_max
        self._bytes_max = bytes_max
        self.give_up_after_s = give_up_after_s
        self._waiting: deque[_Waiting[ItemT, AnswerT]] = deque()
        self._committing: asyncio.Task[None] | None = None
        self._beside: asyncio.Task[None] | None = None
        self._worth_waiting_for = worth_waiting_for
        self._gathers_at_most_s = gathers_at_most_s
        self._rest_s = rest_s
        self._has_room_beside = has_room_beside
        self._chance = chance
        self._wanted = 1
        self._enough = asyncio.Event()

    async def submit(self, item: ItemT) -> AnswerT:
        """The answer to one item. An item whose waiter is cancelled before it is sent is not sent.

        Raises CommitUnavailable, or PoisonedBatch when this item is the one at fault.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting[ItemT, AnswerT](
            item, self._size_of(item), loop.create_future(), loop.time() + self.give_up_after_s
        )
        self._waiting.append(waiting)
        if len(self._waiting) >= self._wanted:
            self._enough.set()
        # Without the context of this one item: the group belongs to no single call, and so to no call's trace.
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_all(), context=Context())
        elif self._may_go_beside and (self._beside is None or self._beside.done()):
            self._beside = asyncio.create_task(self._commit_beside(), context=Context())
        return await waiting.answer

    def waiting(self) -> list[ItemT]:
        """The items that no group has yet."""
        return [waiting.item for waiting in self._waiting]

    @property
    def _may_go_beside(self) -> bool:
        """Whether a whole group waits while another one is in flight."""
        return len(self._waiting) >= self._items_max and self._has_room_beside()

    async def _commit_beside(self) -> None:
        while self._may_go_beside:
            await self._commit_group(self._next_group())

    async def _commit_all(self) -> None:
        while self._waiting:
            await self._gather()
            await self._commit_group(self._next_group())

    async def _gather(self) -> None:
        self._wanted = self._worth_waiting_for(self.waiting())
        if len(self._waiting) < self._wanted:
            self._enough.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._gathers_at_most_s):
                    await self._enough.wait()
        if (rest_s := self._rest_s()) > 0:
            await asyncio.sleep(rest_s)

    def _next_group(self) -> "list[_Waiting[ItemT, AnswerT]]":
        group: list[_Waiting[ItemT, AnswerT]] = []
        size = 0
        while self._waiting and len(group) < self._items_max:
            if self._waiting[0].answer.cancelled():
                self._waiting.popleft()
                continue
            if group and size + self._waiting[0].size > self._bytes_max:
                break
            size += self._waiting[0].size
            group.append(self._waiting.popleft())
        return group

    async def _commit_group(self, group: "list[_Waiting[ItemT, AnswerT]]") -> None:
        failures = 0
        while group:
            try:
                answers = await self._commit([waiting.item for waiting in group])
            except PoisonedBatch as error:
                if len(group) == 1:
                    group[0].fail(error)
                    return
                middle = len(group) // 2
                await self._commit_group(group[:middle])
                await self._commit_group(group[middle:])
                return
            except Exception as error:
                now = asyncio.get_running_loop().time()
                failures += 1
                longer_s = BUSY_LONGER_S if isinstance(error, Busy) else 0.0
                for waiting in group:
                    if waiting.give_up_at + longer_s <= now:
                        waited_s = self.give_up_after_s + longer_s
                        waiting.fail(CommitUnavailable(f"no answer for {waited_s:.0f} s: {error}"))
                group = [waiting for waiting in group if not waiting.answer.done()]
                await asyncio.sleep(max(back_off_s(failures, self._chance), self._rest_s()))
            else:
                if len(answers) != len(group):  # a defect of the commit function: nobody knows which answer is whose
                    for waiting in group:
                        waiting.fail(CommitUnavailable(f"{len(answers)} answers for {len(group)} items"))
                    return
                for waiting, answer in zip(group, answers, strict=True):
                    if not waiting.answer.done():
                        waiting.answer.set_result(answer)
                return


class _Waiting(Generic[ItemT, AnswerT]):
    """An item and who waits for its answer."""

    __slots__ = ("answer", "give_up_at", "item", "size")

    def __init__(self, item: ItemT, size: int, answer: asyncio.Future[AnswerT], give_up_at: float) -> None:
        self.item = item
        self.size = size
        self.answer = answer
        self.give_up_at = give_up_at

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
