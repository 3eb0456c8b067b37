"""Agents with two tools under Temporal's own plugins, each for a worker in this process or in one that can be killed.

As a program: `plugin_agents.py KIND ADDRESS NAMESPACE QUEUE` runs such a worker until it is killed.
"""

import asyncio
import json
import sys
from datetime import timedelta
from typing import Any, NamedTuple

from temporalio import workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.plugin import SimplePlugin
from temporalio.worker import Interceptor, Worker

with workflow.unsafe.imports_passed_through():
    from agents import Agent, OpenAIProvider, Runner, function_tool
    from counting_server import Received, Reply
    from pydantic_ai.durable_exec.temporal import PydanticAIPlugin
    from pydantic_plugin_agents import KEY, NOWHERE, PydanticByActivity, PydanticByInterceptor
    from temporalio.openai_agents import ModelActivityParameters, OpenAIAgentsPlugin
    from weather_tools import PROMPT, celsius, fahrenheit

    import paymaster
    from paymaster.integrations.model_calls import ModelCalls
    from paymaster.integrations.openai import AsyncOpenAI

ANSWER = "It is 50 degrees Fahrenheit."
RETRIED = RetryPolicy(initial_interval=timedelta(milliseconds=10))
SECONDS = timedelta(seconds=4)
"""How long an activity may take: less than a call is parked."""


@workflow.defn
class AgentsSDKAgent:
    """Of OpenAI's Agents SDK, which knows nothing of Paymaster."""

    @workflow.run
    async def run(self, model: str) -> str:
        tools = [function_tool(celsius), function_tool(fahrenheit)]
        agent = Agent[None](name="weather", instructions="Use the tools.", model=model, tools=[*tools])
        return (await Runner.run(agent, input=PROMPT)).final_output


class Route(NamedTuple):
    """How the model calls of an agent become ours."""

    name: str
    """Of the model's route, and of the budget below `acme`."""
    agent: type[Any]
    api: str
    """Of the model's service."""
    intercepted: bool

    def plugins(self) -> list[SimplePlugin]:
        if self.agent is not AgentsSDKAgent:
            return [PydanticAIPlugin()]
        params = ModelActivityParameters(start_to_close_timeout=SECONDS, retry_policy=RETRIED)
        provider = OpenAIProvider(openai_client=AsyncOpenAI(f"acme/{self.name}"))
        if self.intercepted:
            provider = OpenAIProvider(api_key=KEY, base_url=NOWHERE)
        return [OpenAIAgentsPlugin(model_params=params, model_provider=provider)]

    def interceptors(self) -> list[Interceptor]:
        return [ModelCalls(f"acme/{self.name}")] if self.intercepted else []

    async def connected(self, address: str, namespace: str) -> Client:
        return await Client.connect(address, namespace=namespace, plugins=self.plugins())

    def worker(self, client: Client, queue: str, *more: Interceptor) -> Worker:
        return Worker(
            client,
            task_queue=queue,
            workflows=[self.agent],
            interceptors=[*self.interceptors(), *more],
            workflow_runner=paymaster.sandbox(),
            sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),  # of a worker that is killed
        )


ROUTES = {
    route.name: route
    for route in (
        Route("agents-activity", AgentsSDKAgent, "openai-responses", intercepted=False),
        Route("agents-interceptor", AgentsSDKAgent, "openai-responses", intercepted=True),
        Route("pydantic-activity", PydanticByActivity, "openai", intercepted=False),
        Route("pydantic-interceptor", PydanticByInterceptor, "openai", intercepted=True),
    )
}
STEPS = (("celsius", {"city": "Oslo"}), ("fahrenheit", {"celsius": 10}))


def model_reply(request: Received) -> Reply:
    """Of a model that calls one tool after the other, and then answers."""
    given = request.body.get("input") or request.body["messages"]
    done = sum(each.get("type") == "function_call_output" or each.get("role") == "tool" for each in given)
    call = STEPS[done] if done < len(STEPS) else None
    return Reply(body=response(done, call) if "input" in request.body else completion(done, call))


def response(done: int = 0, call: tuple[str, Any] | None = None) -> bytes:
    text = {"type": "output_text", "text": ANSWER, "annotations": []}
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [text]}
    item = (
        message if call is None else {"type": "function_call", "id": f"i{done}", "call_id": f"c{done}", "name": call[0]}
    )
    if call is not None:
        item |= {"arguments": json.dumps(call[1]), "status": "completed"}
    body = {
        "id": "r",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "m-1",
        "output": [item],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 1_500,
            "output_tokens": 50,
            "total_tokens": 1_550,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }
    return json.dumps(body).encode()


def completion(done: int = 0, call: tuple[str, Any] | None = None) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": ANSWER}
    if call is not None:
        function = {"name": call[0], "arguments": json.dumps(call[1])}
        calls = [{"id": f"c{done}", "type": "function", "function": function}]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
    choice = {"index": 0, "message": message, "finish_reason": "stop" if call is None else "tool_calls"}
    usage = {"prompt_tokens": 1_500, "completion_tokens": 50, "total_tokens": 1_550}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m-1", "choices": [choice], "usage": usage}
    return json.dumps(body).encode()


async def main(kind: str, address: str, namespace: str, queue: str) -> None:
    route = ROUTES[kind]
    await route.worker(await route.connected(address, namespace), queue).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
