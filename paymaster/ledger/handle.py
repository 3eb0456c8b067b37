"""One budget workflow from outside: what workers, admins and operators ask of a ledger."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
)
from temporalio.common import RawValue, WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from paymaster.admission.answers import digest_of
from paymaster.errors import AdminRefused, AdminStale, LedgerNotFound
from paymaster.ledger.group_commit import Busy, PoisonedBatch
from paymaster.ledger.updates import (
    UPDATE_ERRORS,
    Fate,
    Unanswered,
    fate_of,
    update_once,
    update_until_answered,
)
from paymaster.ledger.versions import RunningWorker, common_rules, running_workers
from paymaster.messages import (
    AcceptLower,
    AdminMessage,
    Answer,
    AnswerBatch,
    AttemptReport,
    AttemptReports,
    CallRef,
    CapState,
    ClockState,
    Command,
    CommandBatch,
    ConfigState,
    Configuration,
    Configure,
    CorrectSpend,
    DeskConfig,
    DeskStatus,
    EndRun,
    LedgerStart,
    PauseService,
    RaiseCap,
    RaiseRun,
    ReadAgain,
    ResumeRun,
    ResumeService,
    RunState,
    ServiceState,
    SetCap,
    Signature,
    StatusRequest,
    StoredRows,
    TakeClock,
    UnconfirmedHold,
    UnsetCap,
    Upgrade,
    Upgraded,
    backlog_workflow_id,
    budget_workflow_id,
)
from paymaster.messages.spending import SpendingReport
from paymaster.messages.temporal_names import (
    ACCEPT_LOWER,
    APPLY,
    COMPARE_ROWS,
    CONFIGURATION,
    CONFIGURE,
    CONTENT_OF_COMMAND,
    CORRECT_SPEND,
    END_RUN,
    LEDGER_WORKFLOW,
    PAUSE_SERVICE,
    RAISE_CAP,
    RAISE_RUN,
    RELOAD,
    REPORT_ATTEMPTS,
    REPORT_SPENDING,
    RESUME_RUN,
    RESUME_SERVICE,
    SET_CAP,
    STALE,
    STATUS,
    TAKE_CLOCK,
    UNCONFIRMED_HOLDS,
    UNSET_CAP,
    UPGRADE,
    WAITING,
    ArgumentT,
    QueryName,
    ResultT,
    UpdateName,
    ledger_task_queue,
)
from paymaster.security.payloads import as_raw, read_raw

ANSWER_WITHIN = timedelta(seconds=10)
"""How long an update or query to the ledger may take, asked for as often as need be, before it counts as unanswered."""


class NewRun(Busy):
    """An update came while the ledger began a new run."""


class Ledger:
    """One budget workflow, as seen from outside."""

    def __init__(self, client: Client, name: str = "default") -> None:
        self._client = client
        self.name = name
        self.namespace = client.namespace
        self._handle = client.get_workflow_handle(budget_workflow_id(name))
        self._reads_compressed = False
        """The ledger's last answer said that it does."""

    async def status(self) -> DeskStatus:
        """Accounts, holds and parked calls as of now. Raises LedgerNotFound."""
        status = await self._status_page(StatusRequest())
        accounts = status.accounts
        while status.more_accounts:
            status = await self._status_page(StatusRequest(after=accounts[-1].account))
            accounts += status.accounts
        return status.model_copy(update={"accounts": accounts})

    async def epoch(self) -> str:
        """Which books these are, for what a signed command has to name. Raises LedgerNotFound."""
        return (await self._status_page(StatusRequest(limit=1))).epoch

    async def _status_page(self, page: StatusRequest) -> DeskStatus:
        return await self._query(STATUS, page)

    async def _query(self, query: QueryName[ArgumentT, ResultT], argument: ArgumentT) -> ResultT:
        arguments = [] if argument is None else [as_raw(argument)]
        try:
            answer = await self._handle.query(
                query.name, args=arguments, result_type=RawValue, rpc_timeout=ANSWER_WITHIN
            )
        except WorkflowQueryFailedError as error:  # it is there, and a worker too
            raise LedgerNotFound(f"the ledger {self.name!r} cannot answer: {_reason(error)}") from error
        except RPCError as error:
            raise self._not_found(error) from error
        return read_raw(answer, query.result)

    async def raise_cap(self, change: RaiseCap, command_id: str | None = None) -> CapState:
        """Raises a cap and answers with the new one. Raises AdminRefused, with what exists, and LedgerNotFound.

        Every command of an admin takes a command id: given again with the same id it is not carried out twice but
        answered as it was the first time, also in a later run of the ledger's workflow. Default: a new id.
        """
        return await self._command(RAISE_CAP, change, command_id)

    async def signal_raise_cap(self, change: RaiseCap) -> None:
        """Raises a cap by signal, without an answer: what the ledger refuses shows in its status."""
        await self._handle.signal(RAISE_CAP.name, as_raw(RAISE_CAP.takes(change)))

    async def set_cap(self, change: SetCap, command_id: str | None = None) -> CapState:
        """Sets a cap, also where there was none. Raises AdminRefused and LedgerNotFound."""
        return await self._command(SET_CAP, change, command_id)

    async def unset_cap(self, change: UnsetCap, command_id: str | None = None) -> CapState:
        """Ends what admins made of a cap: the configuration's value counts. Raises AdminRefused and LedgerNotFound."""
        return await self._command(UNSET_CAP, change, command_id)

    async def raise_run(self, change: RaiseRun, command_id: str | None = None) -> RunState:
        """Gives a run more than its limits. Raises AdminRefused and LedgerNotFound."""
        return await self._command(RAISE_RUN, change, command_id)

    async def resume_run(self, change: ResumeRun, command_id: str | None = None) -> RunState:
        """Lets a run go on that is held as a runaway. Raises AdminRefused and LedgerNotFound."""
        return await self._command(RESUME_RUN, change, command_id)

    async def end_run(self, change: EndRun, command_id: str | None = None) -> RunState:
        """Lets no further call of a run begin. Raises AdminRefused and LedgerNotFound."""
        return await self._command(END_RUN, change, command_id)

    async def pause_service(self, change: PauseService, command_id: str | None = None) -> ServiceState:
        """Sends nothing more to a service. Raises AdminRefused and LedgerNotFound."""
        return await self._command(PAUSE_SERVICE, change, command_id)

    async def resume_service(self, change: ResumeService, command_id: str | None = None) -> ServiceState:
        """Ends a pause and an open breaker. Raises AdminRefused and LedgerNotFound."""
        return await self._command(RESUME_SERVICE, change, command_id)

    async def workers(self) -> list[RunningWorker]:
        """The workers that may get the ledger's tasks and those of its calls. Raises LedgerNotFound."""
        try:
            return await running_workers(self._client, self.name)
        except RPCError as error:
            raise self._not_found(error) from error

    async def upgrade(self, change: Upgrade, command_id: str | None = None) -> Upgraded:
        """Has the ledger continue as new by newer rules, which every worker must know. Raises AdminRefused and
        LedgerNotFound."""
        return await self._command(UPGRADE, change, command_id)

    async def rules(self) -> int:
        """By which rules the ledger decides. Raises LedgerNotFound."""
        return (await self._status_page(StatusRequest(limit=1))).rules

    async def configure(
        self,
        config: DeskConfig,
        command_id: str | None = None,
        *,
        force: bool = False,
        signature: Signature | None = None,
        who: str = "",
        may_remove: bool = False,
    ) -> ConfigState:
        """Applies a configuration; one that was superseded only by `force`. Raises LedgerNotFound.

        Budgets, services and caps that it lacks stay in force, unless it `may_remove` them. `who` brings it, and from
        where. Where signatures are required, one with other caps, budgets or `[admin]` needs one. Raises AdminRefused
        for a wrong one.
        """
        change = Configure(config=config, force=force, signature=signature, who=who, may_remove=may_remove)
        return await self._command(CONFIGURE, change, command_id)

    async def reload(self) -> None:
        """Reads again what every account has spent; calls wait meanwhile. Raises AdminRefused and LedgerNotFound."""
        await self._command(RELOAD, None, None)

    async def configuration(self) -> Configuration:
        """What the ledger decides with. Raises LedgerNotFound, also where a worker of version 0.1.0 answers."""
        return await self._query(CONFIGURATION, None)

    async def take_clock(self, change: TakeClock, command_id: str | None = None) -> ClockState:
        """Makes the ledger take the server's clock, also back. Raises AdminRefused and LedgerNotFound."""
        return await self._command(TAKE_CLOCK, change, command_id)

    async def accept_lower(self, change: AcceptLower, command_id: str | None = None) -> ReadAgain:
        """Takes the stored rows of an account for the truth. Raises AdminRefused and LedgerNotFound."""
        return await self._command(ACCEPT_LOWER, change, command_id)

    async def correct_spend(self, change: CorrectSpend, command_id: str | None = None) -> ReadAgain:
        """Reads the accounts of a hold again whose rows were corrected. Raises AdminRefused and LedgerNotFound."""
        return await self._command(CORRECT_SPEND, change, command_id)

    async def compare_rows(self, stored: StoredRows) -> ReadAgain:
        """Has everything read again if the database knows more than the ledger. Raises as the others."""
        return await self._command(COMPARE_ROWS, stored, None)

    async def unconfirmed_holds(self) -> list[UnconfirmedHold]:
        """The holds of which nobody knows whether they were billed, by id. Raises LedgerNotFound."""
        holds: list[UnconfirmedHold] = []
        while True:
            after = holds[-1].grant.hold_id if holds else ""
            page = await self._query(UNCONFIRMED_HOLDS, after)
            holds += page.holds
            if not page.more:
                return holds

    async def in_backlog(self) -> int:
        """Records that wait in the usage backlog to be stored or settled. Raises LedgerNotFound."""
        backlog = self._client.get_workflow_handle(backlog_workflow_id(self.name))
        try:
            if (await backlog.describe(rpc_timeout=ANSWER_WITHIN)).close_time is not None:
                return 0
            waiting = await backlog.query(WAITING.name, result_type=RawValue, rpc_timeout=ANSWER_WITHIN)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return 0
            raise self._not_found(error) from error
        return read_raw(waiting, WAITING.result)

    async def start(self, config: DeskConfig, command_id: str | None = None, *, who: str = "") -> ConfigState:
        """Starts the budget workflow where it does not run, and gives it this configuration where it does.

        Raises LedgerNotFound while that does not succeed, and AdminRefused for a configuration that is refused.
        """
        try:
            await self._start(config, who)
        except RPCError as error:
            raise self._not_found(error) from error
        return await self.configure(config, command_id, who=who)

    async def task_queue(self) -> str | None:
        """The one on which it runs. None: it does not run. Raises LedgerNotFound."""
        try:
            described = await self._handle.describe(rpc_timeout=ANSWER_WITHIN)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise self._not_found(error) from error
        return described.task_queue if described.status is WorkflowExecutionStatus.RUNNING else None

    async def report(self, reports: Sequence[AttemptReport]) -> Sequence[None]:
        """One signal with many reports of failed attempts."""
        batch = REPORT_ATTEMPTS.takes(AttemptReports(reports=tuple(reports)))
        await self._handle.signal(REPORT_ATTEMPTS.name, as_raw(batch), rpc_timeout=ANSWER_WITHIN)
        return [None] * len(reports)

    async def report_spending(self, report: SpendingReport) -> None:
        """One signal with what the ledger should tell people about what is spent."""
        report = REPORT_SPENDING.takes(report)
        await self._handle.signal(REPORT_SPENDING.name, as_raw(report), rpc_timeout=ANSWER_WITHIN)

    async def is_running(self, call: CallRef) -> bool:
        """Whether a call goes on, and may still report what it did cost."""
        try:
            description = await self._client.get_workflow_handle(call.workflow_id, run_id=call.run_id).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:  # longer ago than Temporal keeps
                return False
            raise
        return description.status is WorkflowExecutionStatus.RUNNING

    async def send(self, commands: Sequence[Command]) -> Sequence[Answer]:
        """Sends many commands in one update until they are answered. Raises LedgerNotFound and AdminRefused."""
        batch = CommandBatch(commands=tuple(commands))
        return (await self._command(APPLY, batch, None)).answers

    async def apply(
        self,
        commands: Sequence[Command],
        config: DeskConfig,
        *,
        who: str = "",
        sender: str = "",
        was_refused: bool = False,
    ) -> AnswerBatch:
        """Sends many commands in one update, once, for a worker. If the ledger is missing, starts it, then raises.

        `config` is what a missing ledger is started with, and `who` brings it. `sender` is a name by which the ledger
        counts those who wait for their turn, and `was_refused` says that an update of it was, since its last answer.

        Raises PoisonedBatch when the update itself was refused, Busy when Temporal takes no more now, NewRun when it
        came while a new run began, and one of UPDATE_ERRORS when it should be sent again for another reason.
        """
        batch = CommandBatch(commands=tuple(commands), sender=sender, was_refused=was_refused, reads_compressed=True)
        try:
            answer = await update_once(
                self._handle, APPLY, batch, within=ANSWER_WITHIN, compress=self._reads_compressed
            )
            self._reads_compressed = answer.reads_compressed
            return answer
        except UPDATE_ERRORS as error:
            self._reads_compressed = False  # it may be lost, and an older worker begin it anew
            fate = fate_of(error)
            if fate is Fate.REFUSED:
                raise PoisonedBatch(_reason(error)) from error
            if fate is Fate.NO_LEDGER:
                await self._start(config, who)
            if fate is Fate.BUSY:
                raise Busy(str(error)) from error
            if fate is Fate.NEW_RUN:
                raise NewRun(str(error)) from error
            raise

    async def _command(
        self, update: UpdateName[ArgumentT, ResultT], message: ArgumentT, command_id: str | None
    ) -> ResultT:
        """The answer to an update, asked for until there is one. Raises AdminRefused and LedgerNotFound."""
        command_id = command_id or uuid4().hex
        try:
            return await update_until_answered(
                self._handle, update, message, within=ANSWER_WITHIN, update_id=_update_id(command_id, update, message)
            )
        except Unanswered as error:
            raise self._not_found(error, None if error.nothing_applied else command_id) from error
        except UPDATE_ERRORS as error:
            if fate_of(error) is Fate.REFUSED:
                raise (AdminStale if _is_stale(error) else AdminRefused)(_reason(error)) from error
            raise self._not_found(error) from error

    async def _start(self, config: DeskConfig, who: str) -> None:
        await self._client.start_workflow(
            LEDGER_WORKFLOW.name,
            as_raw(
                LEDGER_WORKFLOW.takes(
                    LedgerStart(
                        ledger=self.name, config=config, rules=await common_rules(self._client, self.name), who=who
                    )
                )
            ),
            id=budget_workflow_id(self.name),
            task_queue=ledger_task_queue(self.name),
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            static_summary=f"the books of ledger {self.name}",
        )

    def _not_found(self, error: Exception, unanswered: str | None = None) -> LedgerNotFound:
        """`unanswered`: the id of a command of which nobody knows whether it was carried out. None: it was not."""
        return LedgerNotFound(
            f"no ledger {self.name!r} answered in the Temporal namespace {self.namespace!r} ({error}); "
            "is a worker of it running? `paymaster worker`, with that ledger's configuration, starts one",
            unanswered,
        )


def _update_id(command_id: str, update: UpdateName[ArgumentT, ResultT], message: ArgumentT) -> str:
    """Temporal takes two updates of one id for one, whatever they say; so the content is in the id, and the ledger sees
    that a command id is used for another command."""
    if not isinstance(message, AdminMessage | Configure):
        return command_id
    return f"{command_id}{CONTENT_OF_COMMAND}{digest_of(update.name, message)}"


def _is_stale(error: Exception) -> bool:
    cause = error.cause if isinstance(error, WorkflowUpdateFailedError) else None
    return isinstance(cause, ApplicationError) and cause.type == STALE


def _reason(error: BaseException) -> str:
    """What the ledger said, or why it could not."""
    if isinstance(error, WorkflowUpdateFailedError):
        error = error.cause
    message = error.message if isinstance(error, ApplicationError) else str(error)
    if message == "Encoded failure":  # the SDK's words for a failure whose text is encrypted
        return (
            "what it says is encrypted with a key that is not at hand here; "
            "compare [encryption] keys with those of the workers"
        )
    if message == "Failed decoding arguments" and error.__cause__ is not None:  # the SDK's, too
        return _reason(error.__cause__)
    return message
