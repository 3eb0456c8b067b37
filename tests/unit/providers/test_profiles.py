"""What `paymaster doctor` knows of models, by whatever name a cloud has for them."""

import pytest

from paymaster.providers.profiles import Profile, profile_of
from paymaster.settings import Api


@pytest.mark.parametrize(
    ("api", "model", "own"),
    [
        ("bedrock", "us.anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
        (
            "bedrock",
            "arn:aws:bedrock:us-east-1:1:inference-profile/global.anthropic.claude-opus-4-6-v1",
            "claude-opus-4-6",
        ),
        ("vertex-claude", "claude-opus-4-6@20260205", "claude-opus-4-6-20260205"),
    ],
)
def test_claude_is_known_at_every_cloud(api: Api, model: str, own: str) -> None:
    found = profile_of(api, model)
    assert found == profile_of("anthropic", own)
    assert found.output_tokens_max is not None


def test_gemini_on_vertex_is_the_one_of_its_own_api() -> None:
    assert profile_of("vertex-gemini", "gemini-2.5-flash") == profile_of("gemini", "gemini-2.5-flash")


@pytest.mark.parametrize(
    "model", ["amazon.nova-pro-v1:0", "arn:aws:bedrock:us-east-1:1:application-inference-profile/a"]
)
def test_of_other_models_at_bedrock_nothing_is_known(model: str) -> None:
    assert profile_of("bedrock", model) == Profile()
