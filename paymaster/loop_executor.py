"""Where workers handle the tasks of calls' workflows: on the event loop's own thread, as long as they are small.

The SDK hands each one to a thread and waits for it. Python runs one thread at a time, so that this makes nothing
faster, and changing threads twice for each took a twentieth of a worker's processor time.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from typing import Any, TypeVar

from temporalio.bridge.proto.workflow_activation import WorkflowActivation

ResultT = TypeVar("ResultT")
SMALL_BYTES = 64 * 1024
"""Of an activation. A larger one goes to a thread: it may take longer than answers that are read along should wait."""
_THREADS_MAX = 10


class LoopExecutor(ThreadPoolExecutor):
    """Give it to a Worker as `workflow_task_executor`, where its workflows are known to end each task soon.

    The SDK cannot stop a task on this thread that does not end: the process then does nothing else, and its health
    endpoint does not answer.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=_THREADS_MAX, thread_name_prefix="large-workflow-task")

    def submit(self, fn: Callable[..., ResultT], /, *args: Any, **kwargs: Any) -> Future[ResultT]:
        """The SDK calls it on the event loop, with an activation of one run."""
        if any(isinstance(each, WorkflowActivation) and each.ByteSize() > SMALL_BYTES for each in args):
            return super().submit(fn, *args, **kwargs)
        done, loop = Future[ResultT](), asyncio.get_running_loop()
        # Soon and not at once: Python 3.14 begins no task of a workflow while one of this loop runs. In a context that
        # is empty, as a thread's is.
        loop.call_soon(_run, loop, done, lambda: fn(*args, **kwargs), context=Context())
        return done


def _run(loop: asyncio.AbstractEventLoop, done: Future[ResultT], task: Callable[[], ResultT]) -> None:
    if not done.set_running_or_notify_cancel():
        return
    try:
        try:
            result = task()
        finally:  # a workflow leaves no loop as the running one
            asyncio._set_running_loop(loop)  # pyright: ignore[reportPrivateUsage]
    except BaseException as error:
        done.set_exception(error)
    else:
        done.set_result(result)
