"""What providers' own counters of tokens are asked: the request as it would be sent, as far as they take it."""

from collections.abc import Collection
from urllib.parse import quote

from pydantic import JsonValue
from pydantic_core import to_json

from paymaster.messages import Grant
from paymaster.providers.provider import CannotCount, TokenCounter, WrittenRequest
from paymaster.values.json_reading import object_of, read_json

_CLAUDE_COUNTED = frozenset(
    {
        "model",
        "messages",
        "system",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "output_format",
        "cache_control",
    }
)
_CLAUDE_FREE = frozenset(
    {
        "anthropic_version",
        "max_tokens",
        "stream",
        "temperature",
        "top_p",
        "top_k",
        "stop_sequences",
        "metadata",
        "service_tier",
        "speed",
        "inference_geo",
        "diagnostics",
        "safeguards",
        "user_profile_id",
        "workspace_id",
    }
)
"""Keys that put nothing before the model."""
_RESPONSES_COUNTED = frozenset(
    {
        "model",
        "input",
        "instructions",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning",
        "text",
        "truncation",
    }
)
_RESPONSES_FREE = frozenset(
    {
        "max_output_tokens",
        "max_tool_calls",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "top_logprobs",
        "include",
        "metadata",
        "client_metadata",
        "store",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
    }
)
_VERTEX_COUNTED = frozenset(
    {"contents", "systemInstruction", "system_instruction", "tools", "generationConfig", "generation_config"}
)
_VERTEX_FREE = frozenset({"toolConfig", "tool_config", "safetySettings", "safety_settings", "labels"})
_GENERATES = ("generateContent", "streamGenerateContent")


def _claude(written: WrittenRequest, grant: Grant) -> WrittenRequest:
    return WrittenRequest("/messages/count_tokens", _part(written, _CLAUDE_COUNTED, _CLAUDE_FREE), written.headers)


def _vertex_claude(written: WrittenRequest, grant: Grant) -> WrittenRequest:
    """Its own path has no model, which stands in the body instead."""
    named: dict[str, JsonValue] = {"model": grant.model}
    kept = _part(written, _CLAUDE_COUNTED | {"anthropic_version"}, _CLAUDE_FREE, named)
    return WrittenRequest("/publishers/anthropic/models/count-tokens:rawPredict", kept, written.headers)


def _responses(written: WrittenRequest, grant: Grant) -> WrittenRequest:
    body = _part(written, _RESPONSES_COUNTED, _RESPONSES_FREE)
    return WrittenRequest("/responses/input_tokens", body, written.headers)


def _gemini(written: WrittenRequest, grant: Grant) -> WrittenRequest:
    asked: JsonValue = {"model": f"models/{grant.model}", **_object(written)}
    return WrittenRequest(
        f"{_model_path(written)}:countTokens", to_json({"generateContentRequest": asked}), written.headers
    )


def _vertex_gemini(written: WrittenRequest, grant: Grant) -> WrittenRequest:
    body = _part(written, _VERTEX_COUNTED, _VERTEX_FREE)
    return WrittenRequest(f"{_model_path(written)}:countTokens", body, written.headers)


def _model_path(written: WrittenRequest) -> str:
    path, _, method = written.path.partition("?")[0].rpartition(":")
    if method not in _GENERATES:
        raise CannotCount(f"what {method} takes is not counted")
    return path


def _part(
    written: WrittenRequest,
    counted: Collection[str],
    free: Collection[str],
    added: dict[str, JsonValue] | None = None,
) -> bytes:
    """The members that are counted; raises CannotCount for one of which nobody knows whether it counts."""
    data = _object(written)
    unknown = next((name for name in data if name not in counted and name not in free), None)
    if unknown is not None:
        raise CannotCount(f"the counter does not cover {quote(unknown[:100])}")
    return to_json((added or {}) | {name: value for name, value in data.items() if name in counted})


def _object(written: WrittenRequest) -> dict[str, JsonValue]:
    try:
        return object_of(read_json(written.body))
    except ValueError as error:
        raise CannotCount(f"the body: {error}") from None


CLAUDE = TokenCounter(_claude, "input_tokens")
"""https://platform.claude.com/docs/en/api/messages/count_tokens"""
VERTEX_CLAUDE = TokenCounter(_vertex_claude, "input_tokens")
"""https://docs.cloud.google.com/vertex-ai/generative-ai/docs/partner-models/claude/count-tokens"""
RESPONSES = TokenCounter(_responses, "input_tokens")
"""https://developers.openai.com/api/docs/guides/token-counting"""
GEMINI = TokenCounter(_gemini, "totalTokens")
"""https://ai.google.dev/api/tokens"""
VERTEX_GEMINI = TokenCounter(_vertex_gemini, "totalTokens")
"""https://docs.cloud.google.com/vertex-ai/generative-ai/docs/model-reference/count-tokens"""
