"""What is reserved for a wire call: its candidates, at the price that it chooses, or why they cannot be asked."""

import json
from typing import Any

import pytest
from reserving import reserve_of

from paymaster.admission.routing import bound_nanos
from paymaster.messages import Candidate, LLMRequest
from paymaster.messages.wire import Dialect, Wire
from paymaster.settings import Settings
from paymaster.translation.dialects import neutral_request

SETTINGS = Settings.model_validate(
    {
        "services": {
            "openai": {
                "api": "openai",
                "base_url": "https://api.openai.com/v1",
                "models": {
                    "ours": {"price": {"input": "1", "output": "4"}},
                    "gpt-6-sol": {"max_output_tokens": 500, "context_tokens": 9_000},
                    "text-embedding-3-small": {"context_tokens": 8_191},
                },
            },
            "allowing": {
                "api": "openai",
                "base_url": "https://api.openai.com/v1",
                "allow": ["service_tier", "web_search_options"],
                "models": {"ours": {"price": {"input": "1", "output": "4"}}},
            },
            "responses": {
                "api": "openai-responses",
                "base_url": "https://api.openai.com/v1",
                "models": {
                    "thinks": {"max_output_tokens": 20_000, "context_tokens": 30_000},
                    "small": {"max_output_tokens": 500},
                },
            },
            "claude": {
                "api": "anthropic",
                "base_url": "https://api.anthropic.com/v1",
                "models": {"claude-opus-5": {"image_tokens_max": 5_000}},
            },
            "searching": {
                "api": "openai",
                "base_url": "https://api.openai.com/v1",
                "models": {"gpt-4o-mini-search-preview": {}},
            },
            "google": {"api": "gemini", "base_url": "https://generativelanguage.googleapis.com/v1beta"},
        },
        "routes": {
            "searcher": ["openai/gpt-4o-search-preview"],
            "mixed": ["google/gemini-3-pro", "claude/claude-opus-5", "openai/ours"],
            "others": ["google/gemini-3-pro", "claude/claude-opus-5"],
        },
    }
)


def candidate(route: str, dialect: Dialect = "openai", path: str | None = None, **body: Any) -> tuple[Candidate, int]:
    """And its bound in nano-dollars; 0 without a price."""
    text = json.dumps({"model": "m", **body}).encode()
    request = LLMRequest(route=route, budget="acme", wire=Wire(dialect=dialect, path=path, body=text))
    command = reserve_of(SETTINGS, request)
    (found,) = command.candidates
    return found, 0 if found.price is None else bound_nanos(command, found)


@pytest.mark.parametrize(
    ("route", "dialect", "chosen", "times"),
    [
        ("openai/gpt-6-sol", "openai", {"service_tier": "priority"}, 2),
        ("responses/gpt-6-sol", "openai-responses", {"service_tier": "priority"}, 2),
        ("openai/gpt-6-sol", "openai", {"service_tier": "flex"}, 1),
        ("claude/claude-opus-5", "anthropic", {"speed": "fast"}, 2),
        ("claude/claude-opus-5", "anthropic", {"speed": "fast", "inference_geo": "us"}, 2.2),
    ],
)
def test_a_choice_is_held_at_its_own_price(route: str, dialect: Dialect, chosen: dict[str, str], times: float) -> None:
    (plain, _), (found, _) = candidate(route, dialect), candidate(route, dialect, **chosen)
    assert plain.price is not None
    assert found.price is not None
    assert (plain.refused, found.refused) == (None, None)
    assert found.price.input_nanos == plain.price.input_nanos * times
    assert found.price.output_nanos == round(plain.price.output_nanos * times)


def test_a_choice_without_a_known_price_needs_leave() -> None:
    for found, _ in (
        candidate("openai/ours", service_tier="priority"),
        candidate("openai/gpt-6-sol", service_tier="ultrafast"),
        candidate("google/gemini-2.5-pro", "gemini", "models/m:generateContent", model=None, serviceTier="priority"),
    ):
        assert 'add allow = ["service_tier"] under' in (found.refused or "")
    found, _ = candidate("allowing/ours", service_tier="priority", web_search_options={})
    assert found.refused is None
    found, _ = candidate("allowing/gpt-6-sol", service_tier="x" * 10_000)
    assert found.price is not None
    assert "xxx" not in found.price.source
    found, _ = candidate("allowing/ours", web_search_options={}, plugins=[1])
    assert 'add allow = ["plugins"] under [services.allowing]' in (found.refused or "")


