"""Which versions of Paymaster are at work: a worker tells its own by the identity with which it polls Temporal."""

import os
import re
import socket
from importlib.metadata import version
from typing import NamedTuple

from temporalio.api.enums.v1 import TaskQueueType, WorkerVersioningMode
from temporalio.api.taskqueue.v1 import PollerInfo, TaskQueueVersioningInfo
from temporalio.client import Client

from paymaster.admission.state import RULES
from paymaster.ledger.pollers import POLLS_WITHIN_S, described_queue, polled_s_ago
from paymaster.messages.temporal_names import activities_task_queue, calls_task_queue, ledger_task_queue

VERSION = version("paymaster")
_QUEUES = {
    ledger_task_queue: TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    calls_task_queue: TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    activities_task_queue: TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
}
_IDENTITY = re.compile(r" paymaster/\S{1,50} rules/([1-9]\d{0,8})$")


def worker_identity() -> str:
    """The identity with which this process polls: the Temporal UI shows it, and `running_workers` reads it."""
    return f"{os.getpid()}@{socket.gethostname()} paymaster/{VERSION} rules/{RULES}"


def rules_of_identity(identity: str) -> int:
    """The newest rules that the worker of this identity knows; 1 if it does not tell, as 0.1.0 does not."""
    told = _IDENTITY.search(identity)
    return int(told[1]) if told else 1


class RunningWorker(NamedTuple):
    identity: str
    rules: int
    """The newest that it knows."""
    queues: tuple[str, ...]
    seen_s_ago: int


async def running_workers(client: Client, ledger: str) -> list[RunningWorker]:
    """The workers that poll the task queues of this ledger. Raises RPCError.

    Left out are those that Worker Versioning gives no task any more: neither current nor ramping.
    """
    found: dict[str, RunningWorker] = {}
    for queue_of, kind in _QUEUES.items():
        queue = queue_of(ledger)
        described = await described_queue(client, queue, kind)
        for poller in described.pollers:
            seen_s_ago = polled_s_ago(poller)
            if seen_s_ago <= POLLS_WITHIN_S and not _is_superseded(poller, described.versioning_info):
                before = found.get(poller.identity)
                found[poller.identity] = RunningWorker(
                    poller.identity,
                    rules_of_identity(poller.identity),
                    (*(before.queues if before else ()), queue),
                    min(seen_s_ago, before.seen_s_ago if before else seen_s_ago),
                )
    return sorted(found.values())


def _is_superseded(poller: PollerInfo, versioning: TaskQueueVersioningInfo) -> bool:
    own = poller.deployment_options
    if own.worker_versioning_mode != WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED:
        return False
    at_work = (versioning.current_deployment_version, versioning.ramping_deployment_version)
    return all((own.deployment_name, own.build_id) != (each.deployment_name, each.build_id) for each in at_work)


async def common_rules(client: Client, ledger: str) -> int:
    """The newest rules that this version and every running worker of the ledger know. Raises RPCError."""
    return min([RULES, *(worker.rules for worker in await running_workers(client, ledger))])
