"""Calls of the Responses API in neutral words: what is asked stays what it is, and OpenAI's SDK reads the answer."""

import json
import time
from typing import Any

import httpx2
import pytest
from changed_bodies import changed
from conversations import conversations
from hypothesis import example, given, settings
from hypothesis import strategies as st
from neutral_answers import answer, answers
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from searches import examples
from translated_openai import Scripted, assert_read_alike, in_neutral_words
from translated_openai import wire as wire_of
from wire import WEATHER, build, service

from paymaster.messages import ChatMessage, Document, Image, LLMRequest, ToolCall
from paymaster.messages.wire import Wire
from paymaster.providers import openai_responses as provider
from paymaster.providers.bounds import input_bytes
from paymaster.providers.provider import UnsupportedParameter
from paymaster.translation.dialects import told
from paymaster.translation.neutral import NeutralAnswer, Untranslatable
from paymaster.values.limits import ANSWER_BODY_BYTES_MAX
from paymaster.values.money import TokenUsage
from paymaster.wire.dialects import measured
from paymaster.wire.measured import BadBody

PNG = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"}
PDF = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,BBBB"}
LINKED = {"type": "input_file", "file_url": "https://a/b.PDF?c=d"}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather", "arguments": '{"city": "Bern"}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "rain"}
TOOL: dict[str, Any] = {"type": "function", "name": "weather", "parameters": WEATHER.parameters, "strict": False}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"answer": {"type": "string"}}}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def wire(**fields: Any) -> Wire:
    return wire_of("openai-responses", **({"model": "writer", "input": "Hello"} | fields))


def said(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"input": [{"role": role, "content": list(parts)}]}


def text(words: str, kind: str = "input_text", **more: Any) -> dict[str, Any]:
    return {"type": kind, "text": words, **more}


def client(script: Scripted) -> OpenAI:
    http = httpx2.Client(transport=httpx2.MockTransport(script))
    return OpenAI(api_key="unused", base_url="http://paymaster/v1", max_retries=0, http_client=http)


def conversation(*items: Any) -> tuple[ChatMessage, ...]:
    return in_neutral_words(wire(input=list(items))).messages


# ---------------------------------------------------------------- what is asked


