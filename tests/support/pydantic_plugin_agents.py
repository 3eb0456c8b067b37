"""Agents of pydantic-ai with two tools, durable by its own plugin for Temporal."""

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityConfig

with workflow.unsafe.imports_passed_through():
    import openai
    from pydantic_ai import Agent
    from pydantic_ai.durable_exec.temporal import PydanticAIWorkflow, TemporalDurability
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider
    from pydantic_models import AGENTS
    from weather_tools import PROMPT, celsius, fahrenheit

    from paymaster.integrations.openai import AsyncOpenAI

KEY = "sk-the-key-of-the-caller"
NOWHERE = "http://127.0.0.1:9/"
CONFIG = ActivityConfig(
    start_to_close_timeout=timedelta(seconds=4),  # less than a call is parked
    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10)),
)


def pydantic_agent(route: str, name: str, client: Any) -> Agent[None, str]:
    agent = Agent(
        OpenAIChatModel(route, provider=OpenAIProvider(openai_client=client)),
        name=name,
        instructions="Use the tools.",
        capabilities=[TemporalDurability(activity_config=CONFIG)],
    )

    @agent.tool_plain(name="celsius")
    async def celsius_of(city: str) -> str:
        return celsius(city)

    @agent.tool_plain(name="fahrenheit")
    async def fahrenheit_of(celsius: int) -> str:
        return fahrenheit(celsius)

    return agent


by_activity = pydantic_agent("pydantic-activity", "by_activity", AsyncOpenAI("acme/pydantic-activity"))
by_interceptor = pydantic_agent(
    "pydantic-interceptor", "by_interceptor", openai.AsyncOpenAI(api_key=KEY, base_url=NOWHERE)
)


@workflow.defn
class PydanticByActivity(PydanticAIWorkflow):
    __pydantic_ai_agents__ = (by_activity,)

    @workflow.run
    async def run(self, model: str) -> str:
        return (await by_activity.run(PROMPT)).output


@workflow.defn
class PydanticByInterceptor(PydanticAIWorkflow):
    __pydantic_ai_agents__ = (by_interceptor,)

    @workflow.run
    async def run(self, model: str) -> str:
        return (await by_interceptor.run(PROMPT)).output


@workflow.defn
class PlainAgents(PydanticAIWorkflow):
    """An agent without tools, by its name."""

    __pydantic_ai_agents__ = tuple(AGENTS.values())

    @workflow.run
    async def run(self, name: str) -> str:
        return (await AGENTS[name].run("Hello")).output
