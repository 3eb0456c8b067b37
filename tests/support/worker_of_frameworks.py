"""A worker of agents of frameworks, in a process of its own: `worker_of_frameworks.py ADDRESS NAMESPACE QUEUE`."""

import asyncio
import sys

from framework_agents import WORKFLOWS
from temporalio.client import Client
from temporalio.worker import Worker

import paymaster


async def main(address: str, namespace: str, queue: str) -> None:
    client = await Client.connect(address, namespace=namespace)
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS, workflow_runner=paymaster.sandbox()):
        print("worker ready", flush=True)
        await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
