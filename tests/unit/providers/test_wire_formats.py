"""The wire formats: what is sent, what is understood, streamed or not, and that nothing from a server breaks them."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import GRANT, SCHEMA, WEATHER, ask, build, service
from wire_answers import (
    ANSWERS,
    CHAT,
    replaced,
    sse,
)

from paymaster.keys.api_key import ApiKey
from paymaster.messages import ChatMessage, Image, ToolCall
from paymaster.providers.answers import without_keys
from paymaster.providers.event_stream import stream_events
from paymaster.providers.provider import (
    MalformedAnswer,
    ServiceAnswer,
    ServiceError,
    UnsupportedParameter,
    WireUsage,
)
from paymaster.providers.registry import PROVIDERS, streams
from paymaster.settings import Api

GATEWAY = "http://127.0.0.1:8080/v1"
ASKED = ToolCall(id="call-1", name="weather", arguments={"city": "Bern"}, signature="opaque")


CONVERSATION = ask(
    system="Be brief.",
    messages=(
        ChatMessage(role="user", content="What is this?", images=(Image.of(b"\x89PNG", "image/png"),)),
        ChatMessage(role="assistant", content="", tool_calls=(ASKED,)),
        ChatMessage(role="tool", content="sunny", tool_call_id="call-1"),
    ),
    prompt="And now?",
    tools=(WEATHER,),
    tool_choice="weather",
    temperature=0.5,
    top_p=0.9,
)


def parse(api: Api, data: Any, base_url: str | None = None) -> ServiceAnswer | ServiceError:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    return PROVIDERS[api].parse_response(body, service(api, base_url))


def parse_stream(api: Api, text: str) -> ServiceAnswer | ServiceError:
    return PROVIDERS[api].parse_stream(text.encode(), service(api))


# ---------------------------------------------------------------- requests


def test_every_api_has_the_provider_of_its_name() -> None:
    assert [PROVIDERS[api].api for api in get_args(Api)] == list(get_args(Api))


@pytest.mark.parametrize(
    ("api", "path"),
    [
        ("openai", "/chat/completions"),
        ("openai-responses", "/responses"),
        ("anthropic", "/messages"),
        ("gemini", "/models/the-model:generateContent"),
        ("azure-openai", "/chat/completions"),
        ("bedrock", "/model/the-model/converse"),
        ("vertex-gemini", "/publishers/google/models/the-model:generateContent"),
        ("vertex-claude", "/publishers/anthropic/models/the-model:rawPredict"),
    ],
)
def test_a_request_goes_to_the_formats_path(api: Api, path: str) -> None:
    assert build(ask(), api).path == path


def test_azures_deployments_are_in_the_path_when_an_api_version_is_set() -> None:
    azure = service("azure-openai", "https://example.openai.azure.com", api_version="2024-10-21")
    grant = GRANT.model_copy(update={"model": "our gpt/5"})
    path = PROVIDERS["azure-openai"].build_request(ask(), grant, azure, False).path
    assert path == "/openai/deployments/our%20gpt%2F5/chat/completions?api-version=2024-10-21"


@pytest.mark.parametrize(
    ("api", "base_url", "place"),
    [
        ("openai", "https://api.openai.com/v1", ("max_completion_tokens",)),
        ("openai", "https://api.groq.com/openai/v1", ("max_completion_tokens",)),
        ("openai", "https://api.mistral.ai/v1", ("max_tokens",)),
        ("openai", "http://127.0.0.1:8080/v1", ("max_tokens",)),
        ("azure-openai", None, ("max_completion_tokens",)),
        ("openai-responses", None, ("max_output_tokens",)),
        ("anthropic", None, ("max_tokens",)),
        ("gemini", None, ("generationConfig", "maxOutputTokens")),
        ("bedrock", None, ("inferenceConfig", "maxTokens")),
        ("vertex-gemini", None, ("generationConfig", "maxOutputTokens")),
        ("vertex-claude", None, ("max_tokens",)),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_cap_on_the_output_is_always_sent(
    api: Api, base_url: str | None, place: tuple[str, ...], stream: bool
) -> None:
    """The bound of the cost depends on it."""
    found: Any = build(ask(), api, base_url, stream=stream).body
    for name in place:
        found = found[name]
    assert found == 77


@pytest.mark.parametrize(
    ("address", "refusal", "cap"),
    [
        (GATEWAY, "Unsupported parameter: 'max_tokens' is not supported with this model.", "max_completion_tokens"),
        ("https://api.openai.com/v1", "Unrecognized request argument: max_completion_tokens", "max_tokens"),
        ("https://api.openai.com/v1", "body.Max_Completion_Tokens: Extra inputs are not permitted", "max_tokens"),
        (GATEWAY, "Unknown parameter: 'max_completion_tokens'", None),
        (GATEWAY, "max_tokens is too large: 20000. This model supports at most 16384 completion tokens", None),
        (GATEWAY, "temperature is not supported with this model", None),
        (GATEWAY, "", None),
    ],
)
def test_a_refusal_names_how_the_cap_is_called(address: str, refusal: str, cap: str | None) -> None:
    """Only where it speaks of the name that was sent."""
    asked = PROVIDERS["openai"].as_asked(service("openai", address), refusal)
    assert (asked and asked.output_cap) == cap


def test_a_conversation_as_chat_completions() -> None:
    body = build(CONVERSATION, "openai").body
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
                {"type": "text", "text": "What is this?"},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call-1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Bern"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call-1", "content": "sunny"},
        {"role": "user", "content": "And now?"},
    ]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert body["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "The weather somewhere",
                "parameters": WEATHER.parameters,
            },
        }
    ]
    assert (body["temperature"], body["top_p"]) == (0.5, 0.9)


def test_a_conversation_as_responses_which_stores_nothing() -> None:
    body = build(CONVERSATION, "openai-responses").body
    assert body["store"] is False
    assert body["input"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "input_image", "image_url": "data:image/png;base64,iVBORw==", "detail": "auto"},
                {"type": "input_text", "text": "What is this?"},
            ],
        },
        {"type": "function_call", "call_id": "call-1", "name": "weather", "arguments": '{"city": "Bern"}'},
        {"type": "function_call_output", "call_id": "call-1", "output": "sunny"},
        {"role": "user", "content": "And now?"},
    ]
    assert body["tool_choice"] == {"type": "function", "name": "weather"}


def test_a_conversation_as_anthropic_messages() -> None:
    """The tools' results and what the user says next are one turn, because turns alternate."""
    request = build(CONVERSATION, "anthropic")
    assert request.headers == {"anthropic-version": "2023-06-01"}
    assert request.body["system"] == "Be brief."
    assert request.body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}},
                {"type": "text", "text": "What is this?"},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "call-1", "name": "weather", "input": {"city": "Bern"}}],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call-1", "content": "sunny"},
                {"type": "text", "text": "And now?"},
            ],
        },
    ]
    assert request.body["tool_choice"] == {"type": "tool", "name": "weather"}


