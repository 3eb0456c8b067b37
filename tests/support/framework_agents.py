"""Agents of frameworks as their pages show them, in workflows: each has tools and asks several times."""

from datetime import timedelta
from typing import Any

import pydantic
import pydantic_ai
from agents import Agent, RunConfig, Runner, function_tool
from anthropic.types import MessageParam, ToolParam
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph  # pyright: ignore[reportMissingTypeStubs]
from langgraph.prebuilt import ToolNode, tools_condition
from temporalio import activity, workflow
from temporalio.common import RetryPolicy

from paymaster.integrations import pydantic_ai as paymaster_pydantic_ai
from paymaster.integrations.anthropic import AsyncAnthropic
from paymaster.integrations.langchain import ChatPaymaster
from paymaster.integrations.openai_agents import PaymasterModels


class Forecast(pydantic.BaseModel):
    city: str
    degrees: int


async def degrees_in(city: str) -> int:
    """The temperature in a city."""
    return {"Oslo": 7, "Rome": 21}[city]


async def wind_in(city: str) -> str:
    """The wind in a city."""
    return f"light in {city}"


@workflow.defn
class AgentOfPydanticAI:
    """Asks for a tool, then for its structured output."""

    @workflow.run
    async def run(self, model: str, budget: str, api: Any) -> dict[str, Any]:
        agent = pydantic_ai.Agent(
            paymaster_pydantic_ai.model(model, budget, api=api),
            instructions="Be short.",
            tools=[degrees_in, wind_in],
            output_type=Forecast,
        )
        return (await agent.run("How warm is Oslo?")).output.model_dump()


@workflow.defn
class AgentOfOpenAI:
    """Asks for a tool, hands off to another agent, which asks for a tool and answers."""

    @workflow.run
    async def run(self, model: str, budget: str, use_responses: bool) -> str:
        wind = Agent(name="wind", instructions="The wind.", model=model, tools=[function_tool(wind_in)])
        first = Agent(name="first", model=model, tools=[function_tool(degrees_in)], handoffs=[wind])
        models = PaymasterModels(budget, use_responses=use_responses)
        result = await Runner.run(first, "How is Oslo?", run_config=RunConfig(model_provider=models))
        return f"{result.last_agent.name}: {result.final_output}"


MODELS = PaymasterModels("acme")
"""Not made in the workflow that uses them."""


@workflow.defn
class TracedAgent:
    """Gives back why its run is refused, or what it says when it is not traced."""

    @workflow.run
    async def run(self, model: str, traced: bool) -> str:
        config = RunConfig(model_provider=MODELS, tracing_disabled=not traced)
        try:
            return (await Runner.run(Agent(name="traced", model=model), "Hello", run_config=config)).final_output
        except RuntimeError as error:
            return str(error)


@workflow.defn
class ClaudeThinks:
    """Claude's tool loop, whose thinking goes back to it as it came."""

    @workflow.run
    async def run(self, model: str, budget: str) -> str:
        claude = AsyncAnthropic(budget)
        tool: ToolParam = {
            "name": "degrees_in",
            "description": "The temperature.",
            "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        }
        messages: list[MessageParam] = [{"role": "user", "content": "How warm is Oslo?"}]
        while True:
            answer = await claude.messages.create(
                model=model,
                max_tokens=2_000,
                thinking={"type": "enabled", "budget_tokens": 1_024},
                tools=[tool],
                messages=messages,
            )
            if answer.stop_reason != "tool_use":
                return "".join(block.text for block in answer.content if block.type == "text")
            messages.append({"role": "assistant", "content": answer.content})
            found = [
                (block.id, await degrees_in(str(block.input["city"])))
                for block in answer.content
                if block.type == "tool_use"
            ]
            messages.append(
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": call_id, "content": str(text)} for call_id, text in found
                    ],
                }
            )


@workflow.defn
class AgentOfLangGraph:
    """A graph that asks, calls the tools that the model wants, and asks again; then for structured output."""

    @workflow.run
    async def run(self, model: str, budget: str) -> dict[str, Any]:
        chat = ChatPaymaster(route=model, budget=budget)
        tools = [tool(degrees_in), tool(wind_in)]
        asking = chat.bind_tools(tools)

        async def ask(state: MessagesState) -> dict[str, list[AnyMessage]]:
            return {"messages": [await asking.ainvoke(state["messages"])]}

        graph = StateGraph(MessagesState)
        graph.add_node("ask", ask)
        graph.add_node("tools", ToolNode(tools))
        graph.add_edge(START, "ask")
        graph.add_conditional_edges("ask", tools_condition)
        graph.add_edge("tools", "ask")
        asked = MessagesState(messages=[SystemMessage("Be short."), HumanMessage("How warm is Oslo?")])
        end = await graph.compile().ainvoke(asked)
        said = end["messages"][-1]
        assert isinstance(said, AIMessage)
        forecast = await chat.with_structured_output(Forecast).ainvoke(said.text)
        assert isinstance(forecast, Forecast)
        return {"said": said.text, "usage": said.usage_metadata, **forecast.model_dump()}


@activity.defn
async def chat_in_activity(model: str, budget: str, fails: int) -> str:
    """Two equal questions on purpose; the first `fails` attempts fail behind them."""
    chat = ChatPaymaster(route=model, budget=budget)
    answers = [await chat.ainvoke("How warm is Oslo?") for _ in range(2)]
    if activity.info().attempt <= fails:
        raise RuntimeError("the attempt fails behind its calls")
    return ", ".join(answer.text for answer in answers)


@workflow.defn
class ChatsInRetriedActivity:
    @workflow.run
    async def run(self, model: str, budget: str, fails: int) -> str:
        return await workflow.execute_activity(
            chat_in_activity,
            args=[model, budget, fails],
            start_to_close_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10)),
        )


WORKFLOWS = [ChatsInRetriedActivity, AgentOfLangGraph, AgentOfPydanticAI, AgentOfOpenAI, ClaudeThinks, TracedAgent]
