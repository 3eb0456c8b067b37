"""Agents of SDKs, of a framework, and under Temporal's own plugins, whose workers are one process that can be killed.

As a program: `agents_in_flight.py ADDRESS NAMESPACE` runs the workers until it is killed.
"""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, NamedTuple

from counting_server import ANSWER, Reply
from framework_agents import AgentOfLangGraph, ClaudeThinks
from framework_answers import USAGE, chat, claude
from plugin_agents import ANSWER as WARM
from plugin_agents import ROUTES, STEPS, completion, response
from sdk_agents import ChatsWith
from temporalio.client import Client
from temporalio.worker import Worker

import paymaster
from paymaster.values.money import TokenUsage

OSLO = {"city": "Oslo"}
USED = {"input_tokens": USAGE.input_tokens, "output_tokens": USAGE.output_tokens, "total_tokens": 2_012}
NO_DETAILS = {
    "input_token_details": {"cache_read": 0, "cache_creation": 0},
    "output_token_details": {"reasoning": 0},
}
READY = "workers ready"


class Agent(NamedTuple):
    """Its model, its budget below `acme` and its task queue have its name."""

    workflow: Any
    arguments: Sequence[str]
    api: str
    """Of its model's service."""
    replies: Sequence[Reply]
    """To its requests."""
    usage: TokenUsage
    """Of each reply."""
    right: Any
    """The result with which it ends."""
    by_activity: bool = False
    """Whether its requests are sent by an activity of its own worker, which times out after four seconds."""


def _of_plugin(name: str) -> Agent:
    route = ROUTES[name]
    body = response if route.api == "openai-responses" else completion
    replies = [Reply(body=body(done, call)) for done, call in enumerate([*STEPS, None])]
    usage = TokenUsage(input_tokens=1_500, output_tokens=50)
    return Agent(route.agent, [name], route.api, replies, usage, WARM, by_activity=not route.intercepted)


AGENTS = {
    "openai": Agent(
        ChatsWith,
        ["openai", "acme/openai"],
        "openai",
        [ANSWER],
        TokenUsage(input_tokens=12, output_tokens=5),
        {"text": "answer to Hello"},
    ),
    "anthropic": Agent(
        ClaudeThinks,
        ["anthropic", "acme/anthropic"],
        "anthropic",
        [claude(("degrees_in", OSLO), thought="where is Oslo"), claude("7", thought="found")],
        USAGE,
        "7",
    ),
    "langgraph": Agent(
        AgentOfLangGraph,
        ["langgraph", "acme/langgraph"],
        "openai",
        [chat(("degrees_in", OSLO)), chat("7"), chat(("Forecast", {**OSLO, "degrees": 7}))],
        USAGE,
        {"said": "7", "usage": {**USED, **NO_DETAILS}, **OSLO, "degrees": 7},
    ),
    **{name: _of_plugin(name) for name in ROUTES},
}


async def _worker(name: str, address: str, namespace: str) -> Worker:
    if name in ROUTES:
        return ROUTES[name].worker(await ROUTES[name].connected(address, namespace), name)
    return Worker(
        await Client.connect(address, namespace=namespace),
        task_queue=name,
        workflows=[AGENTS[name].workflow],
        workflow_runner=paymaster.sandbox(),
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),  # of a worker that is killed
    )


async def main(address: str, namespace: str) -> None:
    async with AsyncExitStack() as running:
        for name in AGENTS:
            await running.enter_async_context(await _worker(name, address, namespace))
        print(READY, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
