"""Up to where a conversation is worth keeping in a provider's cache, in the form in which it is told."""

import re
from collections.abc import Sequence

from pydantic import JsonValue

from paymaster.messages import ChatMessage

ANTHROPIC_MARK: dict[str, JsonValue] = {"cache_control": {"type": "ephemeral"}}
OPENAI_MARK: dict[str, JsonValue] = {"prompt_cache_breakpoint": {"mode": "explicit"}}
_MARKS_MAX = 4
"""Of one request: Anthropic refuses more, and OpenAI writes no more."""
_TAKES_OPENAI_MARK = re.compile(r"gpt-(5\.([6-9]|\d\d)|[6-9]|\d\d)")


def with_latest_cached(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The messages with the latest marks only, as many as a request may have."""
    cached = [number for number, message in enumerate(messages) if message.cache]
    dropped = set(cached[:-_MARKS_MAX])
    return [
        message.model_copy(update={"cache": False}) if number in dropped else message
        for number, message in enumerate(messages)
    ]


def takes_openai_mark(model: str) -> bool:
    """GPT-5.6 and later; earlier models refuse it."""
    return _TAKES_OPENAI_MARK.match(model) is not None
