"""Who asks Temporal for the tasks of a task queue, as the server tells it."""

import time

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import PollerInfo, TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, DescribeTaskQueueResponse
from temporalio.client import Client

POLLS_WITHIN_S = 90
"""A worker that runs polls again within so many seconds: a poll waits 60 s for a task. The server itself remembers a
poller for five minutes."""


async def described_queue(
    client: Client, task_queue: str, kind: "TaskQueueType.ValueType"
) -> DescribeTaskQueueResponse:
    """Raises RPCError."""
    return await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace, task_queue=TaskQueue(name=task_queue), task_queue_type=kind
        )
    )


def polled_s_ago(poller: PollerInfo) -> int:
    """In whole seconds; never less than none, where two clocks differ."""
    return max(0, int(time.time() - poller.last_access_time.ToSeconds()))
