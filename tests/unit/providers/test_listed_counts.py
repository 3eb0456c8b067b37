"""Whatever counts a service gives, no less is charged than by what genai-prices reads in them for that provider."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import ROUND_CEILING
from typing import Any

import pytest
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import UsageExtractor
from hypothesis import example, given
from hypothesis import strategies as st
from wire import BASE_URLS, GRANT

from paymaster.messages import Billing, LLMRequest, ServiceCall
from paymaster.providers.answers import HttpAnswer, read_answer
from paymaster.providers.listed_counts import with_listed_counts
from paymaster.providers.provider import WireUsage
from paymaster.settings import Api, ServiceSettings

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
NOW_MS = int(NOW.timestamp()) * 1_000
REGIONAL = "https://us-east5-aiplatform.googleapis.com/v1/projects/acme/locations/us-east5"
SERVICES: list[tuple[Api, str, str, str]] = [
    ("openai", "https://api.openai.com/v1", "gpt-5.2", "chat"),
    ("openai", "https://api.x.ai/v1", "grok-4.5", "chat"),
    ("openai", "https://api.groq.com/openai/v1", "llama-3.1-8b-instant", "default"),
    ("openai", "https://api.mistral.ai/v1", "mistral-medium-2508", "default"),
    ("openai", "https://api.deepseek.com", "deepseek-chat", "chat"),
    ("openai", "https://api.moonshot.ai/v1", "kimi-k2.6", "chat"),
    ("openai", "https://api.perplexity.ai", "sonar-deep-research", "default"),
    ("openai", "https://generativelanguage.googleapis.com/v1beta/openai", "gemini-3.1-pro-preview", "chat"),
    ("openai", "https://openrouter.ai/api/v1", "anthropic/claude-opus-4.1", "chat"),
    ("openai", "https://api.z.ai/api/paas/v4", "glm-4.6", "chat"),
    ("openai", "https://api.cerebras.ai/v1", "gpt-oss-120b", "chat"),
    ("openai", "https://api.fireworks.ai/inference/v1", "accounts/fireworks/models/deepseek-v4-pro", "chat"),
    ("openai", "https://api.minimax.io/v1", "minimax-m2", "chat"),
    ("azure-openai", "https://example.openai.azure.com/openai/v1", "gpt-5.2", "chat"),
    ("openai-responses", "https://api.openai.com/v1", "gpt-5.2", "responses"),
    ("openai-responses", "https://example.openai.azure.com/openai/v1", "gpt-5.2", "responses"),
    ("openai-responses", "https://api.x.ai/v1", "grok-4.5", "responses"),
    ("openai-responses", "https://openrouter.ai/api/v1", "openai/gpt-5.2", "default"),
    ("openai-responses", "https://api.perplexity.ai", "perplexity/sonar", "responses"),
    ("anthropic", "https://example.services.ai.azure.com/anthropic/v1", "claude-opus-4-1", "anthropic"),
    ("anthropic", "https://api.anthropic.com/v1", "claude-opus-4-1", "default"),
    ("vertex-claude", BASE_URLS["vertex-claude"], "claude-opus-4-6", "anthropic"),
    ("vertex-claude", REGIONAL, "claude-opus-4-1@20250805", "anthropic"),
    ("vertex-gemini", REGIONAL, "gemini-2.5-flash", "default"),
    ("bedrock", "https://bedrock-runtime.us-east-1.amazonaws.com", "us.anthropic.claude-opus-4-6-v1", "default"),
    ("gemini", "https://generativelanguage.googleapis.com/v1beta", "gemini-2.5-flash", "default"),
]
COUNT = st.none() | st.integers(0, 1_000) | st.integers(0, 300_000)
DETAILS = ("cached_tokens", "cache_write_tokens", "reasoning_tokens", "audio_tokens")
CHAT = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "reasoning_tokens",
    "citation_tokens",
    "num_search_queries",
)
RESPONSES = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "num_search_queries",
    "num_server_side_tools_used",
)
CLAUDE = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
CONVERSE = ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheWriteInputTokens")
GOOGLE = (
    "totalTokenCount",
    "promptTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
    "toolUsePromptTokenCount",
    "cachedContentTokenCount",
)
MODALITIES = ("promptTokensDetails", "candidatesTokensDetails", "cacheTokensDetails")


def extractor_of(base_url: str, flavor: str) -> UsageExtractor:
    provider = get_snapshot().find_provider(None, None, base_url)
    return next(each for each in provider.extractors or () if each.api_flavor == flavor)


def listed_paths(base_url: str, flavor: str) -> list[list[str]]:
    """Where genai-prices looks for this provider's counts, as far as these are no lists."""
    paths = [mapping.path for mapping in extractor_of(base_url, flavor).mappings]
    found = [[path] if isinstance(path, str) else path for path in paths]
    return [[str(part) for part in path] for path in found if all(isinstance(part, str) for part in path)]


def with_counts(usage: dict[str, Any], paths: Sequence[Sequence[str]], data: st.DataObject) -> dict[str, Any]:
    """The usage with counts at some of these places too."""
    for path in paths:
        count, place = data.draw(COUNT), usage
        for name in path[:-1]:
            place = place.setdefault(name, {})
        if count is not None:
            place[path[-1]] = count
    return usage


