"""The wire format `openai`: chat completions, as OpenAI and the many compatible servers speak it."""

import json
from typing import NamedTuple

from pydantic import JsonValue

from paymaster.messages import Grant, LLMRequest
from paymaster.money import TokenUsage

PATH = "/chat/completions"
REQUEST_ID_HEADER = "x-request-id"
TOKENS_MAX = 10**10
"""A count above this is a mistake and not a bill."""
_OPENAI = "https://api.openai.com/"


class MalformedAnswer(ValueError):
    """A 2xx answer that is not a chat completion. It may have been billed."""


class Answer(NamedTuple):
    text: str
    finish_reason: str | None
    model: str | None
    usage: TokenUsage | None
    """None: the service did not say, so that the cost is unknown."""


def headers(key: str | None) -> dict[str, str]:
    """Authentication. None: a server that needs no key."""
    return {} if key is None else {"authorization": f"Bearer {key}"}


def build_request(request: LLMRequest, grant: Grant, base_url: str) -> dict[str, JsonValue]:
    """The body of the request. The cap on the output is always sent: the bound of the cost depends on it."""
    body: dict[str, JsonValue] = {
        "model": grant.model,
        "messages": [{"role": message.role, "content": message.content} for message in request.conversation()],
        # OpenAI's reasoning models refuse the old name; most compatible servers know no other.
        "max_completion_tokens" if base_url.startswith(_OPENAI) else "max_tokens": grant.max_output_tokens,
    }
    if request.json_schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": request.json_schema, "strict": True},
        }
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.stop:
        body["stop"] = list(request.stop)
    if request.seed is not None:
        body["seed"] = request.seed
    return body


def parse_response(body: bytes) -> Answer:
    """The answer in the body of a 2xx. Raises MalformedAnswer when it is none."""
    try:
        data: JsonValue = json.loads(body)
    except (ValueError, RecursionError):  # RecursionError: brackets nested without end
        raise MalformedAnswer(f"not JSON: {body[:200]!r}") from None
    choices = data.get("choices") if isinstance(data, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(data, dict) or not isinstance(choice, dict) or not isinstance(message, dict):
        raise MalformedAnswer(f"no choices[0].message: {body[:200]!r}")
    content, finish_reason, model = message.get("content"), choice.get("finish_reason"), data.get("model")
    return Answer(
        text=_text(content) or "",
        finish_reason=_text(finish_reason),
        model=_text(model),
        usage=_usage(data.get("usage")),
    )


def _usage(usage: JsonValue) -> TokenUsage | None:
    """None when the counts that the cost is made of are missing or senseless."""
    if not isinstance(usage, dict):
        return None
    input_tokens, output_tokens = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if input_tokens is None or output_tokens is None:
        return None
    return TokenUsage(
        input_tokens=input_tokens,
        cached_input_tokens=_count(usage.get("prompt_tokens_details"), "cached_tokens") or 0,
        cache_write_tokens=_count(usage.get("prompt_tokens_details"), "cache_write_tokens") or 0,
        output_tokens=output_tokens,
        reasoning_tokens=_count(usage.get("completion_tokens_details"), "reasoning_tokens") or 0,
    )


def _text(value: JsonValue) -> str | None:
    """A string that can be encoded: half a surrogate pair, which JSON can name and UTF-8 cannot, becomes U+FFFD."""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else None


def _count(details: JsonValue, name: str) -> int | None:
    value = details.get(name) if isinstance(details, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= TOKENS_MAX else None
