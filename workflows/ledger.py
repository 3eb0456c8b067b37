"""BudgetWorkflow: a durable shell around the desk. It receives, applies and persists; every decision is the desk's.

It runs for ever, on its own task queue. Calls send commands by the update `apply`, many in one (see
paymaster/ledger/group_commit.py), and reports of failed attempts by the signal `report_attempts`. Admins send
`raise_cap`, `set_cap`, `pause_service` and `resume_service`, as signals or as updates that answer. Operators ask the
query `status`.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ActivityError

from paymaster.admission.desk import Desk
from paymaster.admission.outbox import first_delivery
from paymaster.admission.state import DeskState, NewerState, check_rules
from paymaster.admission.timers import NEVER_MS
from paymaster.messages import (
    ACTIVITIES_TASK_QUEUE,
    AcceptLower,
    Alerts,
    Answer,
    AnswerBatch,
    AskStanding,
    CallMessages,
    CapState,
    ClockState,
    Command,
    CommandBatch,
    ConfigChange,
    ConfigState,
    Configuration,
    Configure,
    CorrectSpend,
    Delivery,
    Denied,
    DeskConfig,
    DeskStatus,
    EndRun,
    LedgerStart,
    Notices,
    PauseService,
    RaiseCap,
    RaiseRun,
    ReadAgain,
    Refused,
    Reserve,
    ResumeRun,
    ResumeService,
    RunState,
    ServiceState,
    SetCap,
    Settle,
    StandingAnswer,
    StatusRequest,
    StoredRows,
    TakeClock,
    UnconfirmedHolds,
    Upgrade,
    Upgraded,
    Void,
)
from paymaster.messages.bounds import check_batch, check_command, check_config, check_report, check_stored_rows
from paymaster.messages.temporal_names import (
    ACCEPT_LOWER,
    ANSWER_CALLS,
    CONFIGURE,
    CORRECT_SPEND,
    END_RUN,
    LEDGER_WORKFLOW,
    LOAD_SPEND,
    PAUSE_SERVICE,
    RAISE_CAP,
    RAISE_RUN,
    RECALL_PARKED,
    REPORT_ATTEMPTS,
    RESUME_RUN,
    RESUME_SERVICE,
    SEND_ALERTS,
    SET_CAP,
    STORE_NOTICES,
    TAKE_CLOCK,
    UPGRADE,
    ActivityName,
    ArgumentT,
    ResultT,
)
from paymaster.observability.temporal_ui import ledger_details
from paymaster.values.limits import DURATION_MS_MAX, ID_CHARACTERS_MAX
from workflows.ledger_messages import LedgerMessages, refuse_unless, workflow_now_ms
from workflows.signals import tolerate_any_payload_count
from workflows.updates import with_one_message

PAUSE = timedelta(milliseconds=250)
"""Between two deliveries, and between two looks at the clock, so that what comes meanwhile goes together."""
PAUSE_AFTER_FAILURE = timedelta(seconds=10)
GRACE = timedelta(seconds=1)
"""For an activity that is under way when the run ends, so that little is done twice. In that time come far fewer
updates than the run still takes: Temporal suggests a new one at 1,800 of 2,000."""
SIGNALS = (
    RAISE_CAP,
    SET_CAP,
    RAISE_RUN,
    RESUME_RUN,
    END_RUN,
    PAUSE_SERVICE,
    RESUME_SERVICE,
    TAKE_CLOCK,
    ACCEPT_LOWER,
    REPORT_ATTEMPTS,
)


@workflow.defn(name=LEDGER_WORKFLOW.name, sandboxed=False)
class BudgetWorkflow:
    @workflow.init
    def __init__(self, start: LedgerStart) -> None:
        """Restores the desk here and not in `run`: a signal can be handled before `run` begins."""
        try:
            check_rules(start.rules)
            desk = None if start.state is None else Desk.load(start.state)
        except NewerState as error:  # fails this task, which Temporal offers again until a newer worker takes it
            _log_once(f"ledger {start.ledger}: {error}")
            raise
        if desk is None:
            epoch = workflow.info().first_execution_run_id
            desk = Desk(DeskState(ledger=start.ledger, epoch=epoch, rules=start.rules, recalls=start.rules >= 2))
            desk.configure(start.config, workflow_now_ms(), who=start.who)
        self._desk, self._messages = desk, LedgerMessages(desk)
        self._next_rules = desk.state.rules

    @workflow.run
    async def run(self, start: LedgerStart) -> None:
        """Does its duties until the server suggests a new run, which then begins with the same desk."""
        duties = [self._keep_time, self._load_spend, self._answer_calls, self._store_notices, self._send_alerts]
        if start.state is None or self._desk.state.recalls:
            duties.append(self._recall_parked)
        await asyncio.gather(*(duty() for duty in duties))
        await workflow.wait_condition(workflow.all_handlers_finished)
        state = self._desk.state
        config = DeskConfig(digest=state.config.digest)  # the whole of it is in the state
        dumped = self._desk.handed_on(self._next_rules)
        workflow.continue_as_new(LedgerStart(ledger=state.ledger, config=config, state=dumped))

    # ------------------------------------------------------------ duties

    async def _keep_time(self) -> None:
        """Wakes the desk when something happens by itself: a hold expires, a window ends, a parked call is due."""
        while True:
            due_ms = self._desk.due_ms
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(
                    lambda due_ms=due_ms: self._desk.due_ms < due_ms or self._is_ending(),
                    timeout=None if due_ms >= NEVER_MS else _until(due_ms),
                    timeout_summary="a hold expires, or a parked call is due",
                )
            if self._is_ending():
                return
            self._desk.advance(workflow_now_ms())

    async def _load_spend(self) -> None:
        """Reads what accounts have spent that were not in these books before."""
        while await self._next(lambda: self._desk.to_load() is not None):
            wanted = self._desk.to_load()
            assert wanted is not None  # nothing ran since
            loaded = await self._activity(LOAD_SPEND, wanted)
            if loaded is not None:
                self._desk.loaded(loaded, workflow_now_ms())

    async def _recall_parked(self) -> None:
        """Calls may wait that were parked in a ledger which is lost: they ask again."""
        while not self._is_ending():
            if await self._activity(RECALL_PARKED, None) is not None:
                self._desk.state.recalls = False
                return

    async def _answer_calls(self) -> None:
        messages = self._desk.state.outbox
        while await self._next(lambda: bool(messages.messages)):
            batch = CallMessages(messages=first_delivery(messages.messages))
            self._delivered(await self._activity(ANSWER_CALLS, batch))
            await workflow.sleep(PAUSE, summary="between deliveries")

    async def _store_notices(self) -> None:
        state = self._desk.state
        while await self._next(lambda: bool(state.outbox.notices)):
            notices = first_delivery(state.outbox.notices)
            changed = any(isinstance(notice, ConfigChange) for notice in notices)
            config = state.config if changed else None
            batch = Notices(ledger=state.ledger, epoch=state.epoch, notices=notices, config=config)
            self._delivered(await self._activity(STORE_NOTICES, batch))

    async def _send_alerts(self) -> None:
        state = self._desk.state
        while await self._next(lambda: bool(state.outbox.sending)):
            alerts = first_delivery(state.outbox.sending)
            batch = Alerts(ledger=state.ledger, epoch=state.epoch, alerts=alerts)
            self._delivered(await self._activity(SEND_ALERTS, batch))

    def _is_ending(self) -> bool:
        """The server suggests a new run, newer rules need one, or the desk wants to see the server's clock anew."""
        newer_rules = self._next_rules > self._desk.state.rules
        return workflow.info().is_continue_as_new_suggested() or newer_rules or self._desk.wants_new_run

    async def _next(self, has_work: Callable[[], bool]) -> bool:
        """Waits for work. False when this run is ending: the next run finds the work in the desk's state."""
        await workflow.wait_condition(lambda: has_work() or self._is_ending())
        return not self._is_ending()

    async def _activity(self, activity: ActivityName[ArgumentT, ResultT], batch: ArgumentT) -> ResultT | None:
        """The activity's result, or None, after a pause, when it failed: what was to be done is still to be done.

        None also when the run ends meanwhile: it takes 2,000 updates at most, and an activity may hang for minutes.
        """
        name = activity.name
        doing = workflow.start_activity(
            name,
            args=[] if batch is None else [batch],
            result_type=activity.result,
            task_queue=ACTIVITIES_TASK_QUEUE,
            start_to_close_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(maximum_attempts=3),
        )
        await workflow.wait_condition(lambda: doing.done() or self._is_ending())
        # What an activity has done that is left alone here, the next run has done again, and nobody is hurt by it:
        # load_spend only reads, and its question stays the same until its answer is here; recall_parked makes calls ask
        # again under the id that they have; a call takes an answer by its hold id and a withdrawal once; a notice is a
        # row by its sequence number, an expiry by its attempt; who gets an alert twice tells it by its sequence number.
        if not doing.done() and self._desk.state.rules >= 2 and workflow.patched("ledger-ends-at-once"):
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(doing.done, timeout=GRACE, timeout_summary="an activity is nearly done")
            if not doing.done():
                return None
        try:
            return await doing
        except ActivityError as error:
            workflow.logger.warning("%s failed, trying again: %s", name, error.cause)
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(self._is_ending, timeout=PAUSE_AFTER_FAILURE)
            return None

    def _delivered(self, delivery: Delivery | None) -> None:
        if delivery is not None:
            self._desk.delivered(delivery, workflow_now_ms())

    # ------------------------------------------------------------ calls

    @workflow.update
    @with_one_message
    def apply(self, batch: CommandBatch) -> AnswerBatch:
        """One answer for each command, in order."""
        refuse_unless(check_batch, batch)
        answers = tuple(self._apply(command) for command in batch.commands)
        self._desk.advance(workflow_now_ms())
        return AnswerBatch(answers=answers)

    def _apply(self, command: Command) -> Answer:
        try:
            check_command(command)
        except ValueError as error:
            return _not_applied(command, "out_of_bounds", str(error))
        try:
            return self._desk.handle(command, workflow_now_ms())
        except Exception as error:  # a defect in one command must not stop the ledger for all the others
            workflow.logger.exception("the desk failed on %s", command.kind)
            return _not_applied(command, "ledger_error", repr(error))

    @workflow.signal
    @tolerate_any_payload_count
    def report_attempts(self, message: RawValue) -> None:
        if batch := self._messages.decoded(REPORT_ATTEMPTS, message):
            for report in batch.reports:
                try:
                    check_report(report)
                except ValueError as error:
                    self._messages.refuse(REPORT_ATTEMPTS.name, report.model_dump_json(), str(error))
                    continue
                try:
                    self._desk.report(report, workflow_now_ms())
                except Exception as error:  # as in `_apply`
                    self._messages.failed(REPORT_ATTEMPTS.name, report, error)

    @workflow.update
    @with_one_message
    def configure(self, change: Configure) -> ConfigState:
        """A worker's configuration; the same one again changes nothing."""
        return self._messages.answered(CONFIGURE, self._configure, change)

    def _configure(self, change: Configure, now_ms: int) -> ConfigState:
        check_config(change.config)
        state = self._desk.configure(
            change.config,
            now_ms,
            force=change.force,
            signature=change.signature,
            who=change.who,
            may_remove=change.may_remove,
        )
        return state.model_copy(update={"rules": self._desk.state.rules})

    @workflow.update
    @with_one_message
    def upgrade(self, change: Upgrade) -> Upgraded:
        """Newer rules, with a new run: a worker that does not know them cannot follow one that began with others."""
        answer = self._messages.answered(UPGRADE, self._desk.upgrade, change)
        self._next_rules = max(self._next_rules, answer.rules)
        return answer

    @workflow.update
    def reload(self, *ignored: object) -> None:
        """Reads again what every account has spent: the stored entries are the truth."""
        self._desk.reload(workflow_now_ms())

    @workflow.update
    @with_one_message
    def compare_rows(self, stored: StoredRows) -> ReadAgain:
        """Everything is read again if the database knows more than a ledger that was put back to an earlier time."""
        refuse_unless(check_stored_rows, stored)
        return self._desk.compare_rows(stored, workflow_now_ms())

    # ------------------------------------------------------------ admins and operators

    @workflow.signal(name=RAISE_CAP.name)
    @tolerate_any_payload_count
    def raise_cap_signal(self, message: RawValue) -> None:
        self._messages.signalled(RAISE_CAP, self._desk.raise_cap, message)

    @workflow.signal(name=SET_CAP.name)
    @tolerate_any_payload_count
    def set_cap_signal(self, message: RawValue) -> None:
        self._messages.signalled(SET_CAP, self._desk.set_cap, message)

    @workflow.signal(name=PAUSE_SERVICE.name)
    @tolerate_any_payload_count
    def pause_service_signal(self, message: RawValue) -> None:
        self._messages.signalled(PAUSE_SERVICE, self._desk.pause_service, message)

    @workflow.signal(name=RESUME_SERVICE.name)
    @tolerate_any_payload_count
    def resume_service_signal(self, message: RawValue) -> None:
        self._messages.signalled(RESUME_SERVICE, self._desk.resume_service, message)

    @workflow.update(name=RAISE_CAP.name)
    @with_one_message
    def raise_cap_update(self, change: RaiseCap) -> CapState:
        return self._messages.answered(RAISE_CAP, self._desk.raise_cap, change)

    @workflow.update(name=SET_CAP.name)
    @with_one_message
    def set_cap_update(self, change: SetCap) -> CapState:
        return self._messages.answered(SET_CAP, self._desk.set_cap, change)

    @workflow.signal(name=RAISE_RUN.name)
    @tolerate_any_payload_count
    def raise_run_signal(self, message: RawValue) -> None:
        self._messages.signalled(RAISE_RUN, self._desk.raise_run, message)

    @workflow.signal(name=RESUME_RUN.name)
    @tolerate_any_payload_count
    def resume_run_signal(self, message: RawValue) -> None:
        self._messages.signalled(RESUME_RUN, self._desk.resume_run, message)

    @workflow.signal(name=END_RUN.name)
    @tolerate_any_payload_count
    def end_run_signal(self, message: RawValue) -> None:
        self._messages.signalled(END_RUN, self._desk.end_run, message)

    @workflow.update(name=RAISE_RUN.name)
    @with_one_message
    def raise_run_update(self, change: RaiseRun) -> RunState:
        return self._messages.answered(RAISE_RUN, self._desk.raise_run, change)

    @workflow.update(name=RESUME_RUN.name)
    @with_one_message
    def resume_run_update(self, change: ResumeRun) -> RunState:
        return self._messages.answered(RESUME_RUN, self._desk.resume_run, change)

    @workflow.update(name=END_RUN.name)
    @with_one_message
    def end_run_update(self, change: EndRun) -> RunState:
        return self._messages.answered(END_RUN, self._desk.end_run, change)

    @workflow.update(name=PAUSE_SERVICE.name)
    @with_one_message
    def pause_service_update(self, change: PauseService) -> ServiceState:
        return self._messages.answered(PAUSE_SERVICE, self._desk.pause_service, change)

    @workflow.update(name=RESUME_SERVICE.name)
    @with_one_message
    def resume_service_update(self, change: ResumeService) -> ServiceState:
        return self._messages.answered(RESUME_SERVICE, self._desk.resume_service, change)

    @workflow.signal(name=TAKE_CLOCK.name)
    @tolerate_any_payload_count
    def take_clock_signal(self, message: RawValue) -> None:
        self._messages.signalled(TAKE_CLOCK, self._desk.take_clock, message)

    @workflow.update(name=TAKE_CLOCK.name)
    @with_one_message
    def take_clock_update(self, change: TakeClock) -> ClockState:
        return self._messages.answered(TAKE_CLOCK, self._desk.take_clock, change)

    @workflow.signal(name=ACCEPT_LOWER.name)
    @tolerate_any_payload_count
    def accept_lower_signal(self, message: RawValue) -> None:
        self._messages.signalled(ACCEPT_LOWER, self._desk.accept_lower, message)

    @workflow.update(name=ACCEPT_LOWER.name)
    @with_one_message
    def accept_lower_update(self, change: AcceptLower) -> ReadAgain:
        return self._messages.answered(ACCEPT_LOWER, self._desk.accept_lower, change)

    @workflow.update
    @with_one_message
    def correct_spend(self, change: CorrectSpend) -> ReadAgain:
        """The accounts of a hold are read again, of which a person corrected the rows."""
        return self._messages.answered(CORRECT_SPEND, self._desk.correct_spend, change)

    @workflow.signal(dynamic=True)
    def unknown_signal(self, name: str, messages: Sequence[RawValue]) -> None:
        """A misspelt name is seen too: the SDK would keep such a signal for a handler that never comes."""
        text = messages[0].payload.data.decode(errors="replace") if messages else ""
        self._messages.refuse(
            name, text, f"there is no such signal; there are: {', '.join(signal.name for signal in SIGNALS)}"
        )

    @workflow.query
    def status(self, page: StatusRequest | None = None) -> DeskStatus:
        """The status of this moment: breakers cool down and windows end also while nothing happens here."""
        with workflow.unsafe.sandbox_unrestricted():
            now_ms = (
                time.time_ns() // 1_000_000
            )  # a query is no part of the history, and has no workflow time of its own
        return self._desk.status(page or StatusRequest(), now_ms)

    @workflow.query
    def configuration(self) -> Configuration:
        """What the ledger decides with, and which caps are an admin's."""
        return self._desk.configuration()

    @workflow.query
    def unconfirmed_holds(self, after: str = "") -> UnconfirmedHolds:
        """One page of the holds of which nobody knows whether they were billed, after this hold id."""
        return self._desk.unconfirmed_holds(after)

    def live_details(self) -> str:
        """The status for people, in the Temporal UI."""
        return ledger_details(self._desk.status())


logged: set[str] = set()
"""What this process has said already."""


def _log_once(text: str) -> None:
    """Logs, also while a history is replayed, what would otherwise be said at every attempt."""
    if text not in logged:
        logged.add(text)
        logging.getLogger(__name__).error("%s", text)


def _not_applied(command: Command, reason: str, detail: str) -> Answer:
    match command:
        case Reserve():
            return Denied(hold_id=command.hold_id[:ID_CHARACTERS_MAX], reason=reason, detail=detail)
        case AskStanding():
            return StandingAnswer(unknown=detail)
        case Settle() | Void():
            return Refused(hold_id=command.hold_id[:ID_CHARACTERS_MAX], detail=detail)


def _until(due_ms: int) -> timedelta:
    """How long to wait; within what Temporal can count, whatever an older version took for a time."""
    return max(PAUSE, timedelta(milliseconds=min(max(due_ms - workflow_now_ms(), 0), DURATION_MS_MAX)))
