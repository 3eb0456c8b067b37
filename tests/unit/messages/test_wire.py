"""Requests in a provider's own format as messages."""

from hashlib import sha256

import pytest
from pydantic import ValidationError

from paymaster.messages import LLMRequest, StoredBody, Wire
from paymaster.messages.base import json_bytes
from paymaster.values.limits import STORED_WIRE_BYTES_MAX, WIRE_BYTES_MAX
from paymaster.values.packed import pack

BODY = b'{"model": "writer", "messages": []}'


def request(body: bytes = BODY, **fields: object) -> LLMRequest:
    wire = {"dialect": "openai", "body": body}
    return LLMRequest.model_validate({"route": "writer", "budget": "acme", "wire": wire} | fields)


def test_any_bytes_travel_compressed() -> None:
    for body in (BODY, bytes(range(256)), b""):
        assert LLMRequest.model_validate_json(request(body).model_dump_json()) == request(body)
    assert json_bytes(request(b"a" * 1_000_000)) < 10_000


def test_a_body_that_grows_beyond_its_bound_is_refused() -> None:
    with pytest.raises(ValidationError, match="holds more than"):
        Wire.model_validate({"dialect": "openai", "body": pack(bytes(WIRE_BYTES_MAX + 1))})


def test_a_body_may_come_as_the_json_that_it_is() -> None:
    """For callers in other languages. It travels on compressed."""
    for body in ('{"model": "writer"}', ' {"é": "\\u00e9"}'):
        assert Wire.model_validate({"dialect": "openai", "body": body}).body == body.encode()
    with pytest.raises(ValidationError, match="it may have 8,000,000"):
        Wire.model_validate({"dialect": "openai", "body": "{" + " " * WIRE_BYTES_MAX})
    with pytest.raises(ValidationError, match="not compressed text"):
        Wire.model_validate({"dialect": "openai", "body": "[1]"})


def test_what_is_asked_stands_in_one_place() -> None:
    with pytest.raises(ValidationError, match="not in prompt, temperature"):
        request(prompt="Hello", temperature=0.5)


def test_the_digest_tells_bodies_apart_and_knows_no_compression() -> None:
    packed = request().model_dump(mode="json")
    packed["wire"]["body"] = pack(BODY, level=0)
    assert LLMRequest.model_validate(packed).digest() == request().digest()
    assert request(BODY + b" ").digest() != request().digest()


def test_a_request_without_it_does_not_speak_of_it() -> None:
    """An older worker takes it, and its digest is what it was."""
    plain = LLMRequest(route="writer", budget="acme", prompt="Hello")
    assert "wire" not in plain.model_dump_json()


def test_a_body_is_stored_or_in_the_request_and_not_too_large() -> None:
    """Stored or not it is the same request."""
    body = StoredBody(reference="request/x", pieces=1, size=len(BODY), sha256=sha256(BODY).hexdigest())
    stored = {"dialect": "openai", "body": b"", "stored": body}
    assert request(wire=stored).digest() == request().digest()
    assert LLMRequest.model_validate_json(request(wire=stored).model_dump_json()) == request(wire=stored)
    with pytest.raises(ValidationError, match="is not in the request too"):
        Wire.model_validate(stored | {"body": BODY})
    large = body.model_copy(update={"size": STORED_WIRE_BYTES_MAX + 1})
    with pytest.raises(ValidationError, match="it may have 33,554,432"):
        Wire.model_validate(stored | {"stored": large})


def test_a_body_is_compressed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many messages it goes through: a large one takes a quarter of a second each time."""
    packed: list[int] = []

    def counts(data: bytes) -> str:
        packed.append(len(data))
        return pack(data)

    monkeypatch.setattr("paymaster.messages.wire.pack", counts)
    asked = request()
    again = LLMRequest.model_validate_json(asked.model_dump_json())
    assert BODY.decode() not in again.model_copy(update={"call_id": "x"}).model_dump_json() + asked.model_dump_json()
    assert packed == [len(BODY)]
