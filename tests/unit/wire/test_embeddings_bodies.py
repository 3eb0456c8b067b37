"""Bodies of embeddings: what they may cost at most, and how little of them is changed."""

import json
from typing import Any

import pytest

from paymaster.wire.measured import BadBody, Measured
from paymaster.wire.openai_embeddings import measured, sent, sent_headers


def measure(**fields: Any) -> Measured:
    return measured(json.dumps({"model": "finder", "input": "Hello"} | fields).encode())


def test_a_plain_body_needs_nothing() -> None:
    found = measure(input=["a", "b"], encoding_format="base64", dimensions=256, user="u")
    assert found[:1] + found[2:] == ("finder", None, 0, 0, 0, False, (), (), 0)


@pytest.mark.parametrize(
    "given", ["x" * 1_000, "[1,2]" * 200, ["x" * 500, "y" * 500], [7] * 1_000, [[7] * 400, [123_456] * 600]]
)
def test_there_are_no_fewer_bytes_than_tokens(given: Any) -> None:
    assert 1_000 <= measure(input=given).input_bytes < 9_000


def test_lists_of_very_many_tokens_are_taken() -> None:
    """langchain makes them of texts; OpenAI takes 300,000 at once."""
    body = json.dumps({"input": [[100_000] * 500] * 600, "model": "finder"}).encode()
    assert 300_000 <= measured(body).input_bytes <= len(body) + 2_000
    assert sent(body, model="m-1") == body.replace(b"finder", b"m-1")


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({"service_tier": "flex"}, ("service_tier",)),
        ({"a_key_of_tomorrow": 1}, ("a_key_of_tomorrow",)),
        ({"input": {"type": "image_url"}}, ("input.image_url",)),
        ({"input": ["x", {"type": "text"}, [{"image": 1}]]}, ("input.text", "input.untyped")),
        ({"user": None, "input_type": "query"}, ()),
    ],
)
def test_what_has_no_bound_is_named(fields: dict[str, Any], needs: tuple[str, ...]) -> None:
    assert measure(**fields).needs == needs


@pytest.mark.parametrize("wrong", [b"", b"\xff", b"[]", b'{"input":"x"}', b'{"model":"a","model":"b"}'])
def test_a_body_that_is_none_is_refused(wrong: bytes) -> None:
    with pytest.raises(BadBody):
        measured(wrong)


def test_only_the_model_is_changed() -> None:
    text = b'{"input" : ["\\u00e9", "b"],\n "model": "finder", "dimensions":256.0 }'
    assert sent(text, model="m-1") == text.replace(b"finder", b"m-1")


def test_no_key_of_the_caller_is_passed_on() -> None:
    assert sent_headers({"Authorization": "Bearer k", "api-key": "k", "OpenAI-Beta": "b"}) == {"openai-beta": "b"}
