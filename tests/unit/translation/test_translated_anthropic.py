"""Calls of the Messages API for services that speak another format, and their answers as Claude would give them."""

import json
from contextlib import suppress
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic
from anthropic.types import Message, ToolUseBlock
from changed_bodies import changed
from conversations import conversations
from hypothesis import given, settings
from hypothesis import strategies as st
from neutral_answers import answer, answers
from searches import examples
from wire import SCHEMA, WEATHER, ask, build, service

from paymaster.messages import ChatMessage, Document, Image, LLMRequest, Tool, ToolCall
from paymaster.messages.wire import Wire, WireAnswer
from paymaster.providers.anthropic import parse_response, parse_stream
from paymaster.providers.provider import UnsupportedParameter
from paymaster.providers.schemas import CLAUDE, in_words
from paymaster.translation.dialects import neutral_request, told
from paymaster.translation.neutral import NeutralAnswer, Untranslatable
from paymaster.values.money import TokenUsage
from paymaster.wire.anthropic import measured
from paymaster.wire.measured import BadBody

PNG = {"type": "base64", "media_type": "image/png", "data": "iVBO"}
TEXT = {"type": "text", "text": "Rain"}
MARK = {"cache_control": {"type": "ephemeral"}}
STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tools": "tool_use", "refused": "refusal"}
SERVICE = service("anthropic")


def wire(body: bytes | None = None, **fields: Any) -> Wire:
    usual = {"model": "writer", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}
    return Wire(dialect="anthropic", body=body if body is not None else json.dumps(usual | fields).encode())


def neutral(asked: Wire) -> LLMRequest:
    return neutral_request(LLMRequest(route="writer", budget="acme", wire=asked))


def blocks(*content: Any, role: str = "user") -> dict[str, Any]:
    ask_on = [] if role == "user" else [{"role": "user", "content": "Go on."}]
    return {"messages": [{"role": role, "content": list(content)}, *ask_on]}


def user(content: str = "", **fields: Any) -> ChatMessage:
    return ChatMessage(role="user", content=content, **fields)


# ---------------------------------------------------------------- what is asked

RICH: dict[str, Any] = {
    "model": "writer",
    "max_tokens": 50,
    "system": [{"type": "text", "text": "Be brief.", **MARK}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": "image", "source": PNG}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "I l"},
                {"type": "text", "text": "ook."},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [{"type": "text", "text": "Rain"}],
                    **MARK,
                },
                {"type": "document", "source": {"type": "url", "url": "https://a/b.pdf"}, "title": "tides.pdf"},
                {"type": "text", "text": "And now?"},
            ],
        },
    ],
    "tools": [
        {
            "name": "weather",
            "description": "The weather somewhere",
            "input_schema": WEATHER.parameters,
            "strict": True,
            "defer_loading": False,
            **MARK,
        }
    ],
    "tool_choice": {"type": "any", "disable_parallel_tool_use": False},
    "stop_sequences": ["END"],
    "temperature": 0.5,
    "top_p": 0.9,
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
    "thinking": {"type": "adaptive", "display": "omitted"},
    "metadata": {"user_id": "u"},
    "service_tier": "auto",
    "top_k": None,
    "mcp_servers": [],
    "stream": True,
}