def test_what_searches_by_itself_is_the_configurations_to_name() -> None:
    """genai-prices has gpt-4o-mini's price for it, without the fee that each answer costs."""
    for route in ("openai/gpt-4o-mini-search-preview", "openai/o3-Deep-Research"):
        found, _ = candidate(route)
        assert 'add allow = ["model.search"]' in (found.refused or "")
    assert candidate("searching/gpt-4o-mini-search-preview")[0].refused is None
    assert candidate("searcher")[0].refused is None


def test_embeddings_are_held_by_their_input_alone() -> None:
    """text-embedding-3-small: $0.02 for a million tokens. Many texts may be more than the context of one."""
    found, bound = candidate("openai/text-embedding-3-small", "openai-embeddings", input=["x" * 10_000] * 3)
    assert (found.refused, found.context_tokens, found.max_output_tokens) == (None, None, 1)
    assert 30_000 <= bound // 20 <= 32_000
    found, _ = candidate("openai/text-embedding-3-small", messages=[])
    assert found.price is None, "a chat with it has no price of output"


def test_outputs_and_media_are_held_all_together() -> None:
    found, _ = candidate("openai/gpt-6-sol", n=3, max_tokens=100)
    assert (found.max_output_tokens, found.context_tokens) == (300, 9_200)
    image = {"type": "image", "source": {"type": "url", "url": "https://a/b"}}
    found, _ = candidate("claude/claude-opus-5", "anthropic", messages=[{"role": "user", "content": [image, image]}])
    assert (found.refused, found.media_tokens) == (None, 10_000)
    document = {**image, "type": "document"}
    found, _ = candidate("claude/claude-opus-5", "anthropic", messages=[{"role": "user", "content": [document]}])
    assert "document_tokens_max" in (found.refused or "")


def test_a_kept_thought_may_be_the_longest_answer_of_its_service() -> None:
    """And all of them together no more than a context."""
    for model, count, tokens in (("small", 0, 0), ("small", 2, 40_000), ("thinks", 1, 20_000), ("thinks", 2, 30_000)):
        thoughts = [{"type": "reasoning", "id": f"r{number}", "summary": []} for number in range(count)]
        found, _ = candidate(f"responses/{model}", "openai-responses", input=thoughts)
        assert (found.refused, found.media_tokens) == (None, tokens)


def test_a_key_that_no_other_format_has_is_named() -> None:
    found, _ = candidate("claude/claude-opus-5", "openai-responses", input="x", top_logprobs=2)
    assert found.refused == (
        'the call is written in the format "openai-responses", which api = "anthropic" does not speak, and '
        "top_logprobs cannot be said in another"
    )


def test_services_of_other_formats_are_asked_in_neutral_words() -> None:
    """In the route's order, held as such a call would be."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = [{"role": "assistant", "tool_calls": [call] * 9}, {"role": "user", "content": "x"}]
    text = json.dumps({"model": "m", "messages": said, "service_tier": "auto"}).encode()
    asked = LLMRequest(route="mixed", budget="acme", wire=Wire(dialect="openai", body=text))
    command, neutral = reserve_of(SETTINGS, asked), reserve_of(SETTINGS, neutral_request(asked))
    assert [each.service for each in command.candidates] == ["google", "claude", "openai"]
    assert [each.refused for each in command.candidates] == [None, None, None]
    google, claude, own = command.candidates
    assert bound_nanos(command, claude) == bound_nanos(neutral, neutral.candidates[1])
    assert google.media_tokens == claude.media_tokens > own.media_tokens == 0


def test_candidates_of_another_format_are_not_in_the_way() -> None:
    """What keeps the others from being asked is told, and not that these speak another format."""
    found, _ = candidate("mixed", logit_bias={})
    assert (found.service, found.refused) == ("openai", None)
    text = json.dumps({"model": "m"}).encode()
    command = reserve_of(SETTINGS, LLMRequest(route="others", budget="acme", wire=Wire(dialect="openai", body=text)))
    assert [(each.service, "does not speak" in str(each.refused)) for each in command.candidates] == [
        ("google", True),
        ("claude", True),
    ]
