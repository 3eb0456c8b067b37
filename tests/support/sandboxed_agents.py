"""Agents of any program: a client without plugin, a worker with Paymaster's sandbox and nothing else of Paymaster."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from paymaster_process import Site
from temporalio.client import Client
from temporalio.worker import Replayer, Worker

import paymaster


@asynccontextmanager
async def sandboxed_agents(
    site: Site, queue: str, workflows: Sequence[type], activities: Sequence[Callable[..., Any]] = ()
) -> AsyncGenerator[Client]:
    """The client, while the worker runs."""
    client = await Client.connect(site.temporal_address, namespace=site.namespace)
    async with Worker(
        client, task_queue=queue, workflows=workflows, activities=activities, workflow_runner=paymaster.sandbox()
    ):
        yield client


async def run_and_replay(client: Client, workflow: Any, *args: Any, queue: str) -> Any:
    """The agent's result; its history is replayed, in the sandbox."""
    handle = await client.start_workflow(workflow.run, args=list(args), id=f"agent-{uuid4()}", task_queue=queue)
    result = await handle.result()
    await Replayer(workflows=[workflow], workflow_runner=paymaster.sandbox()).replay_workflow(
        await handle.fetch_history()
    )
    return result