def test_a_conversation_as_gemini_contents_with_the_signature_given_back() -> None:
    body = build(CONVERSATION, "gemini").body
    assert body["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    assert body["contents"] == [
        {
            "role": "user",
            "parts": [
                {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}},
                {"text": "What is this?"},
            ],
        },
        {
            "role": "model",
            "parts": [
                {"functionCall": {"name": "weather", "args": {"city": "Bern"}}, "thoughtSignature": "opaque"},
            ],
        },
        {"role": "user", "parts": [{"functionResponse": {"name": "weather", "response": {"result": "sunny"}}}]},
        {"role": "user", "parts": [{"text": "And now?"}]},
    ]
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather"]}}


@pytest.mark.parametrize(
    ("api", "base_url", "required"),
    [
        ("openai", None, "required"),
        ("openai", "https://api.mistral.ai/v1", "any"),
        ("openai-responses", None, "required"),
        ("anthropic", None, {"type": "any"}),
    ],
)
def test_any_tool_is_asked_for_in_the_services_own_word(api: Api, base_url: str | None, required: Any) -> None:
    body = build(ask(tools=(WEATHER,), tool_choice="required"), api, base_url).body
    assert body["tool_choice"] == required


@pytest.mark.parametrize(
    ("api", "place"),
    [
        ("openai", ("response_format", "json_schema", "schema")),
        ("azure-openai", ("response_format", "json_schema", "schema")),
        ("openai-responses", ("text", "format", "schema")),
        ("anthropic", ("output_config", "format", "schema")),
        ("gemini", ("generationConfig", "responseJsonSchema")),
        ("vertex-gemini", ("generationConfig", "responseJsonSchema")),
        ("vertex-claude", ("output_config", "format", "schema")),
    ],
)
def test_a_json_schema_is_sent_where_the_format_has_it(api: Api, place: tuple[str, ...]) -> None:
    found: Any = build(ask(json_schema=SCHEMA), api).body
    for name in place:
        found = found[name]
    assert found["properties"] == SCHEMA["properties"], "in the service's words: test_schemas.py"