def test_a_body_is_said_in_neutral_words() -> None:
    found = neutral(wire(json.dumps(RICH).encode()))
    call = ToolCall(id="toolu_1", name="weather", arguments={"city": "Oslo"})
    assert found == ask(
        prompt=None,
        messages=(
            ChatMessage(role="system", content="Be brief.", cache=True),
            user("Look:"),
            user(images=(Image(data="iVBO", media_type="image/png"),)),
            ChatMessage(role="assistant", content="I look.", tool_calls=(call,)),
            ChatMessage(role="tool", content="Rain", tool_call_id="toolu_1", cache=True),
            user("And now?", documents=(Document(url="https://a/b.pdf", name="tides.pdf"),)),
        ),
        tools=(WEATHER,),
        tool_choice="required",
        stop=("END",),
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=50,
        json_schema=SCHEMA,
        reasoning_effort="low",
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"}),
        ({"thinking": {"type": "adaptive"}}, {}),
        ({"tools": [{"name": "weather"}]}, {"tools": (Tool(name="weather"),)}),
        ({"tool_choice": {"type": "auto"}}, {}),
        (
            {"tools": [{"name": "weather"}], "tool_choice": {"type": "tool", "name": "weather"}},
            {"tools": (Tool(name="weather"),), "tool_choice": "weather"},
        ),
        (blocks({"type": "text", "text": "1"}, {"type": "text", "text": "2"}), {"messages": (user("1"), user("2"))}),
        (
            blocks({"type": "text", "text": "1", **MARK}, {"type": "image", "source": PNG}),
            {"messages": (user("1", cache=True), user(images=(Image(data="iVBO", media_type="image/png"),)))},
        ),
        (
            blocks(
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "é"}},
                {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}},
            ),
            {
                "messages": (
                    user(documents=(Document.of("é".encode(), "text/plain", "document.txt"),)),
                    user(images=(Image(url="https://a/b.png"),)),
                )
            },
        ),
        (
            blocks({"type": "tool_result", "tool_use_id": "t", "is_error": True, "content": "No such city"}),
            {"messages": (ChatMessage(role="tool", content="No such city", tool_call_id="t"),)},
        ),
        (
            blocks({"type": "image", "source": PNG}, {"type": "tool_result", "tool_use_id": "t"}),
            {
                "messages": (
                    user(images=(Image(data="iVBO", media_type="image/png"),)),
                    ChatMessage(role="tool", content="", tool_call_id="t"),
                )
            },
        ),
        (
            blocks({"type": "document", "source": {"type": "url", "url": "https://a/b"}, **MARK}),
            {"messages": (user(documents=(Document(url="https://a/b"),), cache=True),)},
        ),
        (
            {"cache_control": {"type": "ephemeral"}},
            {"messages": (user("Hello", cache=True),)},
        ),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]},
            {"messages": (user("a"), ChatMessage(role="system", content="b"))},
        ),
        (
            blocks({"type": "thinking", "thinking": "hm", "signature": "s"}, role="assistant"),
            {"messages": (user("Go on."),)},
        ),
    ],
)
def test_each_part_has_its_word(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    usual = {"prompt": None, "messages": (user("Hello"),), "max_output_tokens": 50}
    assert neutral(wire(**fields)) == ask(**usual | expected)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"top_k": 5}, "top_k"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"context_management": {"edits": []}}, "context_management"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"speed": "fast"}, "speed"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"stream": "yes"}, "stream"),
        ({"stop_sequences": ["a", 1]}, "stop_sequences"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2_000}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "adaptive", "display": "summarized"}}, "thinking.display"),
        ({"thinking": {"type": "between_tools"}}, "thinking.between_tools"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, "output_config.effort"),
        ({"output_config": {"effort": "vast"}}, "output_config.effort"),
        ({"output_config": {"task_budget": {"type": "tokens"}}}, "output_config.task_budget"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"tools": [{"type": "computer_20250124", "name": "computer"}]}, "tools.computer_20250124"),
        ({"tools": [{"name": "f", "input_examples": [{}]}]}, "tools.input_examples"),
        ({"tools": [{"name": "f", "defer_loading": True}]}, "tools.defer_loading"),
        ({"tools": [{"name": "two words"}]}, "tools.name"),
        ({"tools": [{"name": "f"}, {"name": "f"}]}, "tools.name"),
        ({"tools": [{"name": "f", "input_schema": 1}]}, "tools.input_schema"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        (
            {"tools": [{"name": "f"}], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            "tool_choice.disable_parallel_tool_use",
        ),
        ({"tools": [{"name": "auto"}], "tool_choice": {"type": "tool", "name": "auto"}}, "tool_choice"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "messages.prefill"),
        ({"messages": [{"role": "nobody", "content": "a"}]}, "messages.role"),
        ({"messages": [{"role": "user", "content": "a", "name": "n"}]}, "messages.name"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.content"),
        (blocks({"type": "search_result", "content": []}), "messages.search_result"),
        (blocks({"type": "image", "source": {"type": "file", "file_id": "f"}}), "messages.image.file"),
        (blocks({"type": "document", "source": {"type": "content", "content": []}}), "messages.document.content"),
        (
            blocks({"type": "document", "source": PNG, "citations": {"enabled": True}}),
            "messages.document.citations",
        ),
        (blocks({"type": "document", "source": PNG, "context": "c"}), "messages.document.context"),
        (blocks({"type": "text", "text": "a", "citations": [{}]}), "messages.text.citations"),
        (
            blocks({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": PNG}]}),
            "messages.tool_result.image",
        ),
        (blocks({"type": "tool_result", "tool_use_id": "t", "is_error": True}), "messages.tool_result.is_error"),
        (blocks({"type": "server_tool_use", "id": "s"}, role="assistant"), "messages.server_tool_use"),
        (
            blocks({"type": "tool_use", "id": "t", "name": "f", "caller": {"type": "code"}}, role="assistant"),
            "messages.tool_use.caller",
        ),
        ({"system": [{"type": "image", "source": PNG}]}, "system.image"),
    ],
)
def test_what_has_no_neutral_word_is_named(fields: dict[str, Any], key: str) -> None:
    with pytest.raises(Untranslatable) as raised:
        neutral(wire(**fields))
    assert raised.value.key == key


@settings(max_examples=examples(200))
@given(
    messages=conversations(marks=True),
    fields=st.fixed_dictionaries(
        {
            "temperature": st.none() | st.floats(0, 1),
            "top_p": st.none() | st.floats(0, 1),
            "stop": st.sampled_from([(), ("END", "\n\n")]),
            "reasoning_effort": st.sampled_from([None, "low", "high", "max"]),
            "tool_choice": st.sampled_from([None, "auto", "none", "required", "weather"]),
            "json_schema": st.sampled_from([None, SCHEMA]),
        }
    ),
)
def test_our_own_body_is_read_as_what_it_was_made_of(messages: tuple[ChatMessage, ...], fields: dict[str, Any]) -> None:
    request = ask(prompt=None, messages=messages, tools=(WEATHER,), **fields)
    body = json.dumps(build(request, "anthropic", stream=True).body).encode()
    schema = request.json_schema and in_words(request.json_schema, CLAUDE)
    expected = request.model_copy(update={"max_output_tokens": 77, "json_schema": schema})
    assert neutral(wire(body)) == expected


@settings(max_examples=examples(500))
@given(body=changed(RICH))
def test_whatever_is_measured_is_a_request_or_untranslatable(body: bytes) -> None:
    try:
        measured(body)
        found = neutral(wire(body))
    except (BadBody, Untranslatable):
        return
    assert LLMRequest.model_validate_json(found.model_dump_json()) == found
    for api in ("openai", "openai-responses", "gemini", "bedrock", "anthropic"):
        with suppress(UnsupportedParameter):
            json.dumps(build(found, api).body, ensure_ascii=False, allow_nan=False).encode()


def test_the_search_reaches_requests_and_refusals() -> None:
    neutral(wire(json.dumps(RICH).encode()))
    with pytest.raises(Untranslatable):
        neutral(wire(temperature=float("inf")))
    with pytest.raises(Untranslatable):
        neutral(wire(messages=[{"role": "user", "content": "\ud800"}]))


# ---------------------------------------------------------------- what is answered


def sdk(given: WireAnswer) -> Anthropic:
    """Anthropic's own client, to which the answer comes."""
    respond = httpx2.MockTransport(
        lambda request: httpx2.Response(given.status, headers=given.headers, content=given.body)
    )
    return Anthropic(api_key="unused", max_retries=0, http_client=httpx2.Client(transport=respond))


def whole_and_streamed(given: NeutralAnswer) -> tuple[Message, Message]:
    whole = sdk(told(wire(), given)).messages.create(
        model="writer", max_tokens=50, messages=[{"role": "user", "content": "Hello"}]
    )
    client = sdk(told(wire(stream=True), given))
    with client.messages.stream(
        model="writer", max_tokens=50, messages=[{"role": "user", "content": "Hello"}]
    ) as events:
        return whole, events.get_final_message()


@settings(max_examples=examples(100))
@given(given=answers())
def test_the_sdk_reads_the_answer_whole_and_streamed(given: NeutralAnswer) -> None:
    for message in whole_and_streamed(given):
        assert "".join(block.text for block in message.content if block.type == "text") == given.text
        called = [block for block in message.content if isinstance(block, ToolUseBlock)]
        assert [(call.id, call.name, call.input) for call in called] == [
            (call.id, call.name, call.arguments) for call in given.tool_calls
        ]
        assert (message.stop_reason, message.model) == (STOP_REASONS[given.ending], "mini")
        assert message.id == f"msg_{given.id}"
        usage, expected = message.usage, given.usage or TokenUsage()
        read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
        thinking = usage.output_tokens_details.thinking_tokens if usage.output_tokens_details else 0
        assert expected == TokenUsage(
            input_tokens=usage.input_tokens + read + written,
            cached_input_tokens=read,
            cache_write_tokens=written,
            output_tokens=usage.output_tokens,
            reasoning_tokens=thinking or 0,
        )


@settings(max_examples=examples(100))
@given(given=answers())
def test_our_own_provider_reads_it_alike(given: NeutralAnswer) -> None:
    whole = parse_response(told(wire(), given).body, SERVICE)
    assert whole == parse_stream(told(wire(stream=True), given).body, SERVICE)
    assert whole.usage is not None
    assert whole.usage.stored() == (given.usage or TokenUsage())


@settings(max_examples=examples(50))
@given(given=answers())
def test_an_answer_goes_on_as_the_message_that_it_was(given: NeutralAnswer) -> None:
    message, _ = whole_and_streamed(given)
    sent = {"role": "assistant", "content": message.model_dump(mode="json", exclude_none=True)["content"]}
    asked = wire(messages=[{"role": "user", "content": "Hello"}, sent, {"role": "user", "content": "And now?"}])
    said = [each for each in neutral(asked).messages if each.role == "assistant"]
    if given.text or given.tool_calls:
        assert said == [ChatMessage(role="assistant", content=given.text, tool_calls=given.tool_calls)]
    else:
        assert said == []


def test_ids_that_anthropic_would_refuse_are_made_anew() -> None:
    calls = tuple(ToolCall(id=call_id, name="weather") for call_id in ("call-1", "a.b", "call_abc"))
    message, _ = whole_and_streamed(answer(tool_calls=calls, ending="tools"))
    assert [block.id for block in message.content if block.type == "tool_use"] == [
        "toolu_attempt-1_0",
        "toolu_attempt-1_1",
        "call_abc",
    ]


def test_arguments_that_are_no_object_are_not_lost() -> None:
    call = ToolCall(id="t", name="weather", invalid_arguments='{"city": "Os')
    for message in whole_and_streamed(answer(tool_calls=(call,), ending="tools")):
        [block] = message.content
        assert isinstance(block, ToolUseBlock)
        assert block.input == {"INVALID_JSON": '{"city": "Os'}


def test_events_are_named_and_framed_as_anthropics() -> None:
    usage = TokenUsage(input_tokens=9, cached_input_tokens=4, output_tokens=5)
    given = told(wire(stream=True), answer(text="a\u2028b", usage=usage))
    names = [line.removeprefix(b"event: ") for line in given.body.split(b"\n") if line.startswith(b"event: ")]
    assert names == [
        b"message_start",
        b"content_block_start",
        b"content_block_delta",
        b"content_block_stop",
        b"message_delta",
        b"message_stop",
    ]
    assert given.headers == {"content-type": "text/event-stream; charset=utf-8"}
    assert given.body.isascii()
    begun = json.loads(given.body.split(b"\n")[1].removeprefix(b"data: "))["message"]["usage"]
    assert (begun["input_tokens"], begun["cache_read_input_tokens"], begun["output_tokens"]) == (5, 4, 0)
