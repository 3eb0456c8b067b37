"""A service's key is in one header of a request, and nowhere else in it."""

import pytest
from wire import ask, build, service

from paymaster.providers.provider import Outgoing
from paymaster.providers.registry import PROVIDERS
from paymaster.settings import Api


@pytest.mark.parametrize(
    ("api", "headers"),
    [
        ("openai", {"authorization": "Bearer k"}),
        ("openai-responses", {"authorization": "Bearer k"}),
        ("anthropic", {"x-api-key": "k"}),
        ("gemini", {"x-goog-api-key": "k"}),
        ("azure-openai", {"api-key": "k"}),
        ("vertex-gemini", {"authorization": "Bearer k"}),
        ("vertex-claude", {"authorization": "Bearer k"}),
        ("bedrock", {"authorization": "Bearer k"}),
    ],
)
def test_the_key_goes_into_one_header_and_nowhere_else(api: Api, headers: dict[str, str]) -> None:
    request = Outgoing("POST", "https://example.com", {}, b"{}")
    assert PROVIDERS[api].authenticate(request, "k", service(api)) == headers
    assert not {name.lower() for name in build(ask(), api).headers} & set(headers)
