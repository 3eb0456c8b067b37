"""The SDKs of OpenAI, Anthropic and AWS, as judges of the bodies that we build."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming, MessageCreateParamsStreaming
from any_request import requests
from hypothesis import given, settings
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming,
    ResponseCreateParamsStreaming,
)
from pydantic import TypeAdapter, ValidationError
from replayed_bedrock import refuse_unknown_parameters
from replayed_provider import Refusal
from searches import examples
from wire import build

from paymaster.messages import LLMRequest
from paymaster.providers.provider import UnsupportedParameter
from paymaster.settings import Api

JUDGES: dict[Api, tuple[Any, Any]] = {
    "openai": (CompletionCreateParamsNonStreaming, CompletionCreateParamsStreaming),
    "azure-openai": (CompletionCreateParamsNonStreaming, CompletionCreateParamsStreaming),
    "openai-responses": (ResponseCreateParamsNonStreaming, ResponseCreateParamsStreaming),
    "anthropic": (MessageCreateParamsNonStreaming, MessageCreateParamsStreaming),
}
ADAPTERS = {
    (api, streamed): TypeAdapter[Any](kinds[streamed]) for api, kinds in JUDGES.items() for streamed in (False, True)
}


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
@settings(max_examples=examples(25))
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


@pytest.mark.parametrize("stream", [False, True])
@settings(max_examples=examples(25))
@given(request=requests)
def test_botocores_model_accepts_every_body(stream: bool, request: LLMRequest) -> None:
    try:
        body = build(request, "bedrock", stream=stream).body
    except UnsupportedParameter:
        return
    refuse_unknown_parameters(body)


@pytest.mark.parametrize(
    "wrong", [{"stream": True}, {"messages": [{"role": "user", "content": [{"text": "a", "x": 1}]}]}]
)
def test_botocore_would_notice(wrong: dict[str, Any]) -> None:
    with pytest.raises(Refusal):
        refuse_unknown_parameters(build(LLMRequest(route="r", budget="acme", prompt="x"), "bedrock").body | wrong)


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
