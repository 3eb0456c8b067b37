"""OpenAI's and Anthropic's own SDKs, as judges of the bodies that we build. Nothing else here knows them."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming, MessageCreateParamsStreaming
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming,
    ResponseCreateParamsStreaming,
)
from pydantic import TypeAdapter, ValidationError

from paymaster.messages import ChatMessage, Image, LLMRequest, ToolCall
from paymaster.providers.provider import UnsupportedParameter
from paymaster.settings import Api
from tests.unit.providers.test_wire_formats import SCHEMA, WEATHER, build

JUDGES: dict[Api, tuple[Any, Any]] = {
    "openai": (CompletionCreateParamsNonStreaming, CompletionCreateParamsStreaming),
    "azure-openai": (CompletionCreateParamsNonStreaming, CompletionCreateParamsStreaming),
    "openai-responses": (ResponseCreateParamsNonStreaming, ResponseCreateParamsStreaming),
    "anthropic": (MessageCreateParamsNonStreaming, MessageCreateParamsStreaming),
}
ADAPTERS = {
    (api, streamed): TypeAdapter[Any](kinds[streamed]) for api, kinds in JUDGES.items() for streamed in (False, True)
}

words = st.text(min_size=1, max_size=10)
calls = st.builds(
    ToolCall,
    id=st.from_regex(r"call-[0-9]", fullmatch=True),
    name=st.just("weather"),
    arguments=st.dictionaries(words, words, max_size=2),
)
images = st.just(Image.of(b"png", "image/png")) | st.just(Image(url="https://example.com/a.png"))
messages = st.one_of(
    st.builds(ChatMessage, role=st.just("system"), content=words),
    st.builds(ChatMessage, role=st.just("user"), content=words, images=st.lists(images, max_size=2).map(tuple)),
    st.builds(ChatMessage, role=st.just("assistant"), content=words, tool_calls=st.lists(calls, max_size=2).map(tuple)),
    st.builds(ChatMessage, role=st.just("tool"), content=words, tool_call_id=st.just("call-1")),
)
requests = st.builds(
    LLMRequest,
    route=st.just("r"),
    budget=st.just("acme"),
    prompt=words,
    system=st.none() | words,
    messages=st.lists(messages, max_size=4).map(tuple),
    json_schema=st.none() | st.just(SCHEMA),
    temperature=st.none() | st.floats(0, 1),
    top_p=st.none() | st.floats(0, 1),
    stop=st.lists(words, max_size=2).map(tuple),
    seed=st.none() | st.integers(0, 9),
    reasoning_effort=st.none() | st.sampled_from(["none", "minimal", "low", "medium", "high"]),
    tools=st.just((WEATHER,)),
    tool_choice=st.none() | st.sampled_from(["auto", "none", "required", "weather"]),
)


def consume(value: Any) -> None:
    """pydantic validates an iterable only when it is read."""
    if isinstance(value, Mapping):
        for below in value.values():
            consume(below)
    elif isinstance(value, Iterator | list):
        for below in value:
            consume(below)


@pytest.mark.parametrize("api", JUDGES)
@pytest.mark.parametrize("stream", [False, True])
@settings(max_examples=25)
@given(request=requests)
def test_the_sdks_types_accept_every_body(api: Api, stream: bool, request: LLMRequest) -> None:
    try:
        body = build(request, api, stream=stream).body
    except UnsupportedParameter:
        return
    kind = JUDGES[api][stream]
    known = kind.__required_keys__ | kind.__optional_keys__
    if api == "anthropic":  # its SDK is of a later version of the API, which has dropped these; ours has them
        known |= {"temperature", "top_p"}
    assert set(body) <= known, "pydantic passes over unknown names"
    consume(ADAPTERS[api, stream].validate_python(body))


@pytest.mark.parametrize(
    ("api", "wrong"),
    [
        ("openai", {"messages": [{"role": "nobody", "content": "x"}]}),
        ("openai-responses", {"max_output_tokens": "many"}),
        ("anthropic", {"messages": [{"role": "user", "content": [{"type": "picture"}]}]}),
    ],
)
def test_the_judges_would_notice(api: Api, wrong: dict[str, Any]) -> None:
    body = build(LLMRequest(route="r", budget="acme", prompt="x"), api).body
    with pytest.raises(ValidationError):
        consume(ADAPTERS[api, False].validate_python(body | wrong))
