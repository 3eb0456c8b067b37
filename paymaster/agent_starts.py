"""Starts of calls in tasks of their own, where those of one step would be too many bytes for one.

Temporal takes 4 MiB for all commands of a workflow task. Server 1.32 ends a workflow that gives more; older ones leave
it running, and its task fails for ever.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock
from typing import cast
from weakref import WeakKeyDictionary

from temporalio import workflow

from paymaster.calls.request_limits import REQUEST_TOO_LONG, denial_of
from paymaster.messages import LLMRequest, LLMResult
from paymaster.messages.temporal_names import STORAGES_FUNCTION
from paymaster.values.limits import (
    OPERATIONS_AT_ONCE_MAX,
    REQUEST_BYTES_MAX,
    STARTS_BYTES_MAX,
    STORED_REQUEST_BYTES_MAX,
)


@dataclass
class _Task:
    history_length: int = -1
    """Of the task: it grows with each."""
    size: int = 0
    """Bytes of the requests that were started in it."""


_tasks: WeakKeyDictionary[asyncio.AbstractEventLoop, _Task] = WeakKeyDictionary()
"""By the loop of each workflow that runs in this process."""
_places: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
"""For Nexus operations, by the loop of each workflow."""
_changing = Lock()


def place_for_operation() -> asyncio.Semaphore:
    """To be held while a Nexus operation of this workflow is under way. Temporal fails the task that starts one more,
    for ever where the task alone has too many."""
    with _changing:
        return _places.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(OPERATIONS_AT_ONCE_MAX))


def storages_of_agent() -> str:
    """The external storages from which the client of this workflow's worker reads, as PaymasterPlugin tells it."""
    told = cast("Mapping[str, Callable[[], str]]", workflow.extern_functions()).get(STORAGES_FUNCTION)
    return "" if told is None else told()


def denial_in_agent(request: LLMRequest) -> LLMResult | None:
    """Like `denial_of`, in a workflow: what does not fit goes through where the agent's client has external storage."""
    denied = denial_of(request)
    if denied is None or denied.reason != REQUEST_TOO_LONG or not storages_of_agent():
        return denied
    if not workflow.patched("large-requests-by-storage"):  # an agent that was denied before it had one
        return denied
    return denial_of(request, STORED_REQUEST_BYTES_MAX)


async def room_for_start(size: int) -> None:
    """Waits for a task that has room for a request of so many bytes."""
    if size > REQUEST_BYTES_MAX:  # only its name goes with the task
        return
    with _changing:
        task = _tasks.setdefault(asyncio.get_running_loop(), _Task())
    while True:
        length = workflow.info().get_current_history_length()
        if task.history_length != length:
            task.history_length, task.size = length, 0
        fits = task.size == 0 or task.size + size <= STARTS_BYTES_MAX
        if fits or not workflow.patched("starts-in-tasks-of-their-own"):  # version 0.1.0 gave them all at once
            task.size += size
            return
        await workflow.sleep(timedelta(milliseconds=1), summary="a task with room for another request")