@st.composite
def usages(draw: st.DrawFn, api: Api) -> dict[str, Any]:
    def some(*names: str) -> dict[str, Any]:
        drawn = {name: draw(COUNT) for name in names}
        return {name: count for name, count in drawn.items() if count is not None}

    match api:
        case "openai" | "azure-openai":
            usage: dict[str, Any] = {
                **some(*CHAT),
                **{f"{of}_tokens_details": some(*DETAILS) for of in ("prompt", "completion")},
            }
            if draw(st.booleans()):
                usage["total_tokens"] = sum(usage.get(f"{of}_tokens", 0) for of in ("prompt", "completion"))
            return usage
        case "openai-responses":
            usage = {**some(*RESPONSES), **{f"{of}_tokens_details": some(*DETAILS) for of in ("input", "output")}}
            if draw(st.booleans()):
                usage["total_tokens"] = sum(usage.get(f"{of}_tokens", 0) for of in ("input", "output"))
            return usage
        case "anthropic" | "vertex-claude":
            written = some("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
            return some(*CLAUDE) | {"cache_creation": written, "server_tool_use": some("web_search_requests")}
        case "bedrock":
            details = [{"ttl": ttl, "inputTokens": draw(COUNT) or 0} for ttl in ("1h", "5m")]
            return some(*CONVERSE) | {"cacheDetails": draw(st.sampled_from([[], details[:1], details]))}
        case _:
            words = ("TEXT", "AUDIO", "IMAGE", "VIDEO")
            parts = {of: [{"modality": word, "tokenCount": draw(COUNT) or 0} for word in words] for of in MODALITIES}
            return {**some(*GOOGLE), **{of: draw(st.sampled_from([[], entries])) for of, entries in parts.items()}}


def answer_with(api: Api, model: str, usage: dict[str, Any]) -> dict[str, Any]:
    match api:
        case "openai" | "azure-openai":
            return {"model": model, "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": usage}
        case "openai-responses":
            return {"model": model, "status": "completed", "output": [], "usage": usage}
        case "anthropic" | "vertex-claude":
            return {"model": model, "content": [], "stop_reason": "end_turn", "usage": usage}
        case "bedrock":  # says no model, but for whoever lists its price
            message = {"content": [{"text": "x"}]}
            return {"model": model, "output": {"message": message}, "stopReason": "end_turn", "usage": usage}
        case _:
            said = [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}]
            return {"modelVersion": model, "candidates": said, "usageMetadata": usage}


def listed_nanos(base_url: str, flavor: str, body: dict[str, Any]) -> int | None:
    """By genai-prices alone. None: it makes nothing of the counts."""
    provider = get_snapshot().find_provider(None, None, base_url)
    try:
        model, usage = provider.extract_usage(body, api_flavor=flavor)
        _, info = get_snapshot().find_provider_model(model or "", None, None, base_url)
        total = info.get_prices(NOW, None).calc_price(usage)["total_price"]
    except (ValueError, LookupError):
        return None
    return int(total.scaleb(9).to_integral_value(rounding=ROUND_CEILING))


@pytest.mark.parametrize(
    ("api", "base_url", "model", "flavor"), SERVICES, ids=[f"{each[0]} {each[1]} {each[2]}" for each in SERVICES]
)
@given(data=st.data())
@example(data=None)
def test_no_less_is_charged_than_the_list_says(
    api: Api, base_url: str, model: str, flavor: str, data: st.DataObject | None
) -> None:
    """What is unknown is charged at its bound, which has room for all that was sent."""
    usual = {"prompt_tokens": 9, "completion_tokens": 3, "input_tokens": 9, "output_tokens": 3, "promptTokenCount": 9}
    usual |= {"inputTokens": 9, "outputTokens": 3}
    usage = usual if data is None else with_counts(data.draw(usages(api)), listed_paths(base_url, flavor), data)
    body = answer_with(api, model, usage)
    service = ServiceSettings(api=api, base_url=base_url)
    call = ServiceCall(
        grant=GRANT.model_copy(update={"model": model}), request=LLMRequest(route="r", budget="b", prompt="p")
    )
    answer = HttpAnswer(200, [(b"content-type", b"application/json")], json.dumps(body).encode())
    found = read_answer(call, service, answer, started_at_ms=NOW_MS, now_ms=NOW_MS)
    listed = listed_nanos(base_url, flavor, body)
    if data is None:
        assert listed is not None, "the comparison compares nothing"
        assert found.facts.cost_nanos == listed
    if found.billing is Billing.BILLED and listed is not None:
        assert found.facts.cost_nanos is not None
        assert found.facts.cost_nanos >= listed


def test_words_that_are_none_are_passed_over() -> None:
    """genai-prices calls `.lower()` on whatever stands where the time of a cache ought to."""
    usage: dict[str, Any] = {"inputTokens": 1, "outputTokens": 1, "cacheDetails": [{"ttl": 5, "inputTokens": 1}]}
    found = WireUsage(input_tokens=1, output_tokens=1)
    at = "https://bedrock-runtime.us-east-1.amazonaws.com/openai/v1"
    assert with_listed_counts(found, usage, at) == found
