# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""The types of what agents' authors use, for pyright: nothing here runs.

An ignore comment stands where pyright must complain; one that is not needed is an error too.
"""

from datetime import timedelta
from decimal import Decimal
from typing import assert_type

from pydantic import BaseModel, JsonValue
from temporalio import workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import ApplicationError

import paymaster.client
import paymaster.nexus
from paymaster import (
    CallDenied,
    CallFailed,
    CallIdReused,
    CallUnavailable,
    ChatMessage,
    Document,
    Image,
    LLMRequest,
    LLMResult,
    Outcome,
    OutputInvalid,
    PaymasterError,
    PaymasterPlugin,
    RunLimits,
    Tool,
    ToolCall,
    generate,
    purchase,
    run_budget,
    try_generate,
)
from paymaster.client import Ledger
from paymaster.messages import CapState, DeskStatus, RaiseCap
from paymaster.nexus import EndpointRequest, PaymasterService
from paymaster.settings import Settings, load_settings


class Verdict(BaseModel):
    good: bool


def a_request() -> LLMRequest:
    return LLMRequest(
        route="writer",
        budget="acme/content",
        prompt="Say hello.",
        messages=(
            ChatMessage(role="user", content="What is it?", images=(Image.of(b"", "image/png"),)),
            ChatMessage(
                role="user", content="And this?", documents=(Document.of(b""), Document(url="https://a/b.pdf"))
            ),
            ChatMessage(role="assistant", content="", tool_calls=(ToolCall(id="1", name="look"),)),
            ChatMessage(role="tool", content="a cat", tool_call_id="1"),
        ),
        tools=(Tool(name="look", description="looks", parameters={"type": "object"}),),
        tool_choice="auto",
        reasoning_effort="low",
        priority=5,
        on_exhausted="wait",
        wait_at_most=timedelta(hours=1),
        metadata={"team": "content"},
    )


def what_a_request_refuses() -> None:
    LLMRequest(route="writer", prompt="no budget")  # pyright: ignore[reportCallIssue]
    LLMRequest(route="writer", budget="acme", prompt="x", on_exhausted="hope")  # pyright: ignore[reportArgumentType]
    LLMRequest(route="writer", budget="acme", prompt="x", colour="red")  # pyright: ignore[reportCallIssue]


async def in_a_workflow() -> None:
    with run_budget("0.50", calls=20, lasts=timedelta(hours=1)), run_budget(Decimal("0.10"), name="critic", lasts="5m"):
        await generate(a_request())
    with run_budget(run="pr-17"):
        await generate(a_request())
    run_budget(0.5)  # pyright: ignore[reportArgumentType]
    limits = RunLimits(usd="0.50", calls=20, lasts="1h")
    LLMRequest(route="writer", budget="acme", prompt="x", run="pr-17", run_limits=limits)
    RunLimits(tokens=5)  # pyright: ignore[reportCallIssue]
    assert_type(await generate(a_request()), LLMResult)
    assert_type(await generate(a_request(), Verdict), Verdict)
    assert_type(await generate(a_request(), output=Verdict), Verdict)
    assert_type(await try_generate(a_request()), LLMResult)
    await generate(a_request(), output=str)  # pyright: ignore[reportArgumentType]


async def through_an_endpoint() -> None:
    request = EndpointRequest(route="writer", prompt="no budget")
    assert_type(await paymaster.nexus.generate(request, endpoint="content"), LLMResult)
    assert_type(await paymaster.nexus.generate(a_request(), Verdict, endpoint="content"), Verdict)
    assert_type(await paymaster.nexus.try_generate(request, endpoint="content"), LLMResult)
    await paymaster.nexus.generate(request)  # pyright: ignore[reportCallIssue]
    client = workflow.create_nexus_client(service=PaymasterService, endpoint="content")
    result = await client.execute_operation(PaymasterService.generate, request)
    assert_type(result, LLMResult)
    assert_type(await paymaster.nexus.read_answer(result, endpoint="content"), bytes)
    await client.execute_operation(PaymasterService.generate, "hello")  # pyright: ignore[reportCallIssue, reportArgumentType]


async def outside(client: Client) -> None:
    assert_type(await paymaster.client.generate(client, a_request()), LLMResult)
    assert_type(await paymaster.client.generate(client, a_request(), Verdict), Verdict)
    assert_type(await paymaster.client.try_generate(client, a_request()), LLMResult)
    assert_type(await paymaster.client.start(client, a_request()), WorkflowHandle[object, LLMResult])


def a_result(result: LLMResult) -> str:
    assert_type(result.text, str)
    assert_type(result.parsed, JsonValue)
    assert_type(result.tool_calls, tuple[ToolCall, ...])
    assert_type(result.cost_usd, Decimal)
    assert_type(result.usage.output_tokens, int)
    match result.outcome:
        case Outcome.COMPLETED:
            return result.text
        case Outcome.DENIED | Outcome.UNAVAILABLE:
            return f"{result.reason}: {result.detail}"


async def what_it_raises() -> None:
    try:
        await generate(a_request())
    except (CallDenied, CallUnavailable) as error:
        assert_type(error.result, LLMResult)
        failed: CallFailed = error
        print(failed)
    except OutputInvalid as error:
        assert_type(error.result, LLMResult)
    except CallIdReused as error:
        any_of_ours: PaymasterError = error
        of_temporal: ApplicationError = any_of_ours
        print(of_temporal)


async def the_ledger(client: Client) -> None:
    ledger = Ledger(client, "default")
    assert_type(await ledger.status(), DeskStatus)
    change = RaiseCap(account="budget:acme", window="day", by="5", reason="launch", who="me")
    assert_type(await ledger.raise_cap(change), CapState)


async def connecting() -> None:
    assert_type(await Client.connect("localhost:7233", plugins=[PaymasterPlugin()]), Client)
    settings = load_settings()
    assert_type(settings, Settings)
    assert_type(PaymasterPlugin(settings), PaymasterPlugin)


async def buys(client: Client) -> None:
    async with purchase(("acme", "tools"), up_to=Decimal("0.05"), what="search", client=client) as bought:
        assert_type(bought.id, str)
        bought.cost("0.012")
    async with purchase("acme", up_to="0.05", what="search"):
        bought.nothing()
    purchase("acme", up_to=0.05, what="search")  # pyright: ignore[reportArgumentType]