@pytest.mark.parametrize(
    ("api", "base_url", "fields", "parameter"),
    [
        ("anthropic", None, {"seed": 1}, "seed"),
        ("anthropic", None, {"reasoning_effort": "minimal"}, "reasoning_effort"),
        ("openai-responses", None, {"seed": 1}, "seed"),
        ("openai-responses", None, {"stop": ("x",)}, "stop"),
        ("openai", None, {"json_schema": {"type": "array", "items": {"type": "string"}}}, "json_schema"),
        ("openai", "https://api.deepseek.com", {"seed": 0}, "seed"),
        ("openai", "http://127.0.0.1:11434/v1", {"tools": (WEATHER,), "tool_choice": "none"}, "tool_choice"),
        ("gemini", None, {"reasoning_effort": "none"}, "reasoning_effort"),
        ("bedrock", None, {"seed": 1}, "seed"),
        ("bedrock", None, {"reasoning_effort": "minimal"}, "reasoning_effort"),
    ],
)
def test_a_parameter_that_a_service_cannot_honour_is_refused_by_name(
    api: Api, base_url: str | None, fields: dict[str, Any], parameter: str
) -> None:
    with pytest.raises(UnsupportedParameter, match=parameter) as refused:
        build(ask(**fields), api, base_url)
    assert refused.value.parameter == parameter


@pytest.mark.parametrize(
    ("api", "base_url", "stream", "streamed"),
    [
        ("openai", "https://api.openai.com/v1", None, True),
        ("openai", "http://127.0.0.1:8080/v1", None, False),  # may not say in a stream what it bills
        ("openai", "http://127.0.0.1:8080/v1", True, True),
        ("anthropic", None, None, True),
        ("gemini", None, False, False),
    ],
)
def test_answers_are_streamed_where_usage_is_known_to_come_with_them(
    api: Api, base_url: str | None, stream: bool | None, streamed: bool
) -> None:
    assert streams(service(api, base_url, stream=stream)) is streamed


# ---------------------------------------------------------------- answers, each streamed and not


@pytest.mark.parametrize("api", ANSWERS)
def test_an_answer_is_understood_and_its_tokens_are_counted_by_one_convention(api: Api) -> None:
    """Input with all that was cached, output with all that was thought, whichever way the service counts."""
    data, _, expected = ANSWERS[api]
    assert parse(api, data) == expected


@pytest.mark.parametrize("api", ANSWERS)
def test_a_stream_comes_out_as_the_same_answer(api: Api) -> None:
    _, stream, expected = ANSWERS[api]
    assert parse_stream(api, stream) == expected


@pytest.mark.parametrize("api", ANSWERS)
def test_a_stream_that_ends_before_its_end_is_no_answer(api: Api) -> None:
    """Cut after each of its events, and within the last one. Once all has come, nobody needs to say [DONE]."""
    _, stream, expected = ANSWERS[api]
    events = stream.split("\n\n")[:-1]
    needed = [event for event in events if "[DONE]" not in event]
    for count in range(len(needed)):
        with pytest.raises(MalformedAnswer):
            parse_stream(api, "\n\n".join(needed[:count]) + "\n\n")
    with pytest.raises(MalformedAnswer):
        parse_stream(api, "\n\n".join(needed)[:-1])
    assert parse_stream(api, "\n\n".join(needed)) == expected


