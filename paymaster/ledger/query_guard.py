"""Keeps a query of the ledger from spoiling what this process remembers of the ledger's run.

A query that a worker gets by the common task queue comes with the whole history. If a workflow task is under way
elsewhere by then, that history ends with its start, and the SDK (temporalio 1.35.0) runs the workflow up to it, but
without the updates that travel in that task: they are in no history yet. The run that stays in memory has then missed
them. The next task fails here with `[TMPRL1100]`, or, if it does not fail, writes a history that nobody can replay, and
the ledger is stuck for good. So after such a query the run is pushed out of memory; the next task replays it.

Queries by the worker's own (sticky) queue bring no history while the run is in memory, and leave it as it is.
"""

import asyncio
import threading
from typing import Any, Protocol, cast

from temporalio import workflow
from temporalio.worker import (
    CustomSlotSupplier,
    FixedSizeSlotSupplier,
    SlotMarkUsedContext,
    SlotPermit,
    SlotReleaseContext,
    SlotReserveContext,
    UnsandboxedWorkflowRunner,
    WorkerTuner,
    WorkflowInstance,
    WorkflowInstanceDetails,
    WorkflowRunner,
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


class QueryGuard(WorkflowRunner):
    """For one worker: its `unsandboxed_workflow_runner`, with its `tuner`; then call `watch` with it."""

    def __init__(self, slots: TaskSlots | None = None) -> None:
        self._slots = slots or TaskSlots()
        self._runner = UnsandboxedWorkflowRunner()
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
        """`worker`: the Temporal worker that has this runner."""
        self._worker = worker._bridge_worker  # the SDK has no public way to push a run out

    def prepare_workflow(self, defn: Any) -> None:
        self._runner.prepare_workflow(defn)

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        return _Watched(self._runner.create_instance(det), self)

    def activated(self, act: Any) -> None:
        """Looks at what a run is given: where it is asked by itself, it is pushed out, after its answer, if the query
        came by the common queue. Here and not in an interceptor, which no query reaches that has no handler."""
        asked_alone = any(job.HasField("query_workflow") and job.query_workflow.query_id == ALONE for job in act.jobs)
        if asked_alone and self._worker is not None and self._slots.has_common_task:
            self._worker.request_workflow_eviction(act.run_id)


class _Watched(WorkflowInstance):
    """A run of a workflow, which the guard sees first."""

    def __init__(self, instance: WorkflowInstance, guard: QueryGuard) -> None:
        self._instance = instance
        self._guard = guard

    def activate(self, act: Any) -> Any:
        self._guard.activated(act)
        return self._instance.activate(act)

    def get_serialization_context(self, command_info: Any) -> Any:
        return self._instance.get_serialization_context(command_info)

    def get_external_store_context(self, command_info: Any) -> Any:
        return self._instance.get_external_store_context(command_info)

    def get_info(self) -> workflow.Info:
        return self._instance.get_info()

    def get_thread_id(self) -> int | None:
        return self._instance.get_thread_id()
