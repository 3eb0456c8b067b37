"""What the ledger does by itself: it wakes the desk in time, and brings what comes of it to the database, calls and
whoever gets alerts."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

from paymaster.admission.desk import Desk
from paymaster.admission.outbox import first_delivery
from paymaster.admission.senders import Senders
from paymaster.admission.timers import NEVER_MS
from paymaster.messages import Alerts, CallMessages, ConfigChange, Delivery, Notices, StatusCopy
from paymaster.messages.temporal_names import (
    ANSWER_CALLS,
    LOAD_SPEND,
    RECALL_PARKED,
    SEND_ALERTS,
    STORE_NOTICES,
    STORE_STATUS,
    ActivityName,
    ArgumentT,
    ResultT,
)
from paymaster.values.limits import COMMANDS_PER_RUN, DURATION_MS_MAX
from workflows.ledger_messages import workflow_now_ms
from workflows.queues import activities_queue_here

PAUSE = timedelta(milliseconds=250)
"""Between two deliveries, and between two looks at the clock, so that what comes meanwhile goes together."""
PAUSE_AFTER_FAILURE = timedelta(seconds=10)
GRACE = timedelta(seconds=1)
"""For an activity that is under way when the run ends and that people would see twice: an alert, say. Who waits for an
answer does not wait for it, and in that time come far fewer updates than the run still takes."""
COPY_GRACE = timedelta(seconds=2)
"""For a copy of the status, likewise, which takes one."""


class Duties:
    def __init__(self, desk: Desk, senders: Senders) -> None:
        self._desk = desk
        self._senders = senders
        self.next_rules = desk.state.rules
        """Those that the next run begins with."""
        self._tells_senders = False
        self._ends_copies = False
        """No copy of the status is under way when the run ends: Temporal takes no end while a result comes, and the
        worker that tried reads the whole run again."""
        self._is_told = False

    async def run(self, *, recall: bool) -> None:
        """Does them until this run is over. `recall`: calls may wait that were parked in a ledger which is lost."""
        begin = asyncio.create_task
        duties = [begin(self._keep_time()), begin(self._load_spend()), begin(self._answer_calls())]
        unhurried = [begin(self._store_notices()), begin(self._send_alerts())]
        if recall:
            unhurried.append(begin(self._recall_parked()))
        copies = self._desk.state.rules >= 2 and workflow.patched("ledger-copies-status")
        self._tells_senders = self._desk.state.rules >= 2 and workflow.patched("ledger-tells-senders")
        if self._tells_senders and workflow.patched("ledger-counts-commands"):
            self._senders.commands_max = COMMANDS_PER_RUN
            self._ends_copies = True
        if copies:
            (unhurried if self._ends_copies else duties).append(begin(self._copy_status()))
        await asyncio.gather(*duties, *unhurried, self._end(unhurried))

    async def _end(self, unhurried: Sequence[asyncio.Task[None]]) -> None:
        """Ends the run when nobody is about to send: each process is told before to come when the next one has begun.

        Updates are answered meanwhile, so that it does not matter to calls how long it takes.
        """
        await workflow.wait_condition(self._is_ending)
        if not self._tells_senders:
            return
        await asyncio.gather(*unhurried)
        state = self._desk.state
        handed_on = len(state.books.holds) + len(state.parked) + len(state.ended)
        told_within = timedelta(milliseconds=self._senders.tell_all(workflow_now_ms(), handed_on))
        if not self._senders.all_told:
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(
                    lambda: self._senders.all_told, timeout=told_within, timeout_summary="all senders know that it ends"
                )
        self._is_told = True

    async def _keep_time(self) -> None:
        """Wakes the desk when something happens by itself: a hold expires, a window ends, a parked call is due."""
        while True:
            due_ms = self._desk.due_ms
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(
                    lambda due_ms=due_ms: self._desk.due_ms < due_ms or self._is_over(),
                    timeout=None if due_ms >= NEVER_MS else _until(due_ms),
                    timeout_summary="a hold expires, or a parked call is due",
                )
            if self._is_over():
                return
            self._desk.advance(workflow_now_ms())

    async def _load_spend(self) -> None:
        """Reads what accounts have spent that were not in these books before."""
        while await self._next(lambda: self._desk.to_load() is not None, self._is_over):
            wanted = self._desk.to_load()
            assert wanted is not None  # nothing ran since
            loaded = await self._activity(LOAD_SPEND, wanted, self._is_over)
            if loaded is not None:
                self._desk.loaded(loaded, workflow_now_ms())

    async def _recall_parked(self) -> None:
        """Calls may wait that were parked in a ledger which is lost: they ask again."""
        while not self._is_ending():
            if await self._activity(RECALL_PARKED, None, self._is_ending) is not None:
                self._desk.state.recalls = False
                return

    async def _answer_calls(self) -> None:
        messages = self._desk.state.outbox
        while await self._next(lambda: bool(messages.messages), self._is_over):
            batch = CallMessages(messages=first_delivery(messages.messages))
            self._delivered(await self._activity(ANSWER_CALLS, batch, self._is_over))
            if self._tells_senders:
                with contextlib.suppress(TimeoutError):
                    await workflow.wait_condition(self._is_over, timeout=PAUSE, timeout_summary="between deliveries")
            else:
                await workflow.sleep(PAUSE, summary="between deliveries")

    async def _store_notices(self) -> None:
        state = self._desk.state
        while await self._next(lambda: bool(state.outbox.notices), self._is_ending):
            notices = first_delivery(state.outbox.notices)
            changed = any(isinstance(notice, ConfigChange) for notice in notices)
            config = state.config if changed else None
            batch = Notices(ledger=state.ledger, epoch=state.epoch, notices=notices, config=config)
            self._delivered(await self._activity(STORE_NOTICES, batch, self._is_ending))

    async def _send_alerts(self) -> None:
        state = self._desk.state
        while await self._next(lambda: bool(state.outbox.sending), self._is_ending):
            alerts = first_delivery(state.outbox.sending)
            batch = Alerts(ledger=state.ledger, epoch=state.epoch, alerts=alerts)
            self._delivered(await self._activity(SEND_ALERTS, batch, self._is_ending))

    async def _copy_status(self) -> None:
        """Writes how accounts stand to where everybody reads it; the activity takes a second, so that it is one copy a
        second at most, and no timer."""
        ends = self._is_ending if self._ends_copies else self._is_over
        while await self._next(lambda: self._desk.copies.is_due, ends):
            copy = self._desk.copies.take(workflow_now_ms())
            if not await self._is_stored(copy):
                self._desk.copies.again(copy)

    async def _is_stored(self, copy: StatusCopy) -> bool:
        """A run that ends does not wait for it: the next one writes the same accounts again."""
        storing = workflow.start_activity(
            STORE_STATUS.name,
            copy,
            task_queue=activities_queue_here(),
            start_to_close_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(maximum_attempts=1),
        )
        if self._ends_copies:
            await workflow.wait_condition(lambda: storing.done() or self._is_ending())
            if not storing.done():
                with contextlib.suppress(TimeoutError):
                    await workflow.wait_condition(
                        storing.done, timeout=COPY_GRACE, timeout_summary="the status is nearly copied"
                    )
        else:
            await workflow.wait_condition(lambda: storing.done() or self._is_over())
        if not storing.done():
            return False
        try:
            await storing
        except ActivityError as error:
            workflow.logger.warning("the copy of the status was not stored, trying again: %s", error.cause)
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(self._is_over, timeout=PAUSE_AFTER_FAILURE)
            return False
        return True

    def _is_ending(self) -> bool:
        """The server suggests a new run, newer rules need one, the desk wants to see the server's clock anew, or it had
        enough updates."""
        newer_rules = self.next_rules > self._desk.state.rules
        enough = self._tells_senders and self._senders.sent_enough
        return workflow.info().is_continue_as_new_suggested() or newer_rules or self._desk.wants_new_run or enough

    def _is_over(self) -> bool:
        """The next run may begin."""
        return self._is_told if self._tells_senders else self._is_ending()

    async def _next(self, has_work: Callable[[], bool], ends: Callable[[], bool]) -> bool:
        """Waits for work. False when it `ends`: the next run finds the work in the desk's state."""
        await workflow.wait_condition(lambda: has_work() or ends())
        return not ends()

    async def _activity(
        self, activity: ActivityName[ArgumentT, ResultT], batch: ArgumentT, ends: Callable[[], bool]
    ) -> ResultT | None:
        """The activity's result, or None, after a pause, when it failed: what was to be done is still to be done.

        None also when it `ends` meanwhile: a run takes 2,000 updates at most, and an activity may hang for minutes.
        """
        name = activity.name
        doing = workflow.start_activity(
            name,
            args=[] if batch is None else [batch],
            result_type=activity.result,
            task_queue=activities_queue_here(),
            start_to_close_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(maximum_attempts=3),
        )
        await workflow.wait_condition(lambda: doing.done() or ends())
        # What an activity has done that is left alone here, the next run has done again, and nobody is hurt by it:
        # load_spend only reads, and its question stays the same until its answer is here; recall_parked makes calls ask
        # again under the id that they have; a call takes an answer by its hold id and a withdrawal once; a notice is a
        # row by its sequence number, an expiry by its attempt; who gets an alert twice tells it by its sequence number.
        if not doing.done() and self._desk.state.rules >= 2 and workflow.patched("ledger-ends-at-once"):
            if not self._is_told:
                with contextlib.suppress(TimeoutError):
                    await workflow.wait_condition(
                        doing.done, timeout=GRACE, timeout_summary="an activity is nearly done"
                    )
            if not doing.done():
                return None
        try:
            return await doing
        except ActivityError as error:
            workflow.logger.warning("%s failed, trying again: %s", name, error.cause)
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(ends, timeout=PAUSE_AFTER_FAILURE)
            return None

    def _delivered(self, delivery: Delivery | None) -> None:
        if delivery is not None:
            self._desk.delivered(delivery, workflow_now_ms())


def _until(due_ms: int) -> timedelta:
    """How long to wait; within what Temporal can count, whatever an older version took for a time."""
    return max(PAUSE, timedelta(milliseconds=min(max(due_ms - workflow_now_ms(), 0), DURATION_MS_MAX)))
