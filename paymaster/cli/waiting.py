"""What the person at a terminal is told while a call waits: why, until when, and that no worker is there."""

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from paymaster.cli.exits import CommandError
from paymaster.cli.present import print_note, utc

if TYPE_CHECKING:
    from temporalio.client import Client

    from paymaster.messages import WaitingCall
    from paymaster.settings import Settings

_FIRST_AFTER_S = 2.0
_NO_WORKER_AFTER_S = 5.0
_POLLS_WITHIN_S = 90.0
"""A poll lasts a minute, and Temporal tells of one that ended for five more."""


async def tell_while_waiting(client: "Client", settings: "Settings", call_id: str) -> None:
    """Until it is cancelled. Nothing that fails here is said: the call itself says what matters."""
    from sqlalchemy.exc import SQLAlchemyError
    from temporalio.service import RPCError

    from paymaster.messages import call_workflow_id

    workflow_id = call_workflow_id(call_id, settings.ledger.name)
    await asyncio.sleep(_FIRST_AFTER_S)
    print_note(f"waiting for {workflow_id} … (Ctrl-C leaves it running)")
    await asyncio.sleep(_NO_WORKER_AFTER_S - _FIRST_AFTER_S)
    said = ""
    while True:
        with suppress(RPCError, CommandError, SQLAlchemyError, OSError):
            now = await _why(client, settings, workflow_id)
            if now and now != said:
                print_note(now)
                said = now
        await asyncio.sleep(_NO_WORKER_AFTER_S)


async def _why(client: "Client", settings: "Settings", workflow_id: str) -> str:
    """Empty: nothing is known to be in its way."""
    from paymaster.messages.temporal_names import calls_task_queue

    task_queue = calls_task_queue(settings.ledger.name)
    if not await _has_worker(client, task_queue):
        return f"no worker polls {task_queue} ({_NO_WORKER_AFTER_S:.0f} s): start one with `paymaster worker`"
    waiting = await _waiting(settings, workflow_id)
    if waiting is None:
        return ""
    return (
        f"parked: {waiting.detail}; denied at {utc(waiting.deadline_at_ms)}. Raise a cap: `paymaster budget raise -h`"
    )


async def _has_worker(client: "Client", task_queue: str) -> bool:
    from temporalio.api.enums.v1 import TaskQueueType
    from temporalio.api.taskqueue.v1 import TaskQueue
    from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest

    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=task_queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    pollers = (await client.workflow_service.describe_task_queue(request)).pollers
    return any(time.time() - each.last_access_time.ToSeconds() < _POLLS_WITHIN_S for each in pollers)


async def _waiting(settings: "Settings", workflow_id: str) -> "WaitingCall | None":
    from paymaster.cli.calls import copied_status

    status = await copied_status(settings)
    return next((each for each in status.waiting if each.workflow_id == workflow_id), None) if status else None
