"""After which queries a run of the ledger is pushed out: those that may have brought a task without its updates."""

from types import SimpleNamespace
from typing import Any, cast

from temporalio.worker import SlotMarkUsedContext, SlotReleaseContext, SlotReserveContext

from paymaster.ledger.query_guard import QueryGuard, TaskSlots


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


def test_a_query_by_the_common_queue_pushes_the_run_out() -> None:
    slots, pushed = TaskSlots(), Pushed()
    guard = QueryGuard(slots)
    guard.watch(pushed)
    task = taken(slots, sticky=False)
    guard.queried_alone("run-1")
    slots.release_slot(task)
    assert pushed == ["run-1"]


def test_a_query_by_the_workers_own_queue_leaves_it() -> None:
    slots, pushed = TaskSlots(), Pushed()
    guard = QueryGuard(slots)
    guard.watch(pushed)
    slots.release_slot(taken(slots, sticky=False))  # of an earlier task
    taken(slots, sticky=True)
    guard.queried_alone("run-1")
    assert pushed == []


def test_no_more_tasks_are_in_hand_than_there_are_slots() -> None:
    slots = TaskSlots(2)
    first = taken(slots, sticky=True)
    taken(slots, sticky=False)
    assert slots.try_reserve_slot(cast(SlotReserveContext, None)) is None
    slots.release_slot(first)
    assert slots.try_reserve_slot(cast(SlotReserveContext, None)) is not None
