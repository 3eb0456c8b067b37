"""Chat completions in neutral words: what is asked stays what it is, and OpenAI's SDK reads the answer."""

import json
from typing import Any

import httpx2
import pytest
from changed_bodies import changed
from conversations import conversations
from hypothesis import example, given, settings
from hypothesis import strategies as st
from neutral_answers import answer, answers
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam
from searches import examples
from translated_openai import Scripted, assert_read_alike, in_neutral_words
from translated_openai import wire as wire_of
from wire import WEATHER, build, service

from paymaster.messages import ChatMessage, Document, Image, LLMRequest, ToolCall
from paymaster.messages.wire import Wire
from paymaster.providers import openai as provider
from paymaster.providers.bounds import input_bytes
from paymaster.providers.provider import ServiceAnswer, UnsupportedParameter
from paymaster.translation.dialects import told
from paymaster.translation.neutral import NeutralAnswer, Untranslatable
from paymaster.values.money import TokenUsage
from paymaster.wire.dialects import measured
from paymaster.wire.measured import BadBody

HELLO: ChatCompletionMessageParam = {"role": "user", "content": "Hello"}
PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "auto"}}
LINKED = {"type": "image_url", "image_url": {"url": "https://a/b.png"}}
PDF = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,BBBB"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": WEATHER.parameters, "strict": True}}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"answer": {"type": "string"}}}
ANSWER = NeutralAnswer("a-1", 1_700_000_000, "m-1", "Hi.", (), "stop", TokenUsage(input_tokens=9, output_tokens=2))


def wire(**fields: Any) -> Wire:
    return wire_of("openai", **({"model": "writer", "messages": [HELLO]} | fields))


def user(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def client(script: Scripted) -> OpenAI:
    http = httpx2.Client(transport=httpx2.MockTransport(script))
    return OpenAI(api_key="unused", base_url="http://paymaster/v1", max_retries=0, http_client=http)


# ---------------------------------------------------------------- what is asked


def test_what_is_asked_stays_what_it_is() -> None:
    thought = {"reasoning": "hm", "reasoning_content": "hm", "reasoning_details": [{"type": "reasoning.text"}]}
    found = in_neutral_words(
        wire(
            messages=[
                {"role": "developer", "content": [text("Be brief."), text("Be kind.")]},
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": None, "tool_calls": [CALL], "annotations": [], "audio": None},
                {"role": "tool", "tool_call_id": "c1", "content": [text("rain"), text(", wind")]},
                {"role": "assistant", "content": "Wet. ", "refusal": "No more.", **thought},
                {"role": "system", "content": "In verse."},
            ],
            max_tokens=50,
            max_completion_tokens=40,
            temperature=0.5,
            top_p=1,
            stop="END",
            seed=7,
            reasoning_effort="low",
            tools=[TOOL],
            tool_choice={"type": "function", "function": {"name": "weather"}},
            response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}},
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
        stop=("END",),
        seed=7,
        reasoning_effort="low",
        tools=(WEATHER.model_copy(update={"description": ""}),),
        tool_choice="weather",
        json_schema=SCHEMA,
    )


def test_parts_keep_their_order() -> None:
    image, linked = Image(data="AAAA", media_type="image/png"), Image(url="https://a/b.png")
    document = Document(data="BBBB", media_type="application/pdf", name="a.pdf")
    parts = (PNG, LINKED, PDF, text("a"), text("b"), PDF, PNG, text("", cache_control={"type": "ephemeral"}), PNG)
    assert in_neutral_words(wire(**user(*parts))).messages == (
        ChatMessage(role="user", content="a", images=(image, linked), documents=(document,)),
        ChatMessage(role="user", content="b"),
        ChatMessage(role="user", content="", documents=(document,)),
        ChatMessage(role="user", content="", images=(image,), cache=True),
        ChatMessage(role="user", content="", images=(image,)),
    )


def test_a_mark_of_a_message_is_one_of_its_last_part() -> None:
    marked = {"role": "user", "content": [text("a"), text("b")], "cache_control": {"type": "ephemeral"}}
    found = in_neutral_words(wire(messages=[marked]))
    assert [message.cache for message in found.messages] == [False, True]