def test_what_is_asked_stays_what_it_is() -> None:
    found = in_neutral_words(
        wire(
            instructions="Be brief.",
            input=[
                {"role": "developer", "content": "Be kind."},
                {"type": "message", "role": "user", "content": [text("Weather?")]},
                {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
                CALL | {"status": "completed"},
                {"type": "function_call_output", "call_id": "c1", "output": [text("rain"), text(", wind")]},
                {
                    "type": "message",
                    "id": "msg_1",
                    "role": "assistant",
                    "status": "completed",
                    "phase": "final_answer",
                    "content": [
                        text("Wet. ", "output_text", annotations=[{"type": "file_path"}], logprobs=[]),
                        {"type": "refusal", "refusal": "No more."},
                    ],
                },
                {"role": "system", "content": "In verse."},
            ],
            max_output_tokens=40,
            temperature=0.5,
            top_p=1,
            reasoning={"effort": "low"},
            tools=[TOOL],
            tool_choice={"type": "function", "name": "weather"},
            text={"format": {"type": "json_schema", "name": "a", "schema": SCHEMA, "strict": True}},
        )
    )
    call = ToolCall(id="c1", name="weather", arguments={"city": "Bern"})
    assert found == LLMRequest(
        route="writer",
        budget="acme",
        messages=(
            ChatMessage(role="system", content="Be brief."),
            ChatMessage(role="system", content="Be kind."),
            ChatMessage(role="user", content="Weather?"),
            ChatMessage(role="assistant", content="", tool_calls=(call,)),
            ChatMessage(role="tool", content="rain, wind", tool_call_id="c1"),
            ChatMessage(role="assistant", content="Wet. No more."),
            ChatMessage(role="system", content="In verse."),
        ),
        max_output_tokens=40,
        temperature=0.5,
        top_p=1,
        reasoning_effort="low",
        tools=(WEATHER.model_copy(update={"description": ""}),),
        tool_choice="weather",
        json_schema=SCHEMA,
    )


def test_parts_keep_their_order() -> None:
    image, document = Image(data="AAAA", media_type="image/png"), Document(data="BBBB", name="a.pdf")
    parts = (
        PNG,
        PDF,
        text("a"),
        text("b", prompt_cache_breakpoint={"mode": "explicit"}),
        PDF,
        PNG | {"detail": None},
        LINKED,
    )
    assert conversation({"role": "user", "content": list(parts)}) == (
        ChatMessage(role="user", content="a", images=(image,), documents=(document,)),
        ChatMessage(role="user", content="b", cache=True),
        ChatMessage(role="user", content="", documents=(document,)),
        ChatMessage(role="user", content="", images=(image,), documents=(Document(url="https://a/b.PDF?c=d"),)),
    )


def test_the_calls_of_one_turn_are_in_one_message() -> None:
    """Their results come after all of them, and chat completions refuse a message between a call and its result."""

    def of(call_id: str) -> dict[str, Any]:
        return CALL | {"call_id": call_id}

    def wrote(words: str) -> dict[str, Any]:
        return {"role": "assistant", "content": words}

    thought = {"type": "reasoning", "id": "rs_1", "summary": []}
    found = conversation(
        *(wrote("A"), wrote("B"), of("1"), thought, of("2"), wrote("C")),
        *(RESULT | {"call_id": "1"}, RESULT | {"call_id": "2"}, of("3"), RESULT | {"call_id": "3"}, wrote("D")),
    )
    assert [
        (message.role, message.content, [call.id for call in message.tool_calls], message.tool_call_id)
        for message in found
    ] == [
        ("assistant", "A", [], None),
        ("assistant", "BC", ["1", "2"], None),
        ("tool", "rain", [], "1"),
        ("tool", "rain", [], "2"),
        ("assistant", "", ["3"], None),
        ("tool", "rain", [], "3"),
        ("assistant", "D", [], None),
    ]


@pytest.mark.parametrize(("written", "kept"), [("", None), ("null", None), ("[1", "[1")])
def test_arguments_that_are_none_stay_text(written: str, kept: str | None) -> None:
    [found] = conversation(CALL | {"arguments": written})
    assert (found.tool_calls[0].arguments, found.tool_calls[0].invalid_arguments) == ({}, kept)


def test_what_changes_nothing_is_let_go() -> None:
    usual = wire(
        stream=True,
        stream_options={"include_obfuscation": False},
        store=True,
        background=False,
        parallel_tool_calls=True,
        service_tier="default",
        top_logprobs=0,
        truncation="disabled",
        include=["reasoning.encrypted_content"],
        text={"format": {"type": "text"}, "verbosity": "medium"},
        reasoning={"effort": None, "summary": None},
        user="u",
        safety_identifier="s",
        metadata={"a": "b"},
        client_metadata={"a": "b"},
        prompt_cache_key="k",
        prompt_cache_retention="24h",
        previous_response_id=None,
        conversation=None,
        tools=[],
        tool_choice="auto",
    )
    assert in_neutral_words(usual) == in_neutral_words(wire())


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"previous_response_id": "r"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_tool_calls": 2}, "max_tool_calls"),
        ({"a_key_of_tomorrow": 1}, "a_key_of_tomorrow"),
        ({"include": ["message.output_text.logprobs"]}, "include.message.output_text.logprobs"),
        ({"include": {}}, "include"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"reasoning": {"effort": "heroic"}}, "reasoning.effort"),
        ({"reasoning": "high"}, "reasoning"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format.json_object"),
        ({"text": {"format": {"type": "json_schema", "schema": {}, "odd": 1}}}, "text.format.odd"),
        ({"top_p": 2}, "top_p"),
        ({"temperature": True}, "temperature"),
        ({"tools": [{"type": "custom", "name": "f"}]}, "tools.custom"),
        ({"tools": [TOOL | {"defer_loading": True}]}, "tools.defer_loading"),
        ({"tools": [TOOL | {"name": "a b"}]}, "tools.name"),
        ({"tools": [TOOL, TOOL]}, "tools.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice.function"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"instructions": [{"role": "user"}]}, "instructions"),
        ({"input": []}, "messages"),
        ({"input": [{"type": "item_reference", "id": "i"}]}, "input.item_reference"),
        ({"input": [{"type": "custom_tool_call", "name": "f"}]}, "input.custom_tool_call"),
        ({"input": [{"type": "compaction", "encrypted_content": "x"}]}, "input.compaction"),
        ({"input": [{"role": "critic", "content": "x"}]}, "input.critic"),
        ({"input": [{"role": "user", "content": "x", "odd": 1}]}, "input.odd"),
        ({"input": [CALL | {"namespace": "n"}]}, "input.function_call.namespace"),
        ({"input": [CALL | {"name": ""}]}, "input.function_call"),
        ({"input": [RESULT | {"output": [PNG]}]}, "input.function_call_output.input_image"),
        ({"input": [RESULT | {"call_id": None}]}, "input.function_call_output.call_id"),
        (said({"type": "input_audio"}), "input.input_audio"),
        (said(PNG | {"detail": "high"}), "input.input_image.detail"),
        (said({"type": "input_image", "file_id": "f"}), "input.input_image.file_id"),
        (said({"type": "input_file", "file_id": "f"}), "input.input_file.file_id"),
        (said({"type": "input_file", "file_url": "https://a/b.docx"}), "input.input_file.file_url"),
        (said({"type": "input_file", "file_url": "http://[.pdf"}), "input.input_file.file_url"),
        (said({"type": "input_file", "file_data": "AAAA"}), "input.input_file"),
        (said(PNG, role="system"), "input.input_image"),
        (said(), "input.content"),
    ],
)
def test_what_has_no_neutral_word_is_named(fields: dict[str, Any], key: str) -> None:
    with pytest.raises(Untranslatable) as caught:
        in_neutral_words(wire(**fields))
    assert caught.value.key == key


