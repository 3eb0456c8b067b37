"""Waiting for a call's result while Temporal, or every worker, is away: within bounds, and without losing the call."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Literal, NamedTuple

from temporalio.api.enums.v1 import PendingActivityState, PendingWorkflowTaskState
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse
from temporalio.client import WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from paymaster.gateway.asked import AskedCall
from paymaster.messages import LLMResult
from paymaster.messages.temporal_names import (
    CALL_SERVICE,
    NOT_WANTED,
    activities_task_queue,
    calls_task_queue,
    ledger_of_task_queue,
    ledger_task_queue,
)
from paymaster.wire_requests import Unended

CALLS_PATH = "/v1/paymaster/calls"
_LOOKS_EVERY_S, _LOOKS_EVERY_MAX_S = 5.0, 60.0
_LOOK_WITHIN = timedelta(seconds=10)
_ASKS_AGAIN_S = 0.5
_LEDGER_LATE_S = 4.0
"""How much longer than `wait_at_most` a call may be parked, which the ledger ends in its own words."""
_ENDS_WITHIN_S = 5.0
"""After it was given up."""
_PASSING = frozenset(
    {
        RPCStatusCode.UNAVAILABLE,
        RPCStatusCode.DEADLINE_EXCEEDED,
        RPCStatusCode.CANCELLED,
        RPCStatusCode.RESOURCE_EXHAUSTED,
        RPCStatusCode.ABORTED,
        RPCStatusCode.INTERNAL,
        RPCStatusCode.UNKNOWN,
    }
)
logger = logging.getLogger(__name__)
Handle = WorkflowHandle[object, LLMResult]


class Untaken(NamedTuple):
    """What has not been taken yet."""

    by: Literal["calls", "activities", "ledger"]
    """Whose workers should take it: those of the ledger, where the call is parked."""
    which: int
    """Tells it from what waits there another time."""
    task_queue: str
    """Of these workers."""


async def awaited(handle: Handle, asked: AskedCall, give_up: Callable[[], Awaitable[None]]) -> LLMResult:
    """The result of a call that has been started.

    From `wait_at_most` on it is looked after: what no worker takes is given up by `give_up`, unless its caller may come
    back for it. Raises Unended, and what Temporal's client does.
    """
    reading = asyncio.ensure_future(_read(handle))
    try:
        if asked.request.wait_at_most is None:  # its caller does not wait here
            return await reading
        return await _Waiting(handle, asked, asked.request.wait_at_most, give_up).result(reading)
    finally:
        reading.cancel()


async def _read(handle: Handle) -> LLMResult:
    """Also after times in which Temporal cannot be reached. Raises what its client does."""
    while True:
        try:
            return await handle.result()
        except RPCError as error:
            if error.status not in _PASSING:
                raise
        await asyncio.sleep(_ASKS_AGAIN_S)


class _Waiting:
    """For one call."""

    def __init__(
        self, handle: Handle, asked: AskedCall, at_most: timedelta, give_up: Callable[[], Awaitable[None]]
    ) -> None:
        self._handle = handle
        self._call_id = asked.request.call_id or ""
        self._keeps = asked.keeps
        self._at_most_s = at_most.total_seconds()
        self._give_up = give_up
        self._reached_at = time.monotonic()
        """When Temporal answered last."""

    async def result(self, reading: asyncio.Future[LLMResult]) -> LLMResult:
        """Raises Unended."""
        every_s, before, began = _LOOKS_EVERY_S, None, time.monotonic()
        await asyncio.wait({reading}, timeout=max(0.0, self._at_most_s - every_s))
        while not reading.done():
            is_late = time.monotonic() - began > self._at_most_s + _LEDGER_LATE_S
            found = await self._look()
            if found is not None and found == before and (is_late or found.by != "ledger"):
                return await self._untaken(found, reading)
            before = found
            await asyncio.wait({reading}, timeout=every_s)
            if found is None:
                every_s = min(2 * every_s, _LOOKS_EVERY_MAX_S)
        return reading.result()

    async def _look(self) -> Untaken | None:
        """Raises Unended."""
        try:
            found = await self._handle.describe(rpc_timeout=_LOOK_WITHIN)
        except RPCError as error:
            if time.monotonic() - self._reached_at < self._at_most_s:
                return None
            raise self._runs_on("Temporal cannot be reached any more") from error
        self._reached_at = time.monotonic()
        return untaken(found.raw_description)

    async def _untaken(self, found: Untaken, reading: asyncio.Future[LLMResult]) -> LLMResult:
        """What becomes of a call that waits for a worker. Raises Unended."""
        why = f"no worker polls the task queue {found.task_queue}, or none has room: nothing took the call in time"
        if found.by == "ledger":
            why = "the ledger has not answered in time: workers may be away, its own or those with activities"
        logger.warning("call %s: %s", self._call_id, why)
        if self._keeps:
            raise Unended("no_worker", f"{why}; it begins when one does, and is found under its key", self._call_id)
        await self._give_up()
        if found.by != "calls":  # there is somebody who does it
            await asyncio.wait({reading}, timeout=_ENDS_WITHIN_S)
        if reading.done():
            result = reading.result()
            withdrawn = {"reason": "no_worker", "detail": f"{why}; it is withdrawn"}
            return result if result.reason != NOT_WANTED else result.model_copy(update=withdrawn)
        if await self._may_be_sent():
            raise self._runs_on(why)
        raise Unended("no_worker", f"{why}; it is withdrawn, and nothing was sent", self._call_id)

    async def _may_be_sent(self) -> bool:
        try:
            async for event in self._handle.fetch_history_events():
                if event.activity_task_scheduled_event_attributes.activity_type.name == CALL_SERVICE.name:
                    return True
        except RPCError:
            return True
        return False

    def _runs_on(self, why: str) -> Unended:
        detail = f"{why}. What was sent goes on and is paid once: {CALLS_PATH}/{self._call_id} has its answer"
        return Unended("call_runs_on", detail, self._call_id)


def untaken(found: DescribeWorkflowExecutionResponse) -> Untaken | None:
    """What a call waits for, beside the answer of a service. None: nothing."""
    task, ledger = found.pending_workflow_task, ledger_of_task_queue(found.workflow_execution_info.task_queue)
    if task.state == PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_SCHEDULED:
        return Untaken("calls", task.original_scheduled_time.ToNanoseconds(), calls_task_queue(ledger))
    for activity in found.pending_activities:
        is_scheduled = activity.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
        if is_scheduled and activity.attempt <= 1:  # a further attempt waits for its service
            return Untaken("activities", activity.scheduled_time.ToNanoseconds(), activities_task_queue(ledger))
    if found.HasField("pending_workflow_task") or found.pending_activities:
        return None
    return Untaken("ledger", found.workflow_execution_info.history_length, ledger_task_queue(ledger))