@pytest.mark.parametrize(("written", "kept"), [("", None), ("null", None), ("[1", "[1"), (r'{"a":"\ud800"}', ...)])
def test_arguments_that_are_none_stay_text(written: str, kept: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": written}}
    [found] = in_neutral_words(wire(messages=[{"role": "assistant", "tool_calls": [call]}])).messages
    assert found.tool_calls[0].arguments == {}
    assert found.tool_calls[0].invalid_arguments == (written if kept is ... else kept)


def test_what_changes_nothing_is_let_go() -> None:
    usual = wire(
        stream=True,
        stream_options={"include_usage": True},
        n=1,
        modalities=["text"],
        parallel_tool_calls=True,
        logprobs=False,
        top_logprobs=0,
        frequency_penalty=0,
        presence_penalty=0.0,
        service_tier="auto",
        verbosity="medium",
        user="u",
        safety_identifier="s",
        metadata={"a": "b"},
        store=True,
        prompt_cache_key="k",
        prompt_cache_retention="24h",
        logit_bias=None,
        tools=[],
        tool_choice="auto",
        response_format={"type": "text"},
    )
    assert in_neutral_words(usual) == in_neutral_words(wire())


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": -1}, "presence_penalty"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"verbosity": "low"}, "verbosity"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"reasoning_effort": "heroic"}, "reasoning_effort"),
        ({"thinking": {"type": "enabled"}}, "thinking"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"a_key_of_tomorrow": 1}, "a_key_of_tomorrow"),
        ({"top_p": 2}, "top_p"),
        ({"temperature": "hot"}, "temperature"),
        ({"seed": 0.5}, "seed"),
        ({"stop": ["a", 1]}, "stop"),
        ({"messages": []}, "messages"),
        ({"response_format": {"type": "json_object"}}, "response_format.json_object"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": "json"}, "response_format"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.custom"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "runs_at": "x"}}]}, "tools.runs_at"),
        ({"tools": [TOOL, TOOL]}, "tools.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice.function"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        (user({"type": "input_audio", "input_audio": {}}), "messages.input_audio"),
        (
            user({"type": "image_url", "image_url": {"url": "https://a/b", "detail": "low"}}),
            "messages.image_url.detail",
        ),
        (user({"type": "image_url", "image_url": {"url": "data:image/png,x"}}), "messages.image_url"),
        (user({"type": "file", "file": {"file_id": "f"}}), "messages.file.file_id"),
        (user({"type": "file", "file": {"file_data": "AAAA"}}), "messages.file"),
        (user(), "messages.content"),
        ({"messages": [{"role": "user", "content": "x", "name": "Ann"}]}, "messages.name"),
        ({"messages": [{"role": "function", "content": "x", "name": "f"}]}, "messages.function"),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages.audio"),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, "messages.function_call"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"type": "custom", "custom": {}}]}]},
            "messages.tool_calls.custom",
        ),
        ({"messages": [{"role": "tool", "tool_call_id": "c", "content": [PNG]}]}, "messages.image_url"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.tool_call_id"),
        ({"messages": [{"role": "system", "content": [PNG]}]}, "messages.image_url"),
        ({"x" * 1_000: 1}, "x" * 200),
    ],
)
def test_what_has_no_neutral_word_is_named(fields: dict[str, Any], key: str) -> None:
    with pytest.raises(Untranslatable) as caught:
        in_neutral_words(wire(**fields))
    assert caught.value.key == key


def test_no_more_arguments_are_read_than_a_message_may_have() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": f'{{"a":[{"1," * 20_000}1]}}'}}
    assert in_neutral_words(wire(messages=[{"role": "assistant", "tool_calls": [call] * 2}])).messages
    with pytest.raises(Untranslatable, match="50,000 values"):
        in_neutral_words(wire(messages=[{"role": "assistant", "tool_calls": [call]}] * 3))