def test_no_more_arguments_are_read_than_a_message_may_have() -> None:
    call = CALL | {"arguments": f'{{"a":[{"1," * 20_000}1]}}'}
    assert conversation(call, call)
    with pytest.raises(Untranslatable, match="50,000 values"):
        conversation(call, call, call)


WHOLE: dict[str, Any] = {
    "model": "writer",
    "instructions": "x",
    "input": [
        {"role": "system", "content": [text("x")]},
        {"type": "message", "role": "user", "content": [text("y"), PNG, PDF, LINKED]},
        {"role": "assistant", "content": [text("z", "output_text"), {"type": "refusal", "refusal": "no"}]},
        {"type": "reasoning", "id": "r", "summary": []},
        CALL,
        RESULT,
        {"type": "function_call_output", "call_id": "c1", "output": [text("rain")]},
    ],
    "max_output_tokens": 5,
    "temperature": 1,
    "top_p": 1,
    "include": ["reasoning.encrypted_content"],
    "reasoning": {"effort": "low"},
    "tools": [TOOL],
    "tool_choice": {"type": "function", "name": "weather"},
    "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}, "verbosity": "medium"},
}


@settings(max_examples=examples(500), deadline=None)
@given(changed(WHOLE))
def test_any_body_is_put_into_neutral_words_or_refused(body: bytes) -> None:
    asked = Wire(dialect="openai-responses", body=body)
    try:
        measured(asked)
    except BadBody:
        return
    try:
        request = in_neutral_words(asked)
    except Untranslatable:
        return
    assert input_bytes(request) > 0
    assert LLMRequest.model_validate_json(request.model_dump_json()) == request


@settings(max_examples=examples(200), deadline=None)
@given(
    messages=conversations(),
    fields=st.fixed_dictionaries(
        {
            "temperature": st.none() | st.floats(0, 2),
            "top_p": st.none() | st.floats(0, 1),
            "reasoning_effort": st.none() | st.sampled_from(["none", "low", "max"]),
            "tool_choice": st.sampled_from([None, "auto", "none", "required", "weather"]),
        }
    ),
)
def test_what_we_ask_ourselves_comes_back(messages: tuple[ChatMessage, ...], fields: dict[str, Any]) -> None:
    request = LLMRequest(
        route="writer", budget="acme", messages=messages, tools=(WEATHER,), max_output_tokens=77, **fields
    )
    try:
        body = json.dumps(build(request, "openai-responses").body).encode()
    except UnsupportedParameter:
        return
    assert in_neutral_words(Wire(dialect="openai-responses", body=body)) == request


# ---------------------------------------------------------------- what is answered


def assert_is(found: Response, answer: NeutralAnswer) -> None:
    assert (found.id, found.created_at, found.model) == (f"resp_{answer.id}", answer.at_s, answer.model)
    parts = [part for item in found.output if item.type == "message" for part in item.content]
    assert "".join(part.refusal if part.type == "refusal" else part.text for part in parts) == answer.text
    assert {part.type for part in parts} <= {"refusal" if answer.ending == "refused" else "output_text"}
    why = {"length": "max_output_tokens", "refused": None if answer.text else "content_filter"}.get(answer.ending)
    assert found.status == ("completed" if why is None else "incomplete")
    assert (found.incomplete_details and found.incomplete_details.reason) == why
    calls = [item for item in found.output if item.type == "function_call"]
    assert [(call.call_id, call.name) for call in calls] == [(call.id, call.name) for call in answer.tool_calls]
    for call, written in zip(answer.tool_calls, (call.arguments for call in calls), strict=True):
        assert written == call.invalid_arguments or json.loads(written) == call.arguments
    if answer.usage is None:
        assert found.usage is None
        return
    usage = found.usage
    assert usage is not None
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert answer.usage == TokenUsage(
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.input_tokens_details.cached_tokens,
        cache_write_tokens=usage.input_tokens_details.cache_write_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.output_tokens_details.reasoning_tokens,
    )


