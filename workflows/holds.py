"""The holds of a workflow: asked of the ledger, waited for while parked, given back."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from temporalio import exceptions, workflow
from temporalio.common import RawValue, RetryPolicy

from paymaster.messages import (
    Candidate,
    CountFirst,
    Denied,
    Ended,
    Granted,
    Parked,
    ParkedAnswer,
    RecordAnswer,
    ReserveRequest,
    UsageRecord,
    Withdrawn,
)
from paymaster.messages.bounds import check_grant, is_within_bounds
from paymaster.messages.temporal_names import (
    NOT_WANTED,
    PARKED_SUMMARY,
    PARKED_TIMER_LONGER,
    RECORD_USAGE,
    RESERVE,
    VOID,
)
from paymaster.observability.temporal_ui import summary
from workflows.signals import message_of


class Holds:
    """What a workflow asks the ledger for, one hold after the other, and what the ledger signals to it."""

    def __init__(
        self,
        question: Callable[[str, int], ReserveRequest],
        on_parked: Callable[[], None],
        on_count_first: Callable[[Candidate], Awaitable[None]] | None = None,
    ) -> None:
        """`question` makes what is asked from a hold id and a time before which it cannot have been used.

        `on_parked` is called whenever the workflow begins to wait; `on_count_first`, where a question has countable
        candidates, to count for one of them what the next question says.
        """
        self._question, self._on_parked, self._on_count_first = question, on_parked, on_count_first
        self._count = 0
        self._answers: dict[str, Granted | Denied | CountFirst] = {}
        self._withdrawn: set[str] = set()
        self._recalled = False
        self.asked = False
        """Whether the ledger has answered once."""
        self.cancelled = False
        """Set by the workflow that wants no hold any more."""
        self.parked: Parked | None = None
        self.waited_ms = 0
        self.findable = False
        """Whether the namespace has Paymaster's search attributes."""
        self.run: str | None = None
        """The run that it counts for, where it has that one too."""

    # ------------------------------------------------------------ signals

    def take_answer(self, signal: RawValue) -> None:
        """The end of a parking. Which hold it is about says the answer itself, so that twice is harmless."""
        if message := message_of(signal, ParkedAnswer):
            answer = message.answer
            if isinstance(answer, Granted):
                try:
                    check_grant(answer.grant)
                except ValueError as error:
                    workflow.logger.error("a grant that is out of bounds is ignored: %s", error)
                    return
            elif isinstance(answer, CountFirst):
                if self._on_count_first is None or not is_within_bounds(answer.candidate):
                    workflow.logger.error("a count that nobody can make is not made")
                else:  # sent twice, it may come after what its count led to
                    self._answers.setdefault(answer.hold_id, answer)
                return
            self._answers[answer.grant.hold_id if isinstance(answer, Granted) else answer.hold_id] = answer

    def take_withdrawal(self, signal: RawValue) -> None:
        """An admin takes a grant back."""
        if message := message_of(signal, Withdrawn):
            self._withdrawn.add(message.hold_id)

    def ledger_began(self) -> None:
        """The ledger restarted from the stored entries and knows of no parked call: a parked one asks again."""
        self._recalled = True

    def is_withdrawn(self, hold_id: str) -> bool:
        return hold_id in self._withdrawn

    # ------------------------------------------------------------ reserve

    async def reserve(self) -> Granted | Denied:
        """A hold for the next attempt, after as much parking as it takes. When cancelled meanwhile, leaves none."""
        info = workflow.info()
        asked_at_ms = ms_of(info.start_time) if self._count == 0 else now_ms()
        while True:
            self._count += 1
            hold_id = f"{info.run_id}/{self._count}"
            answer = await self._ask(hold_id, asked_at_ms)
            while isinstance(answer, Parked | CountFirst):
                ended = await self._wait(answer) if isinstance(answer, Parked) else await self._counted(answer)
                answer = ended or await self._ask(hold_id, asked_at_ms)
            if self.cancelled:
                await self.void(hold_id)
                raise asyncio.CancelledError
            if isinstance(answer, Ended):  # too old to be told from one that was used before: ask under a new id
                await self._confirm_task_ownership("the hold has ended")
                asked_at_ms = now_ms()
                continue
            return answer

    async def _counted(self, answer: CountFirst) -> Denied | None:
        """None: it has counted, and asks again. Who asked without having counted would be told to count, for ever.

        Not patched: the ledger answers and signals so since there are counts.
        """
        assert self._on_count_first is not None  # only who can count asks with countable candidates
        if not self.cancelled:
            await self._on_count_first(answer.candidate)
        return Denied(hold_id=answer.hold_id, reason=NOT_WANTED, detail="") if self.cancelled else None

    async def _ask(self, hold_id: str, asked_at_ms: int) -> Granted | Parked | Denied | CountFirst | Ended:
        self._recalled = False  # here and not while it waits: the answer may still be of the ledger that is lost
        try:
            reservation = await workflow.execute_local_activity(
                RESERVE.name,
                RESERVE.takes(self._question(hold_id, asked_at_ms)),
                result_type=RESERVE.result,
                start_to_close_timeout=timedelta(minutes=1),
                retry_policy=RetryPolicy(maximum_attempts=3),
            )
            self.asked = True
            self.findable, self.run = reservation.findable, reservation.run
            return reservation.answer
        except exceptions.FailureError as error:
            await self._confirm_task_ownership("the ledger did not answer")
            await self.void(hold_id)  # it may have been granted all the same
            return Denied(hold_id=hold_id, reason="ledger_unreachable", detail=str(error))

    async def _wait(self, parked: Parked) -> Granted | Denied | CountFirst | None:
        """Parked: costs nothing until the ledger's signal comes. None: the ledger restarted, ask again.

        One of the two always comes, unless the ledger was lost and did not begin again, or the server's clock jumped
        over the deadline, which the ledger does not believe at once. Then it is asked.
        """
        since_ms = now_ms()
        self.parked = parked
        self._on_parked()
        patience = timedelta(milliseconds=max(0, parked.deadline_at_ms - since_ms)) + PARKED_TIMER_LONGER
        asks = False
        try:
            await workflow.wait_condition(
                lambda: parked.hold_id in self._answers or self.cancelled or self._recalled,
                timeout=patience,
                timeout_summary=summary(f"{PARKED_SUMMARY}{parked.detail}"),
            )
        except TimeoutError:
            asks = workflow.patched("ask-when-no-answer-comes")  # version 0.1.0 gave up
            if not asks:
                await self.void(parked.hold_id)
        self.parked = None
        self.waited_ms += now_ms() - since_ms
        if parked.hold_id in self._answers:
            # Out of there: a call that counts asks, and may be parked, under the same hold id again.
            return self._answers.pop(parked.hold_id)
        if (self._recalled or asks) and not self.cancelled:
            return None
        return Denied(hold_id=parked.hold_id, reason="waited_too_long", detail=parked.detail)

    async def _confirm_task_ownership(self, why: str) -> None:
        """Yields until Temporal accepts this task; a worker that lost it never continues.

        What a local activity answered is known to this worker alone until Temporal takes its workflow task, which it
        does not from a worker that lost it. To act on the answer before that would undo what the other one does.
        """
        await workflow.sleep(timedelta(milliseconds=1), summary=summary(f"{why}: has another worker this call?"))

    async def void(self, hold_id: str) -> None:
        await workflow.execute_local_activity(
            VOID.name,
            VOID.takes(hold_id),
            start_to_close_timeout=timedelta(minutes=1),
            retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=10)),
        )

    # ------------------------------------------------------------ record and settle

    async def record(self, record: UsageRecord) -> RecordAnswer:
        """Stores the rows of a hold and posts their cost, or has the backlog do it as soon as it is possible."""
        return await workflow.execute_local_activity(
            RECORD_USAGE.name,
            RECORD_USAGE.takes(record),
            result_type=RECORD_USAGE.result,
            start_to_close_timeout=timedelta(minutes=1),
            retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=10)),
        )


def now_ms() -> int:
    return workflow.time_ns() // 1_000_000


def ms_of(time: datetime) -> int:
    return int(time.timestamp() * 1000)


def duration_ms(duration: timedelta | None) -> int | None:
    return None if duration is None else duration // timedelta(milliseconds=1)
