"""On which thread a workflow's task is handled, in which context, and what becomes of its error."""

import asyncio
import threading
from contextvars import ContextVar

import pytest
from temporalio.bridge.proto.workflow_activation import WorkflowActivation

from paymaster.loop_executor import SMALL_BYTES, LoopExecutor

said: ContextVar[str] = ContextVar("said", default="nothing")
SMALL = WorkflowActivation(run_id="run-1")
LARGE = WorkflowActivation(run_id="r" * (SMALL_BYTES + 1))


def seen(activation: WorkflowActivation) -> tuple[int, str]:
    """The thread, and what is of its context."""
    return threading.get_ident(), said.get()


async def given(activation: WorkflowActivation) -> tuple[int, str]:
    """What the SDK does with it."""
    return await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(LoopExecutor(), seen, activation), 2)


async def test_a_small_task_runs_on_the_loops_thread() -> None:
    assert (await given(SMALL))[0] == threading.get_ident()


async def test_a_large_task_runs_on_another() -> None:
    assert (await given(LARGE))[0] != threading.get_ident()


@pytest.mark.parametrize("activation", [SMALL, LARGE])
async def test_it_sees_nothing_of_who_came_by(activation: WorkflowActivation) -> None:
    said.set("a trace, say")
    assert (await given(activation))[1] == "nothing"


async def test_it_begins_when_no_task_of_the_loop_runs() -> None:
    began: list[object] = []
    asyncio.get_running_loop().run_in_executor(
        LoopExecutor(), lambda activation: began.append(asyncio.current_task()), SMALL
    )
    assert began == []
    await asyncio.sleep(0)
    assert began == [None]


async def test_its_error_is_raised_where_it_is_waited_for() -> None:
    def failing(activation: WorkflowActivation) -> None:
        raise ValueError("no workflow")

    with pytest.raises(ValueError, match="no workflow"):
        await asyncio.get_running_loop().run_in_executor(LoopExecutor(), failing, SMALL)


async def test_one_that_is_given_up_before_is_not_begun() -> None:
    began: list[object] = []
    assert LoopExecutor().submit(began.append, SMALL).cancel()
    await asyncio.sleep(0)
    assert began == []