def test_a_stream_may_have_comments_and_its_lines_in_any_order() -> None:
    event = json.dumps({"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]})
    text = f": PROCESSING\r\n\r\ndata: {event}\r\nevent: x\r\n\r\ndata:[DONE]\r\n\r\n"
    answer = parse_stream("openai", text)
    assert isinstance(answer, ServiceAnswer)
    assert answer.text == "hi"


def test_groqs_usage_in_a_place_of_its_own_is_found() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    last = {"choices": [{"delta": {}, "finish_reason": "stop"}], "x_groq": {"usage": usage}}
    answer = parse_stream("openai", sse(last, last="[DONE]"))
    assert answer.usage == WireUsage(input_tokens=3, output_tokens=2)


def test_mistrals_parts_are_read_without_the_thinking() -> None:
    content = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "yes"}]
    answer = parse("openai", {"choices": [{"message": {"content": content}}]})
    assert isinstance(answer, ServiceAnswer)
    assert answer.text == "yes"


@pytest.mark.parametrize(
    ("base_url", "usage", "cost_nanos"),
    [
        ("https://openrouter.ai/api/v1", {"cost": 0.00341475}, 3_414_750),
        ("https://openrouter.ai/api/v1", {"cost": 1e-10}, 1),
        (
            "https://openrouter.ai/api/v1",
            {"cost": 0.001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.02}},
            21_000_000,
        ),
        ("https://openrouter.ai/api/v1", {"cost": -1}, None),
        ("https://openrouter.ai/api/v1", {"cost": "free"}, None),
        ("https://openrouter.ai/api/v1", {}, None),
        ("https://api.example.com/v1", {"cost": 5}, None),  # whatever that means there
    ],
)
def test_openrouters_own_figure_is_read_exactly_and_nobody_elses(
    base_url: str, usage: dict[str, Any], cost_nanos: int | None
) -> None:
    answer = parse("openai", CHAT | {"usage": usage}, base_url)
    assert isinstance(answer, ServiceAnswer)
    assert answer.cost_nanos == cost_nanos


@pytest.mark.parametrize(
    ("api", "data"),
    [
        ("openai", {"choices": [{"message": {"content": None, "refusal": "I won't"}, "finish_reason": "stop"}]}),
        ("azure-openai", {"choices": [{"finish_reason": "content_filter"}]}),
        (
            "openai-responses",
            {"status": "incomplete", "output": [], "incomplete_details": {"reason": "content_filter"}},
        ),
        ("openai-responses", {"output": [{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}]}),
        ("anthropic", {"content": [], "stop_reason": "refusal"}),
        ("gemini", {"candidates": [{"finishReason": "SAFETY"}]}),
        ("gemini", {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}),
    ],
)
def test_a_refusal_with_status_200_is_told_from_an_answer(api: Api, data: dict[str, Any]) -> None:
    answer = parse(api, data)
    assert isinstance(answer, ServiceAnswer)
    assert answer.refused


@pytest.mark.parametrize(
    ("api", "data", "status"),
    [
        ("openai", {"error": {"code": 502, "message": "upstream"}}, 502),
        ("openai", {"error": {"message": "?", "code": None}}, 500),
        ("openai-responses", {"status": "failed", "output": [], "error": {"code": "server_error"}}, 500),
        ("openai-responses", {"status": "failed", "output": [], "error": {"code": "rate_limit_exceeded"}}, 429),
        ("anthropic", {"type": "error", "error": {"type": "overloaded_error"}}, 529),
        ("gemini", {"error": {"code": 503, "status": "UNAVAILABLE"}}, 503),
    ],
)
def test_an_error_with_status_200_has_the_status_that_it_would_have_had(
    api: Api, data: dict[str, Any], status: int
) -> None:
    error = parse(api, data)
    assert isinstance(error, ServiceError)
    assert error.status == status


def test_an_error_in_a_stream_ends_it_whatever_came_before() -> None:
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 5, "output_tokens": 1}}}
    error = parse_stream("anthropic", sse(start, {"type": "error", "error": {"type": "overloaded_error"}}))
    assert isinstance(error, ServiceError)
    assert (error.status, error.usage) == (529, None)


def test_passes_that_the_totals_leave_out_are_billed() -> None:
    passes = [
        {"input_tokens": 100, "cache_read_input_tokens": 50, "output_tokens": 7},
        {"input_tokens": 20, "output_tokens": 3},
    ]
    usage = {"input_tokens": 20, "output_tokens": 3, "iterations": passes}
    answer = parse("anthropic", {"content": [], "usage": usage})
    assert answer.usage == WireUsage(input_tokens=170, cached_input_tokens=50, output_tokens=10)