WHOLE: dict[str, Any] = {
    "model": "writer",
    "messages": [
        {"role": "system", "content": [text("x", cache_control={"type": "ephemeral"})]},
        {"role": "user", "content": [text("y"), PNG, LINKED, PDF]},
        {"role": "assistant", "content": "z", "refusal": "no", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": [text("rain")]},
    ],
    "max_tokens": 5,
    "temperature": 1,
    "top_p": 1,
    "stop": ["x"],
    "seed": 1,
    "n": 1,
    "reasoning_effort": "low",
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
}


@settings(max_examples=examples(500), deadline=None)
@given(changed(WHOLE))
def test_any_body_is_put_into_neutral_words_or_refused(body: bytes) -> None:
    asked = Wire(dialect="openai", body=body)
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
            "stop": st.lists(st.text(min_size=1), max_size=2).map(tuple),
            "seed": st.none() | st.integers(-9, 99),
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
        body = json.dumps(build(request, "openai").body).encode()
    except UnsupportedParameter:
        return
    assert in_neutral_words(Wire(dialect="openai", body=body)) == request


# ---------------------------------------------------------------- what is answered


def assert_is(found: ChatCompletion, answer: NeutralAnswer) -> None:
    [choice] = found.choices
    message = choice.message
    reasons = {
        "stop": "stop",
        "length": "length",
        "tools": "tool_calls",
        "refused": "stop" if answer.text else "content_filter",
    }
    assert (found.id, found.created, found.model) == (f"chatcmpl-{answer.id}", answer.at_s, answer.model)
    assert choice.finish_reason == reasons[answer.ending]
    assert ((message.refusal if answer.ending == "refused" else message.content) or "") == answer.text
    assert ((message.content if answer.ending == "refused" else message.refusal) or "") == ""
    calls = [call for call in message.tool_calls or [] if call.type == "function"]
    assert [(call.id, call.function.name) for call in calls] == [(call.id, call.name) for call in answer.tool_calls]
    for call, written in zip(answer.tool_calls, (call.function.arguments for call in calls), strict=True):
        assert written == call.invalid_arguments or json.loads(written) == call.arguments
    if answer.usage is None:
        assert found.usage is None
        return
    usage = found.usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.completion_tokens_details is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert answer.usage == TokenUsage(
        input_tokens=usage.prompt_tokens,
        cached_input_tokens=usage.prompt_tokens_details.cached_tokens or 0,
        cache_write_tokens=usage.prompt_tokens_details.cache_write_tokens or 0,
        output_tokens=usage.completion_tokens,
        reasoning_tokens=usage.completion_tokens_details.reasoning_tokens or 0,
    )


@settings(max_examples=examples(150), deadline=None)
@given(answers())
@example(answer(text="é\u2028\n\ndata: [DONE]", usage=TokenUsage(input_tokens=9, reasoning_tokens=0)))
@example(answer(tool_calls=(ToolCall(id="c", name="f", invalid_arguments="[1"),), ending="tools"))
@example(answer(text="No.", ending="refused"))
@example(answer(ending="refused"))
def test_the_sdk_reads_the_answer_whole_and_streamed(answer: NeutralAnswer) -> None:
    found = client(Scripted("openai", answer)).chat.completions.create(model="writer", messages=[HELLO])
    assert_is(ChatCompletion.model_validate(found.model_dump()), answer)
    if answer.ending in ("length", "refused"):  # for both the SDK's own stream raises an error, as it does for OpenAI's
        return
    asked = client(Scripted("openai", answer)).chat.completions.stream(
        model="writer", messages=[HELLO], stream_options={"include_usage": True}
    )
    with asked as events:
        assert_is(events.get_final_completion(), answer)


@settings(max_examples=examples(150), deadline=None)
@given(answers(), st.booleans())
def test_our_own_reader_finds_the_same(answer: NeutralAnswer, stream: bool) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    body = told(wire(**options), answer).body
    read = provider.parse_stream if stream else provider.parse_response
    assert_read_alike(read(body, service("openai")), answer)


def test_usage_is_streamed_where_it_is_asked_for() -> None:
    for options, counted in (({}, []), ({"stream_options": {"include_usage": True}}, [None, None, None, 11])):
        sent = told(wire(stream=True, **options), ANSWER)
        assert sent.headers == {"content-type": "text/event-stream"}
        *lines, last = sent.body.decode().removesuffix("\n\n").split("\n\n")
        assert last == "data: [DONE]"
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
        totals = [chunk["usage"] and chunk["usage"]["total_tokens"] for chunk in chunks if "usage" in chunk]
        assert totals == counted
        read = [ChatCompletionChunk.model_validate(chunk) for chunk in chunks]
        assert [choice.delta.content for chunk in read for choice in chunk.choices] == ["", "Hi.", None]
    unknown = told(wire(stream=True, stream_options={"include_usage": True}), ANSWER._replace(usage=None))
    assert b"total_tokens" not in unknown.body


@pytest.mark.parametrize("stream", [False, True])
def test_no_two_calls_have_one_id(stream: bool) -> None:
    """Also not in two turns: a service that gives none has the same made ones in each."""
    calls = tuple(ToolCall(id=call_id, name="f") for call_id in ("c", "c", "call-1", ""))
    ids: list[str] = []
    for turn in "12":
        given = answer(id=f"a-{turn}", tool_calls=calls, ending="tools")
        body = told(wire(stream=stream), given).body
        found = (provider.parse_stream if stream else provider.parse_response)(body, service("openai"))
        assert isinstance(found, ServiceAnswer)
        ids += [call.id for call in found.tool_calls]
    assert ids[0] == ids[4] == "c"  # of a service: it stays
    assert len(set(ids)) == 7
