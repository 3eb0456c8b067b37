"""BudgetWorkflow: a durable shell around the desk. It receives, applies and persists; every decision is the desk's.

It runs for ever, on its own task queue. Calls send commands by the update `apply`, many in one (see
paymaster/ledger/group_commit.py), and reports of failed attempts by the signal `report_attempts`. Admins send
`raise_cap`, `set_cap`, `unset_cap`, `pause_service` and others, as signals or as updates that answer. Operators ask
the query `status`.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel
from temporalio import workflow
from temporalio.common import RawValue

from paymaster.admission.desk import Desk
from paymaster.admission.senders import Senders
from paymaster.admission.state import DeskState, NewerState, check_rules
from paymaster.messages import (
    AcceptLower,
    Answer,
    AnswerBatch,
    AskStanding,
    CapState,
    ClockState,
    Command,
    CommandBatch,
    ConfigState,
    Configuration,
    Configure,
    CorrectSpend,
    Denied,
    DeskConfig,
    DeskStatus,
    EndRun,
    LedgerStart,
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
    UnsetCap,
    Upgrade,
    Upgraded,
    Void,
)
from paymaster.messages.bounds import (
    check_batch,
    check_command,
    check_config,
    check_foreseen,
    check_report,
    check_stored_rows,
    check_unusual,
)
from paymaster.messages.temporal_names import (
    ACCEPT_LOWER,
    CONFIGURE,
    CORRECT_SPEND,
    END_RUN,
    LEDGER_WORKFLOW,
    PAUSE_SERVICE,
    RAISE_CAP,
    RAISE_RUN,
    REPORT_ATTEMPTS,
    REPORT_SPENDING,
    RESUME_RUN,
    RESUME_SERVICE,
    SET_CAP,
    TAKE_CLOCK,
    UNSET_CAP,
    UPGRADE,
    SignalName,
)
from paymaster.observability.temporal_ui import ledger_details
from paymaster.security.payloads import as_raw, compressed
from paymaster.values.limits import ID_CHARACTERS_MAX
from workflows.ledger_duties import Duties
from workflows.ledger_messages import EXAMPLES, LedgerMessages, refuse_unless, workflow_now_ms
from workflows.signals import tolerate_any_payload_count
from workflows.updates import with_one_message

MessageT = TypeVar("MessageT", bound=BaseModel)

SIGNALS = (
    RAISE_CAP,
    SET_CAP,
    UNSET_CAP,
    RAISE_RUN,
    RESUME_RUN,
    END_RUN,
    PAUSE_SERVICE,
    RESUME_SERVICE,
    TAKE_CLOCK,
    ACCEPT_LOWER,
    REPORT_ATTEMPTS,
    REPORT_SPENDING,
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
        self._senders = Senders(start.senders, start.next_turn_at_ms, start.spacing_ms)
        self._desk, self._messages, self._duties = desk, LedgerMessages(desk), Duties(desk, self._senders)

    @workflow.run
    async def run(self, start: LedgerStart) -> None:
        """Does its duties until this run has had enough; a new one then begins with the same desk."""
        self._lets_go = asyncio.create_task(self._let_go_at_last())
        await self._duties.run(recall=start.state is None or self._desk.state.recalls)
        await workflow.wait_condition(workflow.all_handlers_finished)
        state = self._desk.state
        config = DeskConfig(digest=state.config.digest)  # the whole of it is in the state
        dumped = self._desk.handed_on(self._duties.next_rules)
        senders = self._senders
        workflow.continue_as_new(
            LedgerStart(
                ledger=state.ledger,
                config=config,
                state=dumped,
                senders=senders.count(workflow_now_ms()),
                next_turn_at_ms=senders.next_at_ms,
                spacing_ms=senders.spacing_ms,
            )
        )

    async def _let_go_at_last(self) -> None:
        """Frees the desk when a worker forgets this run, as it does one that has ended: what goes on is cancelled then.

        The SDK's instance of a run refers to itself, and to find thousands of holds as garbage stops the ledger for a
        tenth of a second.
        """
        try:
            await asyncio.Event().wait()
        finally:
            del self._desk, self._messages, self._duties

    # ------------------------------------------------------------ calls

    @workflow.update
    @with_one_message
    def apply(self, batch: CommandBatch) -> RawValue:
        """An AnswerBatch: one answer for each command, in order, and when this sender's next update may come."""
        refuse_unless(check_batch, batch)
        answers = tuple(self._apply(command) for command in batch.commands)
        now_ms = workflow_now_ms()
        self._desk.advance(now_ms)
        answer = AnswerBatch(
            answers=answers,
            next_after_ms=self._senders.heard(batch.sender, now_ms, len(batch.commands), was_refused=batch.was_refused),
            alone=self._senders.count(now_ms) <= 1,
            reads_compressed=self._desk.state.rules >= 2,
        )
        return compressed(answer) if batch.reads_compressed else as_raw(answer)

    def _apply(self, command: Command) -> Answer:
        try:
            size = check_command(command)
        except ValueError as error:
            return _not_applied(command, "out_of_bounds", str(error))
        try:
            return self._desk.handle(command, workflow_now_ms(), size)
        except Exception as error:  # a defect in one command must not stop the ledger for all the others
            workflow.logger.exception("the desk failed on %s", command.kind)
            return _not_applied(command, "ledger_error", repr(error))

    @workflow.signal(description="Workers send it: failed attempts.")
    @tolerate_any_payload_count
    def report_attempts(self, message: RawValue) -> None:
        if batch := self._messages.decoded(REPORT_ATTEMPTS, message):
            for report in batch.reports:
                self._reported(REPORT_ATTEMPTS, report, check_report, self._desk.report)

    @workflow.signal(description="Workers send it: what people should know of what was spent.")
    @tolerate_any_payload_count
    def report_spending(self, message: RawValue) -> None:
        if batch := self._messages.decoded(REPORT_SPENDING, message):
            for foreseen in batch.foreseen:
                self._reported(REPORT_SPENDING, foreseen, check_foreseen, self._desk.tell_of)
            for unusual in batch.unusual:
                self._reported(REPORT_SPENDING, unusual, check_unusual, self._desk.tell_of)

    def _reported(
        self,
        signal: SignalName[Any],
        report: MessageT,
        check: Callable[[MessageT], None],
        take: Callable[[MessageT, int], None],
    ) -> None:
        try:
            check(report)
        except ValueError as error:
            self._messages.refuse(signal.name, report.model_dump_json(), str(error))
            return
        try:
            take(report, workflow_now_ms())
        except Exception as error:  # as in `_apply`
            self._messages.failed(signal.name, report, error)

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
        self._duties.next_rules = max(self._duties.next_rules, answer.rules)
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

    @workflow.signal(name=RAISE_CAP.name, description=EXAMPLES[RAISE_CAP.name])
    @tolerate_any_payload_count
    def raise_cap_signal(self, message: RawValue) -> None:
        self._messages.signalled(RAISE_CAP, self._desk.raise_cap, message)

    @workflow.signal(name=SET_CAP.name, description=EXAMPLES[SET_CAP.name])
    @tolerate_any_payload_count
    def set_cap_signal(self, message: RawValue) -> None:
        self._messages.signalled(SET_CAP, self._desk.set_cap, message)

    @workflow.signal(name=PAUSE_SERVICE.name, description=EXAMPLES[PAUSE_SERVICE.name])
    @tolerate_any_payload_count
    def pause_service_signal(self, message: RawValue) -> None:
        self._messages.signalled(PAUSE_SERVICE, self._desk.pause_service, message)

    @workflow.signal(name=RESUME_SERVICE.name, description=EXAMPLES[RESUME_SERVICE.name])
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

    @workflow.signal(name=UNSET_CAP.name, description=EXAMPLES[UNSET_CAP.name])
    @tolerate_any_payload_count
    def unset_cap_signal(self, message: RawValue) -> None:
        self._messages.signalled(UNSET_CAP, self._desk.unset_cap, message)

    @workflow.update(name=UNSET_CAP.name)
    @with_one_message
    def unset_cap_update(self, change: UnsetCap) -> CapState:
        return self._messages.answered(UNSET_CAP, self._desk.unset_cap, change)

    @workflow.signal(name=RAISE_RUN.name, description=EXAMPLES[RAISE_RUN.name])
    @tolerate_any_payload_count
    def raise_run_signal(self, message: RawValue) -> None:
        self._messages.signalled(RAISE_RUN, self._desk.raise_run, message)

    @workflow.signal(name=RESUME_RUN.name, description=EXAMPLES[RESUME_RUN.name])
    @tolerate_any_payload_count
    def resume_run_signal(self, message: RawValue) -> None:
        self._messages.signalled(RESUME_RUN, self._desk.resume_run, message)

    @workflow.signal(name=END_RUN.name, description=EXAMPLES[END_RUN.name])
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

    @workflow.signal(name=TAKE_CLOCK.name, description=EXAMPLES[TAKE_CLOCK.name])
    @tolerate_any_payload_count
    def take_clock_signal(self, message: RawValue) -> None:
        self._messages.signalled(TAKE_CLOCK, self._desk.take_clock, message)

    @workflow.update(name=TAKE_CLOCK.name)
    @with_one_message
    def take_clock_update(self, change: TakeClock) -> ClockState:
        return self._messages.answered(TAKE_CLOCK, self._desk.take_clock, change)

    @workflow.signal(name=ACCEPT_LOWER.name, description=EXAMPLES[ACCEPT_LOWER.name])
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

    @workflow.signal(dynamic=True, description="Any other name: refused, with the names that there are.")
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