@settings(max_examples=examples(150), deadline=None)
@given(answers())
@example(answer(text="é\u2028\n\ndata: [DONE]", usage=TokenUsage(input_tokens=9, reasoning_tokens=0)))
@example(answer(tool_calls=(ToolCall(id="c", name="f", invalid_arguments="[1"),), ending="tools"))
@example(answer(text="No.", ending="refused"))
@example(answer(ending="refused"))
def test_the_sdk_reads_the_answer_whole_and_streamed(answer: NeutralAnswer) -> None:
    found = client(Scripted("openai-responses", answer)).responses.create(model="writer", input="Hello")
    assert_is(Response.model_validate(found.model_dump()), answer)
    with client(Scripted("openai-responses", answer)).responses.stream(model="writer", input="Hello") as events:
        last: Any = list(events)[-1]
    assert last.type in ("response.completed", "response.incomplete")
    assert_is(last.response, answer)


@settings(max_examples=examples(150), deadline=None)
@given(answers(), st.booleans())
def test_our_own_reader_finds_the_same(answer: NeutralAnswer, stream: bool) -> None:
    read = provider.parse_stream if stream else provider.parse_response
    found = read(told(wire(stream=stream), answer).body, service("openai-responses"))
    if answer.ending == "stop" and not answer.text and not answer.tool_calls:
        return  # which it takes for a broken one
    assert_read_alike(found, answer)


@settings(max_examples=examples(100), deadline=None)
@given(answers())
def test_every_event_is_one_of_the_format(answer: NeutralAnswer) -> None:
    body = told(wire(stream=True), answer).body.decode()
    events: list[Any] = []
    for written in body.removesuffix("\n\n").split("\n\n"):
        name, data = written.split("\n")
        events.append(EVENT.validate_json(data.removeprefix("data: ")))
        assert name == f"event: {events[-1].type}"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == events[-1].response.output
    added = [event.output_index for event in events if event.type == "response.output_item.added"]
    assert added == list(range(len(done)))
    deltas = [event.delta for event in events if event.type.endswith("text.delta") or event.type.endswith("sal.delta")]
    assert "".join(deltas) == answer.text


def test_a_response_says_again_what_was_asked() -> None:
    answer = NeutralAnswer("a-1", 1_700_000_000, "m-1", "Hi.", (), "stop", None)
    asked = wire(
        instructions="Be brief.",
        tools=[TOOL],
        tool_choice="required",
        temperature=0.5,
        text={"verbosity": "medium", "format": None},
        metadata={"a": "b"},
    )
    found = Response.model_validate_json(told(asked, answer).body)
    assert (found.instructions, found.tool_choice, found.temperature) == ("Be brief.", "required", 0.5)
    assert (found.metadata, found.parallel_tool_calls, found.truncation) == ({"a": "b"}, True, "disabled")
    assert found.text is not None
    assert found.text.format is not None
    assert (found.text.verbosity, found.text.format.type) == ("medium", "text")
    assert [tool.to_dict() for tool in found.tools] == [TOOL]


def test_a_long_call_is_not_said_again() -> None:
    """A body of an answer beyond its limit could be read by nobody, and would be paid for."""
    answer = NeutralAnswer("a-1", 1_700_000_000, "m-1", "é" * 950_000, (), "stop", None)
    for size in (450_000, 3_900_000):
        asked = wire(instructions="é" * size, stream=True)
        asked = asked.model_copy(update={"body": json.dumps(json.loads(asked.body), ensure_ascii=False).encode()})
        assert len(told(asked, answer).body) < ANSWER_BODY_BYTES_MAX


@pytest.mark.parametrize("stream", [False, True])
def test_no_two_calls_have_one_id(stream: bool) -> None:
    """Also not in two turns: a service that gives none has the same made ones in each."""
    calls = tuple(ToolCall(id=call_id, name="f") for call_id in ("c", "c", "call-1", ""))
    script = Scripted("openai-responses", *(answer(id=f"a-{turn}", tool_calls=calls) for turn in "12"))
    ids: list[str] = []
    for _ in range(2):
        if stream:
            with client(script).responses.stream(model="writer", input="Hello") as events:
                found = events.get_final_response()
        else:
            found = client(script).responses.create(model="writer", input="Hello")
        ids += [item.call_id for item in found.output if item.type == "function_call"]
    assert ids[0] == ids[4] == "c"  # of a service: it stays
    assert len(set(ids)) == 7


@pytest.mark.usefixtures("heap_of_a_worker")
def test_many_calls_take_no_long_time() -> None:
    """All of them are read where a workflow's task must end within two seconds."""
    begun = time.process_time()
    items = [{"type": "function_call", "call_id": f"c{number}", "name": "f"} for number in range(9_000)]
    assert len(conversation(*items)[0].tool_calls) == 9_000
    assert time.process_time() - begun < 0.8
