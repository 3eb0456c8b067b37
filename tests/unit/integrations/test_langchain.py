"""ChatPaymaster's messages: what a model is asked, and what its answer says, without a call; and a call withdrawn."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import CancelledError

import paymaster.client
from paymaster.errors import CallDenied
from paymaster.integrations import langchain
from paymaster.integrations.langchain import ChatPaymaster
from paymaster.messages import LLMRequest, LLMResult, Outcome, ToolCall
from paymaster.messages.requests import ProviderState
from paymaster.testing import local_temporal, parked, scripted_calls
from paymaster.values.money import TokenUsage

STATE = ProviderState(api="anthropic", host="h", service="s", model="m", data=[{"signature": "x"}])
CALL = ToolCall(id="1", name="forecast", arguments={"city": "Oslo"}, signature="signed")
ANSWER = LLMResult(outcome=Outcome.COMPLETED, call_id="c", text="Hm.", tool_calls=(CALL,), state=STATE)


class Scripted:
    """Stands for the client: keeps what is asked, answers with one result."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, result: LLMResult = ANSWER) -> None:
        self.requests: list[LLMRequest] = []
        self.result = result

        async def result_while_wanted(
            client: Client, request: LLMRequest, *, keeps: bool, id_is_drawn: bool
        ) -> LLMResult:
            self.requests.append(request)
            return self.result

        async def connect() -> Any:
            return object()

        monkeypatch.setattr(langchain, "result_while_wanted", result_while_wanted)
        monkeypatch.setattr(paymaster.client, "connect", connect)


def chat(**fields: Any) -> ChatPaymaster:
    return ChatPaymaster(route="writer", budget="acme", **fields)


async def test_a_conversation_is_asked_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted(monkeypatch)
    picture = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
    drawn = {"type": "image", "base64": "iVBO", "mime_type": "image/png"}
    document = {"type": "file", "base64": "JVBE", "mime_type": "application/pdf"}
    said = [
        SystemMessage("Be short."),
        HumanMessage([{"type": "text", "text": "What is this?"}, picture, drawn, document]),
    ]
    await chat(temperature=0.5).bind(seed=7, stop=["."]).ainvoke(said)
    (request,) = scripted.requests
    assert (request.temperature, request.seed, request.stop) == (0.5, 7, (".",))
    system, human = request.messages
    assert (system.role, system.content, human.role, human.content) == ("system", "Be short.", "user", "What is this?")
    assert [(image.url, image.data, image.media_type) for image in human.images] == [
        ("https://x/y.png", None, None),
        (None, "iVBO", "image/png"),
    ]
    assert [file.data for file in human.documents] == ["JVBE"]


async def test_what_a_provider_wants_back_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also through JSON, as a checkpoint keeps it; not with a message that somebody changed."""
    scripted = Scripted(monkeypatch)
    answer = await chat().ainvoke("Weather?")
    assert answer.tool_calls == [{"name": "forecast", "args": {"city": "Oslo"}, "id": "1", "type": "tool_call"}]
    kept = AIMessage.model_validate_json(answer.model_dump_json())
    changed = answer.model_copy(update={"content": "Something else."})
    for message, state in ((answer, STATE), (kept, STATE), (changed, None)):
        await chat().ainvoke([HumanMessage("Weather?"), message, ToolMessage("sunny", tool_call_id="1")])
        _, assistant, tool = scripted.requests[-1].messages
        assert assistant.state == state
        assert assistant.tool_calls == ((CALL,) if state else (CALL.model_copy(update={"signature": None}),))
        assert (tool.content, tool.tool_call_id) == ("sunny", "1")


async def test_an_answer_says_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = TokenUsage(input_tokens=9, cached_input_tokens=4, cache_write_tokens=2, output_tokens=5, reasoning_tokens=3)
    broken = ToolCall(id="2", name="forecast", invalid_arguments="{")
    Scripted(monkeypatch, ANSWER.model_copy(update={"tool_calls": (broken,), "usage": usage, "cost_nanos": 1_500}))
    answer = await chat().ainvoke("Weather?")
    assert answer.text == "Hm."
    assert answer.tool_calls == []
    assert [(call["id"], call["args"]) for call in answer.invalid_tool_calls] == [("2", "{")]
    assert answer.usage_metadata == {
        "input_tokens": 9,
        "output_tokens": 5,
        "total_tokens": 14,
        "input_token_details": {"cache_read": 4, "cache_creation": 2},
        "output_token_details": {"reasoning": 3},
    }
    assert (answer.response_metadata["call_id"], answer.response_metadata["cost_usd"]) == ("c", "0.000001500")


async def test_tools_and_their_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted(monkeypatch)

    def forecast(city: str) -> str:
        """Tomorrow's weather."""
        return city

    for choice, asked in ((None, None), ("any", "required"), ("forecast", "forecast")):
        await chat().bind_tools([forecast], tool_choice=choice).ainvoke("Weather?")
        (tool,) = scripted.requests[-1].tools
        assert (tool.name, tool.description, scripted.requests[-1].tool_choice) == (
            "forecast",
            "Tomorrow's weather.",
            asked,
        )
        assert tool.parameters["required"] == ["city"]


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (ChatMessage(content="x", role="critic"), "takes no chat messages"),
        (HumanMessage([{"type": "audio", "base64": "x", "mime_type": "audio/wav"}]), "takes no audio"),
    ],
)
async def test_what_it_does_not_take(monkeypatch: pytest.MonkeyPatch, message: BaseMessage, problem: str) -> None:
    Scripted(monkeypatch)
    with pytest.raises(ValueError, match=problem):
        await chat().ainvoke([message])


async def test_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    Scripted(monkeypatch, LLMResult(outcome=Outcome.DENIED, call_id="c", reason="cap_reached"))
    with pytest.raises(CallDenied):
        await chat().ainvoke("Weather?")
    with pytest.raises(ValueError, match="extra"):
        chat(warmth=0)
    with pytest.raises(NotImplementedError, match="use ainvoke"):
        chat().invoke("Weather?")


@pytest.mark.stack
@pytest.mark.timeout(40)
async def test_its_call_is_cancelled_with_it_but_for_a_chosen_id() -> None:
    """Who asks again under that id finds it."""
    async with local_temporal() as temporal, scripted_calls(temporal.client, [parked(timedelta(days=1))] * 2) as calls:
        for number, chosen in enumerate(({}, {"call_id": str(uuid4())}), 1):
            asking = asyncio.create_task(chat(client=temporal.client).bind(**chosen).ainvoke("Weather?"))
            async with asyncio.timeout(20):
                while len(calls.requests) < number:
                    await asyncio.sleep(0.01)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            call = temporal.client.get_workflow_handle(f"call/{calls.requests[-1].call_id}")
            if chosen:
                assert (await call.describe()).status is WorkflowExecutionStatus.RUNNING
                await call.terminate()
            else:
                with pytest.raises(WorkflowFailureError) as failure:
                    await call.result()
                assert isinstance(failure.value.cause, CancelledError)
