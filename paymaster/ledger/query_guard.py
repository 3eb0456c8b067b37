"""Keeps a query of the ledger from spoiling what this process remembers of the ledger's run.

A query that a worker gets by the common task queue comes with the whole history. If a workflow task is under way
elsewhere by then, that history ends with its start, and the SDK (temporalio 1.35.0) runs the workflow up to it, but
without the updates that travel in that task: they are in no history yet. The run that stays in memory has then missed
them. The next task fails here with `[TMPRL1100]`, or, if it does not fail, writes a history that nobody can replay, and
the ledger is stuck for good. So after such a query the run is pushed out of memory; the next task replays it.

Queries by the worker's own (sticky) queue bring no history and leave the run as it is.
"""

import asyncio
import threading
from typing import Any, Protocol, cast

from temporalio import workflow
from temporalio.worker import (
    CustomSlotSupplier,
    FixedSizeSlotSupplier,
    HandleQueryInput,
    Interceptor,
    SlotMarkUsedContext,
    SlotPermit,
    SlotReleaseContext,
    SlotReserveContext,
    WorkerTuner,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowSlotInfo,
)

TASKS_AT_ONCE = 100
"""Workflow tasks that a worker has in hand, and other tasks; the SDK's default."""
ALONE = "legacy_query"
"""The SDK's id of a query that comes by itself, and not with a workflow task."""
LOOKS_AGAIN_AFTER_S = 0.02


class Evicting(Protocol):
    """The part of a Temporal worker that is needed here."""

    def request_workflow_eviction(self, run_id: str) -> None: ...


class _Permit(SlotPermit):
    is_common = False
    """Whether its task came by the common queue."""


class TaskSlots(CustomSlotSupplier):
    """A fixed number of slots for workflow tasks, which knows by which queue the tasks in hand came."""

    def __init__(self, count: int = TASKS_AT_ONCE) -> None:
        self._lock = threading.Lock()  # the SDK calls from several threads
        self._free = count
        self._common = 0

    @property
    def has_common_task(self) -> bool:
        """Whether a task is in hand that came by the common queue."""
        return self._common > 0

    async def reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit:
        while (permit := self.try_reserve_slot(ctx)) is None:  # noqa: ASYNC110 (slots are freed by other threads)
            await asyncio.sleep(LOOKS_AGAIN_AFTER_S)
        return permit

    def try_reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit | None:
        with self._lock:
            if self._free == 0:
                return None
            self._free -= 1
        return _Permit()

    def mark_slot_used(self, ctx: SlotMarkUsedContext) -> None:
        if isinstance(ctx.slot_info, WorkflowSlotInfo) and not ctx.slot_info.is_sticky:
            with self._lock:
                self._common += 1
            cast(_Permit, ctx.permit).is_common = True

    def release_slot(self, ctx: SlotReleaseContext) -> None:
        with self._lock:
            self._free += 1
            self._common -= cast(_Permit, ctx.permit).is_common


class QueryGuard(Interceptor):
    """For one worker: give it this interceptor and its `tuner`, then call `watch` with it."""

    def __init__(self, slots: TaskSlots | None = None) -> None:
        self._slots = slots or TaskSlots()
        self._worker: Evicting | None = None

    @property
    def tuner(self) -> WorkerTuner:
        others = FixedSizeSlotSupplier(TASKS_AT_ONCE)
        return WorkerTuner.create_composite(
            workflow_supplier=self._slots,
            activity_supplier=others,
            local_activity_supplier=others,
            nexus_supplier=others,
        )

    def watch(self, worker: Any) -> None:
        """`worker`: the Temporal worker that has this interceptor."""
        self._worker = worker._bridge_worker  # the SDK has no public way to push a run out

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        guard = self

        class Inbound(WorkflowInboundInterceptor):
            async def handle_query(self, input: HandleQueryInput) -> Any:
                if input.id == ALONE:
                    guard.queried_alone(workflow.info().run_id)
                return await super().handle_query(input)

        return Inbound

    def queried_alone(self, run_id: str) -> None:
        """A query came by itself: the run is pushed out, after its answer, if it came by the common queue."""
        if self._worker is not None and self._slots.has_common_task:
            self._worker.request_workflow_eviction(run_id)