@pytest.mark.parametrize("arguments", ['{"half": ', "[]", "3", '"text"', '{"a":' * 5_000])
def test_arguments_that_are_no_object_are_kept_as_they_were_written(arguments: str) -> None:
    call = {"id": "c1", "function": {"name": "weather", "arguments": arguments}}
    answer = parse("openai", {"choices": [{"message": {"tool_calls": [call]}}]})
    assert isinstance(answer, ServiceAnswer)
    assert answer.tool_calls == (ToolCall(id="c1", name="weather", invalid_arguments=arguments),)


# ---------------------------------------------------------------- whatever a server sends


def understood(api: Api, body: bytes) -> None:
    """Both ways; what comes out can be carried in a message."""
    for read in (
        lambda: parse(api, body),
        lambda: parse_stream(api, body.decode(errors="replace")),
    ):
        try:
            found = read()
        except MalformedAnswer:
            continue
        assert isinstance(found, ServiceAnswer | ServiceError)
        if isinstance(found, ServiceAnswer):
            found.text.encode()
            for call in found.tool_calls:
                call.model_dump_json()


apis = st.sampled_from(sorted(ANSWERS))


@given(api=apis, body=st.binary(max_size=200))
def test_any_bytes_are_an_answer_an_error_or_malformed(api: Api, body: bytes) -> None:
    understood(api, body)


@given(api=apis, data=st.data())
def test_an_answer_with_anything_in_a_wrong_place_raises_nothing_else(api: Api, data: st.DataObject) -> None:
    understood(api, json.dumps(replaced(ANSWERS[api][0], data.draw)).encode())


@given(api=apis, data=st.data())
def test_a_stream_with_a_wrong_event_raises_nothing_else(api: Api, data: st.DataObject) -> None:
    found = [event for event in stream_events(ANSWERS[api][1].encode()) if event.data != "[DONE]"]
    events = [json.loads(event.data) for event in found]
    index = data.draw(st.integers(0, len(events) - 1))
    events[index] = replaced(events[index], data.draw)
    named = zip(found, events, strict=True)
    text = "".join(f"event: {each.name}\ndata: {json.dumps(event)}\n\n" for each, event in named)
    understood(api, (text + "data: [DONE]\n\n").encode())


@given(api=apis, data=st.data(), streamed=st.booleans())
def test_an_answer_cut_or_with_a_flipped_bit_raises_nothing_else(api: Api, data: st.DataObject, streamed: bool) -> None:
    body = bytearray(ANSWERS[api][1].encode() if streamed else json.dumps(ANSWERS[api][0]).encode())
    position = data.draw(st.integers(0, len(body) - 1))
    body[position] ^= 1 << data.draw(st.integers(0, 7))
    understood(api, bytes(body[: data.draw(st.integers(0, len(body)))]))


@pytest.mark.parametrize("api", ANSWERS)
@pytest.mark.parametrize("body", [b'{"a":' * 100_000, b"[" * 100_000, b"9" * 100_000, b"x" * 10_000_000, b"<html>"])
def test_endless_bodies_are_malformed(api: Api, body: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        parse(api, body)


def test_a_key_that_comes_in_pieces_is_found_once_they_are_together() -> None:
    """A server that echoes the key word by word, or escaped: no piece of it is the key, the answer is."""
    key = "sk-live-0123456789"
    ApiKey(key)
    call = {"index": 0, "id": "c1", "function": {"name": "weather", "arguments": '{"city": "sk-\\u006cive-'}}
    more = {"index": 0, "function": {"arguments": '0123456789"}'}}
    text = sse(
        {"choices": [{"delta": {"content": "It is sk-live", "tool_calls": [call]}}]},
        {"choices": [{"delta": {"content": "-0123456789.", "tool_calls": [more]}}]},
        last="[DONE]",
    )
    answer = parse_stream("openai", text)
    assert isinstance(answer, ServiceAnswer)
    assert key in answer.text
    found = without_keys(answer)
    assert (found.text, found.tool_calls[0].arguments) == ("It is [key].", {"city": "[key]"})
