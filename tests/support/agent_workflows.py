"""Agents of the tests: workflows that ask, on their own task queue, in the tests' own process."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

from paymaster import LLMRequest, LLMResult, generate, try_generate

AGENTS_TASK_QUEUE = "agents"


@workflow.defn
class OneQuestion:
    """Asks and gives back the whole result. Fails as `generate` raises."""

    @workflow.run
    async def run(self, request: LLMRequest) -> LLMResult:
        return await generate(request)


@workflow.defn
class ManyQuestions:
    """Asks everything at once and takes whatever comes."""

    @workflow.run
    async def run(self, requests: list[LLMRequest]) -> list[LLMResult]:
        return list(await asyncio.gather(*(try_generate(request) for request in requests)))


@workflow.defn
class BrokenQuestions:
    """Asks what no message can carry, one thing after the other, and then something sensible."""

    @workflow.run
    async def run(self) -> list[LLMResult]:
        prompts = ("x" * 20_000_000, "half \ud83d of a smile", "Say hello")
        requests = (LLMRequest(route="writer", budget="acme/writer", prompt=prompt) for prompt in prompts)
        return [await try_generate(request) for request in requests]


@asynccontextmanager
async def agents_running(client: Client, task_queue: str = AGENTS_TASK_QUEUE) -> AsyncGenerator[None]:
    """A worker of the agents' own, as a team beside Paymaster would have it."""
    worker = Worker(
        client,
        task_queue=task_queue,
        workflows=[OneQuestion, ManyQuestions, BrokenQuestions],
        graceful_shutdown_timeout=timedelta(seconds=5),
    )
    async with worker:
        yield
