"""Whatever counts a service gives, no less is charged than by what genai-prices reads in them for that provider."""

import json
from datetime import UTC, datetime
from decimal import ROUND_CEILING
from typing import Any

import pytest
from genai_prices.data_snapshot import get_snapshot
from hypothesis import example, given
from hypothesis import strategies as st
from wire import BASE_URLS, GRANT

from paymaster.messages import Billing, LLMRequest, ServiceCall
from paymaster.providers.answers import HttpAnswer, read_answer
from paymaster.settings import Api, ServiceSettings

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
NOW_MS = int(NOW.timestamp()) * 1_000
REGIONAL = "https://us-east5-aiplatform.googleapis.com/v1/projects/acme/locations/us-east5"
SERVICES: list[tuple[Api, str, str, str]] = [
    ("openai", "https://api.openai.com/v1", "gpt-5.2", "chat"),
    ("openai", "https://api.x.ai/v1", "grok-4.5", "chat"),
    ("openai", "https://api.groq.com/openai/v1", "llama-3.1-8b-instant", "default"),
    ("openai", "https://api.mistral.ai/v1", "mistral-medium-3-1", "default"),
    ("openai", "https://api.deepseek.com", "deepseek-chat", "chat"),
    ("openai", "https://api.moonshot.ai/v1", "kimi-k2.6", "chat"),
    ("openai", "https://api.perplexity.ai", "sonar-reasoning", "default"),
    ("openai", "https://generativelanguage.googleapis.com/v1beta/openai", "gemini-3.1-pro-preview", "chat"),
    ("openai-responses", "https://api.openai.com/v1", "gpt-5.2", "responses"),
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
CLAUDE = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
CONVERSE = ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheWriteInputTokens")
GOOGLE = (
    "promptTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
    "toolUsePromptTokenCount",
    "cachedContentTokenCount",
)
MODALITIES = ("promptTokensDetails", "candidatesTokensDetails", "cacheTokensDetails")


@st.composite
def usages(draw: st.DrawFn, api: Api) -> dict[str, Any]:
    def some(*names: str) -> dict[str, Any]:
        drawn = {name: draw(COUNT) for name in names}
        return {name: count for name, count in drawn.items() if count is not None}

    match api:
        case "openai":
            usage: dict[str, Any] = {
                **some(*CHAT),
                **{f"{of}_tokens_details": some(*DETAILS) for of in ("prompt", "completion")},
            }
            if draw(st.booleans()):
                usage["total_tokens"] = sum(usage.get(f"{of}_tokens", 0) for of in ("prompt", "completion"))
            return usage
        case "openai-responses":
            return {**some(*CLAUDE), **{f"{of}_tokens_details": some(*DETAILS) for of in ("input", "output")}}
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
        case "openai":
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
    ("api", "base_url", "model", "flavor"), SERVICES, ids=[f"{each[1]} {each[2]}" for each in SERVICES]
)
@given(data=st.data())
@example(data=None)
def test_no_less_is_charged_than_the_list_says(
    api: Api, base_url: str, model: str, flavor: str, data: st.DataObject | None
) -> None:
    """What is unknown is charged at its bound, which has room for all that was sent."""
    usual = {"prompt_tokens": 9, "completion_tokens": 3, "input_tokens": 9, "output_tokens": 3, "promptTokenCount": 9}
    usual |= {"inputTokens": 9, "outputTokens": 3}
    usage = usual if data is None else data.draw(usages(api))
    body = answer_with(api, model, usage)
    service = ServiceSettings(api=api, base_url=base_url)
    call = ServiceCall(
        grant=GRANT.model_copy(update={"model": model}), request=LLMRequest(route="r", budget="b", prompt="p")
    )
    answer = HttpAnswer(200, [(b"content-type", b"application/json")], json.dumps(body).encode())
    found = read_answer(call, service, answer, started_at_ms=NOW_MS, now_ms=NOW_MS)
    listed = listed_nanos(base_url, flavor, body)
    if data is None:
        assert listed == found.facts.cost_nanos, "the comparison compares nothing"
    if found.billing is Billing.BILLED and listed is not None:
        assert found.facts.cost_nanos is not None
        assert found.facts.cost_nanos >= listed
