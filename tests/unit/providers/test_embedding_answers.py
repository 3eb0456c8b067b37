"""Answers of embeddings, which only wire calls get: many numbers, of which none is read."""

import json
from typing import Any

import pytest
from wire import GRANT, ask, service

from paymaster.messages import Billing, ServiceCall
from paymaster.messages.wire import Dialect, Wire
from paymaster.providers.answers import HttpAnswer, Reading, read_answer
from paymaster.settings import Api
from paymaster.values.limits import JSON_VALUES_MAX

NOW_MS = 1_790_000_000_000
VECTOR = [round(0.001 * number - 0.5, 4) for number in range(1_536)]
MANY = {"object": "list", "data": [{"object": "embedding", "index": n, "embedding": VECTOR} for n in range(40)]}


def read(api: Api, dialect: Dialect, body: bytes, path: str | None = None) -> Reading:
    wire = Wire(dialect=dialect, path=path, body=b'{"model":"m"}')
    call = ServiceCall(grant=GRANT, request=ask(prompt=None, wire=wire))
    answer = HttpAnswer(200, [(b"content-type", b"application/json")], body)
    return read_answer(call, service(api), answer, started_at_ms=NOW_MS, now_ms=NOW_MS)


def openais(usage: Any, data: Any = MANY, api: Api = "openai", **fields: Any) -> tuple[Reading, bytes]:
    body = json.dumps(data | {"model": "text-embedding-3-small", "usage": usage} | fields).encode()
    return read(api, "openai-embeddings", body), body


@pytest.mark.parametrize("api", ["openai", "azure-openai"])
def test_many_texts_are_paid_by_their_input(api: Api) -> None:
    """text-embedding-3-small: $0.02 for a million tokens."""
    found, body = openais({"prompt_tokens": 1_000, "total_tokens": 1_000}, api=api)
    assert body.count(b",") > JSON_VALUES_MAX
    assert (found.billing, found.facts.cost_nanos, found.error) == (Billing.BILLED, 20_000, None)
    assert found.completion is not None
    assert found.completion.wire is not None
    assert (found.completion.wire.body, found.completion.text) == (body, "")


def test_some_servers_say_only_the_total() -> None:
    found, _ = openais({"total_tokens": 1_000})
    assert found.facts.usage is not None
    assert (found.facts.usage.input_tokens, found.facts.usage.output_tokens) == (1_000, 0)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -1}, {"prompt_tokens": "many"}])
def test_without_counts_nobody_knows_what_was_billed(usage: Any) -> None:
    found, body = openais(usage)
    assert (found.billing, found.error) == (Billing.UNKNOWN, None)
    assert found.completion is not None
    assert found.completion.wire is not None
    assert found.completion.wire.body == body


@pytest.mark.parametrize("body", [b"{}", b"[]", b"", b'{"data":5}', b'{"choices":[]}'])
def test_what_is_no_answer_may_have_been_billed(body: bytes) -> None:
    found = read("openai", "openai-embeddings", body)
    assert found.billing is Billing.UNKNOWN
    assert found.error is not None
    assert found.error.error_class.name == "malformed_answer"


def test_an_error_within_200_is_one() -> None:
    found, _ = openais(None, error={"message": "no", "type": "x"})
    assert found.error is not None


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("models/m:embedContent", {"embedding": {"values": VECTOR}}),
        ("models/m:batchEmbedContents", {"embeddings": [{"values": VECTOR} for _ in range(40)]}),
    ],
)
def test_googles_embeddings_are_read_too(path: str, data: Any) -> None:
    body = json.dumps(data | {"usageMetadata": {"promptTokenCount": 9}}).encode()
    found = read("gemini", "gemini", body, path)
    assert found.facts.usage is not None
    assert (found.billing, found.facts.usage.input_tokens, found.error) == (Billing.BILLED, 9, None)
    assert found.completion is not None
    assert found.completion.wire is not None
    assert found.completion.wire.body == body
    assert read("gemini", "gemini", json.dumps(data).encode(), path).billing is Billing.UNKNOWN


def test_numbers_in_another_answer_stay_as_they_are() -> None:
    said = 'the "embedding" of x is [1, 2, 3]'
    parts = [{"text": said}, {"functionCall": {"name": "f", "args": {"embedding": [1, 2]}}}]
    data = {
        "candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 3},
    }
    for body in (json.dumps(data), json.dumps([data])):
        completion = read("gemini", "gemini", body.encode(), "models/m:generateContent").completion
        assert completion is not None
        assert completion.text == said
        assert completion.tool_calls[0].arguments == {"embedding": [1, 2]}
