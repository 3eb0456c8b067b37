"""Updates to the ledger: what became of one that gave no result, and asking again until it gives one."""

import asyncio
from datetime import timedelta
from enum import Enum
from typing import Any

from temporalio.api.enums.v1 import ResourceExhaustedCause
from temporalio.api.errordetails.v1 import ResourceExhaustedFailure
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from paymaster.ledger.pacing import jittered
from paymaster.messages.temporal_names import ArgumentT, ResultT, UpdateName
from paymaster.security.payloads import as_raw, compressed, read_raw

UPDATE_ERRORS = (RPCError, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError)
"""Everything that an update raises instead of giving a result."""
PAUSE_S = 0.1
PAUSE_MAX_S = 1.0


class Fate(Enum):
    """What became of an update that gave no result."""

    REFUSED = "refused"
    """The ledger, or the worker that runs it, answered no. Asking again gets the same answer."""
    NOT_PROCESSED = "not processed"
    """No worker processed it and nothing was applied. Ask again."""
    UNKNOWN = "unknown"
    """Nobody answered; it may have been applied or may still be. Ask again with the same id."""
    NO_LEDGER = "no ledger"
    """The workflow does not run."""
    NEW_RUN = "new run"
    """It came while the ledger began a new run. Ask again, soon."""
    BUSY = "busy"
    """Temporal has as many updates in flight to the ledger, or as many requests, as it takes. Ask again, later."""
    NOT_TAKEN = "not taken"
    """Temporal does not take such a request: it is malformed, or not permitted."""

    @property
    def asks_again(self) -> bool:
        return self in (Fate.NOT_PROCESSED, Fate.UNKNOWN, Fate.NEW_RUN, Fate.BUSY)


# Failures that the server itself gives an update, by their type: service/history/workflow/update/errors_failures.go and
# abort_reason.go of Temporal 1.29 to 1.32. All other types come from the worker.
_FROM_SERVER = {
    "UnprocessedUpdate": Fate.NOT_PROCESSED,
    "AcceptedUpdateCompletedWorkflow": Fate.UNKNOWN,  # the run ended, perhaps by continue-as-new, before its answer
    "UnhandledCommand": Fate.UNKNOWN,  # the workflow's task failed with the update in it
}
# All other statuses are passing: a server that restarts, or lost the workflow's task.
_STATUSES = {
    RPCStatusCode.RESOURCE_EXHAUSTED: Fate.BUSY,
    RPCStatusCode.NOT_FOUND: Fate.NO_LEDGER,
    RPCStatusCode.INVALID_ARGUMENT: Fate.NOT_TAKEN,
    RPCStatusCode.OUT_OF_RANGE: Fate.NOT_TAKEN,
    RPCStatusCode.PERMISSION_DENIED: Fate.NOT_TAKEN,
    RPCStatusCode.UNAUTHENTICATED: Fate.NOT_TAKEN,
    RPCStatusCode.UNIMPLEMENTED: Fate.NOT_TAKEN,
}


def fate_of(error: Exception) -> Fate:
    """What became of an update that raised one of UPDATE_ERRORS."""
    match error:
        case WorkflowUpdateFailedError(cause=ApplicationError() as cause):
            return _FROM_SERVER.get(cause.type or "", Fate.REFUSED)
        case RPCError(status=RPCStatusCode.RESOURCE_EXHAUSTED) if _is_closing(error):
            return Fate.NEW_RUN
        case RPCError():
            return _STATUSES.get(error.status, Fate.UNKNOWN)
        case _:  # a time limit; a handler that was cancelled; a workflow that was terminated
            return Fate.UNKNOWN


def _is_closing(error: RPCError) -> bool:
    """Whether the run takes no more: Temporal says so by the cause of a workflow that is busy, and not of a limit."""
    exhausted = ResourceExhaustedFailure()
    return any(
        detail.Unpack(exhausted) and exhausted.cause == ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_BUSY_WORKFLOW
        for detail in error.grpc_status.details
    )


async def update_once(
    handle: WorkflowHandle[Any, Any],
    update: UpdateName[ArgumentT, ResultT],
    message: ArgumentT,
    *,
    within: timedelta,
    update_id: str | None = None,
    compress: bool = False,
) -> ResultT:
    """The result of one update, sent compressed to who reads it so.

    Raises one of UPDATE_ERRORS; `fate_of` says what that means.
    """
    try:
        answer = await handle.execute_update(
            update.name,
            args=[] if message is None else [compressed(message) if compress else as_raw(message)],
            id=update_id,
            result_type=RawValue,
            rpc_timeout=within,
        )
        return read_raw(answer, update.result)
    except WorkflowUpdateRPCTimeoutOrCancelledError as error:
        # The SDK turns the cancellation of our own task into this, too: whoever cancels must not be asked to wait.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError from error
        raise


class Unanswered(Exception):
    """An update that was not answered in time, however often it was asked for."""

    def __init__(self, last: Exception, *, nothing_applied: bool) -> None:
        """`last`: one of UPDATE_ERRORS."""
        super().__init__(str(last.cause if isinstance(last, WorkflowUpdateFailedError) else last))
        self.nothing_applied = nothing_applied
        """Certainly not, after any of the tries. False: nobody knows."""


async def update_until_answered(
    handle: WorkflowHandle[Any, Any],
    update: UpdateName[ArgumentT, ResultT],
    message: ArgumentT,
    *,
    within: timedelta,
    update_id: str,
) -> ResultT:
    """The result of an update, asked for under the same id until it is answered.

    Raises Unanswered when `within` is over, and at once one of UPDATE_ERRORS for an answer that stays the same.
    """
    clock = asyncio.get_running_loop().time
    give_up_at, pause_s, nothing_applied = clock() + within.total_seconds(), PAUSE_S, True
    while True:
        left = timedelta(seconds=max(give_up_at - clock(), PAUSE_S))
        try:
            return await update_once(handle, update, message, within=left, update_id=update_id)
        except UPDATE_ERRORS as error:
            fate = fate_of(error)
            if not fate.asks_again:
                raise
            nothing_applied = nothing_applied and fate is Fate.NOT_PROCESSED
            if clock() + pause_s >= give_up_at:
                raise Unanswered(error, nothing_applied=nothing_applied) from error
        await asyncio.sleep(jittered(pause_s))
        pause_s = min(2 * pause_s, PAUSE_MAX_S)
