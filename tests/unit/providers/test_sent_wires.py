"""What each provider gets of a wire call: all that was written, but for the model and the cap."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from any_request import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from json_texts import values, written
from searches import examples
from wire import GRANT, build, service

from paymaster.messages import LLMRequest
from paymaster.messages.wire import Dialect, Wire
from paymaster.providers.provider import UnsupportedParameter, WrittenRequest
from paymaster.providers.registry import PROVIDERS, wire_format
from paymaster.settings import Api
from paymaster.wire.dialects import measured
from paymaster.wire.measured import BadBody
from paymaster.wire.members import members, value_text

GENERATE = "models/writer:generateContent"
SPOKEN = [(api, dialect) for api, provider in PROVIDERS.items() for dialect in provider.dialects]
SET: Mapping[Dialect, tuple[str, ...]] = {
    "openai": ("model", "max_tokens", "max_completion_tokens", "stream_options", "thinking", "reasoning"),
    "openai-responses": ("model", "max_output_tokens"),
    "openai-embeddings": ("model",),
    "anthropic": ("model", "max_tokens", "thinking", "anthropic_version"),
    "gemini": ("generationConfig",),
}
"""What is set or taken out in a body of each dialect."""
PATHS: Mapping[tuple[Api, Dialect], str] = {
    ("openai", "openai"): "/chat/completions",
    ("azure-openai", "openai"): "/chat/completions",
    ("openai", "openai-embeddings"): "/embeddings",
    ("azure-openai", "openai-embeddings"): "/embeddings",
    ("openai-responses", "openai-responses"): "/responses",
    ("anthropic", "anthropic"): "/messages",
    ("vertex-claude", "anthropic"): "/publishers/anthropic/models/the-model:rawPredict",
    ("gemini", "gemini"): "/models/the-model:generateContent",
    ("vertex-gemini", "gemini"): "/publishers/google/models/the-model:generateContent",
}
objects = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="_"), max_size=4)
    | st.sampled_from(["temperature", "metadata", "user"]),
    values,
    max_size=5,
)


def wire(dialect: Dialect, body: bytes, **headers: str) -> Wire:
    return Wire(dialect=dialect, path=GENERATE if dialect == "gemini" else None, body=body, headers=headers)


def sent(api: Api, asked: Wire) -> WrittenRequest:
    return wire_format(asked, service(api)).build(asked, GRANT, service(api), measured(asked).outputs)


def test_each_dialect_is_sent_to_its_own_place() -> None:
    assert set(SPOKEN) == set(PATHS)
    for (api, dialect), path in PATHS.items():
        assert sent(api, wire(dialect, b'{"model":"writer"}')).path == path


@pytest.mark.parametrize(("api", "dialect"), SPOKEN)
@settings(max_examples=examples(100))
@given(before=written(objects))
def test_every_byte_outside_of_what_is_set_stays(
    api: Api, dialect: Dialect, before: tuple[dict[str, Any], str]
) -> None:
    data, text = before
    if dialect != "gemini" and "model" not in data:
        text = '{ "model" : "writer"' + (", " if data else "") + text.lstrip()[1:]
    asked = wire(dialect, text.encode())
    try:
        body = sent(api, asked).body.decode()
    except BadBody:
        return
    found, after = members(text), members(body)
    kept = [name for name in found if name not in SET[dialect]]
    assert [name for name in after if name not in SET[dialect]] == kept
    assert all(value_text(body, after[name]) == value_text(text, found[name]) for name in kept)
    assert json.loads(body).get("model", GRANT.model) == GRANT.model


@pytest.mark.parametrize(
    ("api", "dialect"), [(api, dialect) for api, dialect in SPOKEN if dialect != "openai-embeddings"]
)
@settings(max_examples=examples(50))
@given(request=requests, stream=st.booleans())
def test_what_we_build_ourselves_is_taken_and_unchanged(
    api: Api, dialect: Dialect, request: LLMRequest, stream: bool
) -> None:
    """A neutral request's own body, sent as a wire call, needs no leave and is what it was."""
    try:
        built = build(request, api, stream=stream)
    except UnsupportedParameter:
        return
    model = {} if dialect == "gemini" else {"model": GRANT.model}
    body = json.dumps({**built.body, **model}).encode()
    path = built.path.removeprefix("/publishers/google").removeprefix("/") if dialect == "gemini" else None
    asked = Wire(dialect=dialect, body=body, path=path)
    found = measured(asked)
    assert (found.model, found.streams, found.outputs, found.max_output_tokens) == (
        GRANT.model,
        stream,
        1,
        GRANT.max_output_tokens,
    )
    # Google takes an image of which nobody says that it is one.
    images, unnamed = sum(len(message.images) for message in request.messages), found.needs == ("contents.untyped",)
    assert (found.needs, found.chooses) == (("contents.untyped",) if unnamed else (), ())
    assert found.images == images or unnamed
    assert sent(api, asked).path == built.path
    again = json.loads(sent(api, asked).body)
    assert again == {**built.body, **({} if api in ("vertex-claude", "gemini", "vertex-gemini") else model)}


def test_claude_at_vertex_has_version_in_body_and_model_in_path() -> None:
    asked = wire("anthropic", b'{"model":"writer", "max_tokens":5,"stream":true}', **{"Anthropic-Version": "v"})
    found = sent("vertex-claude", asked)
    assert found.path == "/publishers/anthropic/models/the-model:streamRawPredict"
    assert found.body == b'{"max_tokens":5,"stream":true,"anthropic_version":"vertex-2023-10-16"}'
    assert found.headers == {}


def test_a_message_has_a_version_of_the_api_in_any_case() -> None:
    body = b'{"model":"writer"}'
    assert sent("anthropic", wire("anthropic", body)).headers == {"anthropic-version": "2023-06-01"}
    given = {"Anthropic-Version": "2026-01-01", "anthropic-beta": "a,b"}
    assert sent("anthropic", wire("anthropic", body, **given)).headers == {
        "anthropic-version": "2026-01-01",
        "anthropic-beta": "a,b",
    }


@pytest.mark.parametrize(("api", "dialect"), SPOKEN)
def test_no_key_of_the_caller_is_sent(api: Api, dialect: Dialect) -> None:
    names = ("authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie", "proxy-authorization")
    asked = wire(dialect, b'{"model":"writer"}', **dict.fromkeys((*names, *map(str.title, names)), "sk-secret"))
    assert "sk-secret" not in str(sent(api, asked))


def test_a_dialect_that_a_provider_does_not_speak_is_refused() -> None:
    with pytest.raises(UnsupportedParameter, match='does not speak "gemini"'):
        sent("anthropic", wire("gemini", b"{}"))
