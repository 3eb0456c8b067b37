"""Paymaster from outside a workflow: calls, and what admins and operators ask of the ledger."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

from temporalio.client import (
    Client,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.envconfig import ClientConfig
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from paymaster.errors import AdminRefused, CallIdReused, LedgerNotFound, completed_or_raise
from paymaster.group_commit import PoisonedBatch
from paymaster.messages import (
    CALLS_TASK_QUEUE,
    LEDGER_TASK_QUEUE,
    Answer,
    AnswerBatch,
    CapState,
    Command,
    CommandBatch,
    DeskConfig,
    DeskStatus,
    LedgerStart,
    LLMRequest,
    LLMResult,
    RaiseCap,
    budget_workflow_id,
    call_workflow_id,
)
from paymaster.plugin import PaymasterPlugin

ANSWER_WITHIN = timedelta(seconds=10)
"""How long one update or query to the ledger may take before it counts as unanswered."""


async def connect() -> Client:
    """A client of the Temporal that the standard environment configuration names (temporal.toml, TEMPORAL_ADDRESS, …).

    Without one: localhost:7233. Raises RuntimeError when it can't be reached.
    """
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", "localhost:7233")
    return await Client.connect(**config, plugins=[PaymasterPlugin()])


async def generate(client: Client, request: LLMRequest) -> LLMResult:
    """The answer of a model. Raises CallDenied, CallUnavailable and CallIdReused, like `paymaster.generate`."""
    return completed_or_raise(await try_generate(client, request))


async def try_generate(client: Client, request: LLMRequest) -> LLMResult:
    """The same, but returns what is not completed too. Raises only CallIdReused."""
    handle = await start(client, request)
    result = await handle.result()
    if request.call_id is not None and result.request_digest != request.digest():
        raise CallIdReused(request.call_id)
    return result


async def start(client: Client, request: LLMRequest) -> WorkflowHandle[object, LLMResult]:
    """Starts a call and does not wait for it; a call id that was used before gives that call."""
    call_id = request.call_id or str(uuid4())
    request = request.model_copy(update={"call_id": call_id})
    workflow_id = call_workflow_id(call_id)
    try:
        return await client.start_workflow(
            "LLMCallWorkflow",
            request,
            id=workflow_id,
            task_queue=CALLS_TASK_QUEUE,
            result_type=LLMResult,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            static_summary=f"{request.route} for {request.budget}",
        )
    except WorkflowAlreadyStartedError:
        return client.get_workflow_handle(workflow_id, result_type=LLMResult)


class Ledger:
    """One budget workflow, as seen from outside."""

    def __init__(self, client: Client, name: str = "default") -> None:
        self._client = client
        self.name = name
        self._handle = client.get_workflow_handle(budget_workflow_id(name))

    async def status(self) -> DeskStatus:
        """Accounts, holds and parked calls as of now. Raises LedgerNotFound."""
        try:
            return await self._handle.query("status", result_type=DeskStatus, rpc_timeout=ANSWER_WITHIN)
        except (RPCError, WorkflowQueryFailedError) as error:
            raise self._not_found(error) from error

    async def raise_cap(self, change: RaiseCap) -> CapState:
        """Raises a cap and answers with the new one. Raises AdminRefused, with what exists, and LedgerNotFound."""
        try:
            return await self._handle.execute_update(
                "raise_cap", change, result_type=CapState, rpc_timeout=ANSWER_WITHIN
            )
        except WorkflowUpdateFailedError as error:
            raise AdminRefused(str(error.cause)) from error
        except (RPCError, WorkflowUpdateRPCTimeoutOrCancelledError) as error:
            raise self._not_found(error) from error

    async def signal_raise_cap(self, change: RaiseCap) -> None:
        """The same without an answer: what the ledger refuses shows in its status."""
        await self._handle.signal("raise_cap", change)

    async def start(self, config: DeskConfig) -> None:
        """Starts the budget workflow where it does not run, and gives it this configuration where it does."""
        await self._start(config)
        await self._handle.execute_update("configure", config)

    async def apply(self, commands: Sequence[Command], config: DeskConfig) -> Sequence[Answer]:
        """One update with many commands; starts the ledger when it is missing.

        Raises PoisonedBatch when the update itself was refused, and RPCError or
        WorkflowUpdateRPCTimeoutOrCancelledError when it should be sent again.
        """
        batch = CommandBatch(commands=tuple(commands))
        try:
            answers = await self._handle.execute_update(
                "apply", batch, result_type=AnswerBatch, rpc_timeout=ANSWER_WITHIN
            )
        except WorkflowUpdateFailedError as error:
            # The server fails an update too when the workflow's task failed under it: then it is not the batch's fault.
            if isinstance(error.cause, ApplicationError) and error.cause.type != "UnhandledCommand":
                raise PoisonedBatch(str(error.cause)) from error
            raise
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                await self._start(config)
            raise
        return answers.answers

    async def _start(self, config: DeskConfig) -> None:
        await self._client.start_workflow(
            "BudgetWorkflow",
            LedgerStart(ledger=self.name, config=config),
            id=budget_workflow_id(self.name),
            task_queue=LEDGER_TASK_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            static_summary=f"the books of ledger {self.name}",
        )

    def _not_found(self, error: Exception) -> LedgerNotFound:
        return LedgerNotFound(
            f"no ledger {self.name!r} answered in this Temporal namespace ({error}); "
            "is a worker running? `paymaster worker` starts one"
        )
