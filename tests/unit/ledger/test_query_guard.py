"""After which queries a run of the ledger is pushed out: those that may have brought a task without its updates."""

from types import SimpleNamespace
from typing import Any, cast

from temporalio.bridge.proto.workflow_activation import QueryWorkflow, WorkflowActivation, WorkflowActivationJob
from temporalio.worker import SlotMarkUsedContext, SlotReleaseContext, SlotReserveContext

from paymaster.ledger.query_guard import ALONE, QueryGuard, TaskSlots


class Pushed(list[str]):
    """A Temporal worker, of which only the runs that it pushed out are of interest."""

    @property
    def _bridge_worker(self) -> Any:
        return SimpleNamespace(request_workflow_eviction=self.append)


def taken(slots: TaskSlots, *, sticky: bool) -> SlotReleaseContext:
    """A task that comes by its queue; what ends it."""
    permit = slots.try_reserve_slot(cast(SlotReserveContext, None))
    assert permit is not None
    info: Any = SimpleNamespace(workflow_type="BudgetWorkflow", is_sticky=sticky)
    # The SDK's contexts are protocols: it makes the instances itself.
    slots.mark_slot_used(cast(SlotMarkUsedContext, SimpleNamespace(slot_info=info, permit=permit)))
    return SlotReleaseContext(slot_info=info, permit=permit)


def asked(query_id: str) -> WorkflowActivation:
    """What a run is given for a query, be it one that has no handler."""
    query = QueryWorkflow(query_id=query_id, query_type="no_such_query")
    return WorkflowActivation(run_id="run-1", jobs=[WorkflowActivationJob(query_workflow=query)])


def test_a_query_by_the_common_queue_pushes_the_run_out() -> None:
    slots, pushed = TaskSlots(), Pushed()
    guard = QueryGuard(slots)
    guard.watch(pushed)
    task = taken(slots, sticky=False)
    guard.activated(asked(ALONE))
    slots.release_slot(task)
    assert pushed == ["run-1"]


def test_a_query_by_the_workers_own_queue_leaves_it() -> None:
    slots, pushed = TaskSlots(), Pushed()
    guard = QueryGuard(slots)
    guard.watch(pushed)
    slots.release_slot(taken(slots, sticky=False))  # of an earlier task
    taken(slots, sticky=True)
    guard.activated(asked(ALONE))
    assert pushed == []


def test_a_query_that_comes_with_a_task_leaves_it() -> None:
    slots, pushed = TaskSlots(), Pushed()
    guard = QueryGuard(slots)
    guard.watch(pushed)
    taken(slots, sticky=False)
    guard.activated(asked("1"))
    assert pushed == []


def test_no_more_tasks_are_in_hand_than_there_are_slots() -> None:
    slots = TaskSlots(2)
    first = taken(slots, sticky=True)
    taken(slots, sticky=False)
    assert slots.try_reserve_slot(cast(SlotReserveContext, None)) is None
    slots.release_slot(first)
    assert slots.try_reserve_slot(cast(SlotReserveContext, None)) is not None
