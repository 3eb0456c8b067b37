"""Agents of two frameworks, as they are by default, whose model is a service that speaks another format."""

from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any

import httpx2
import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
)
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.openai import OpenAIResponsesModel as PydanticResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from translated_openai import Scripted

from paymaster.messages import ToolCall
from paymaster.messages.wire import Dialect
from paymaster.translation.neutral import NeutralAnswer
from paymaster.values.money import TokenUsage


class Report(BaseModel):
    sky: str


def weather(city: str) -> str:
    """The weather somewhere."""
    return f"rain in {city}"


def client(script: Scripted) -> AsyncOpenAI:
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(script.answer))
    return AsyncOpenAI(api_key="unused", base_url="http://paymaster/v1", max_retries=0, http_client=http)


async def by_openai_agents(dialect: Dialect, openai: AsyncOpenAI, stream: bool) -> tuple[Any, int]:
    kind = OpenAIChatCompletionsModel if dialect == "openai" else OpenAIResponsesModel
    model = kind(model="writer", openai_client=openai)
    agent = Agent(
        name="a",
        instructions="Be brief.",
        model=model,
        model_settings=ModelSettings(include_usage=True),  # else it counts a stream's tokens at OpenAI's address only
        tools=[function_tool(weather)],
        output_type=Report,
    )
    config = RunConfig(tracing_disabled=True)
    if not stream:
        found = await Runner.run(agent, "Weather?", run_config=config)
        return found.final_output, found.context_wrapper.usage.total_tokens
    streamed = Runner.run_streamed(agent, "Weather?", run_config=config)
    async for _ in streamed.stream_events():
        pass
    return streamed.final_output, streamed.context_wrapper.usage.total_tokens


async def by_pydantic_ai(dialect: Dialect, openai: AsyncOpenAI, stream: bool) -> tuple[Any, int]:
    kind = OpenAIChatModel if dialect == "openai" else PydanticResponsesModel
    model = kind("writer", provider=OpenAIProvider(openai_client=openai))
    agent = PydanticAgent(model, instructions="Be brief.", tools=[weather])
    found = await agent.run("Weather?", event_stream_handler=consume if stream else None)
    return found.output, found.usage.total_tokens


async def consume(context: Any, events: AsyncIterable[Any]) -> None:
    async for _ in events:
        pass


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", ["openai", "openai-responses"])
@pytest.mark.parametrize(
    ("run", "text", "output"),
    [(by_openai_agents, '{"sky": "grey"}', Report(sky="grey")), (by_pydantic_ai, "Grey.", "Grey.")],
)
async def test_an_agent_asks_a_service_of_another_format(
    run: Callable[[Dialect, AsyncOpenAI, bool], Awaitable[tuple[Any, int]]],
    text: str,
    output: Any,
    dialect: Dialect,
    stream: bool,
) -> None:
    call = ToolCall(id="toolu_1", name="weather", arguments={"city": "Bern"})
    usage = TokenUsage(input_tokens=5, output_tokens=2)
    script = Scripted(
        dialect,
        NeutralAnswer("a-1", 1_700_000_000, "m-1", "Let me see.", (call,), "tools", usage),
        NeutralAnswer("a-2", 1_700_000_000, "m-1", text, (), "stop", usage),
    )
    found, tokens = await run(dialect, client(script), stream)
    assert found == output
    assert tokens == 14
    assert [body.get("stream", False) for body in script.bodies] == [stream, stream]
    first, second = script.asked
    assert [(message.role, message.content) for message in first.messages] == [
        ("system", "Be brief."),
        ("user", "Weather?"),
    ]
    assert [tool.name for tool in first.tools] == ["weather"]
    said, result = second.messages[-2:]
    assert (said.role, said.content, said.tool_calls) == ("assistant", "Let me see.", (call,))
    assert (result.content, result.tool_call_id) == ("rain in Bern", "toolu_1")
