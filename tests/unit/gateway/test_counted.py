"""Requests for a count of tokens, as the request that is meant."""

import json

import pytest

from paymaster.gateway.asked import Refused
from paymaster.gateway.counted import Counted, counted_request
from paymaster.messages.wire import Dialect

BODY = b'{"model": "m"}'


@pytest.mark.parametrize(
    ("target", "dialect", "meant"),
    [
        ("/v1/messages/count_tokens?beta=true", "anthropic", "/v1/messages"),
        ("/v1/responses/input_tokens", "openai-responses", "/v1/responses"),
        ("/v1beta/models/google/flash:countTokens?alt=sse", "gemini", "/v1beta/models/google/flash:generateContent"),
    ],
)
def test_the_request_that_is_meant(target: str, dialect: Dialect, meant: str) -> None:
    assert counted_request(target, BODY, dialect) == Counted(meant, BODY)


@pytest.mark.parametrize("name", ["generateContentRequest", "generate_content_request"])
def test_googles_whole_request(name: str) -> None:
    asked = json.dumps({name: {"model": "models/m", "contents": [], "systemInstruction": {}}}).encode()
    meant = json.loads(counted_request("/v1beta/models/m:countTokens", asked, "gemini").body)
    assert meant == {"contents": [], "systemInstruction": {}}


def test_a_body_that_is_none_is_refused() -> None:
    with pytest.raises(Refused, match="bad_request: the body"):
        counted_request("/v1beta/models/m:countTokens", b"{", "gemini")
