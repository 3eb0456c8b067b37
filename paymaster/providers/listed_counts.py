"""What genai-prices reads in the counts of a provider: some count reasoning, citations or searches apart."""

from collections.abc import Sequence

from genai_prices import Usage
from genai_prices.data_snapshot import get_snapshot
from pydantic import JsonValue

from paymaster.providers.provider import WireUsage
from paymaster.values.json_reading import TOKENS_MAX

CHAT_FLAVORS = ("chat", "default")
"""Of chat completions, by the names that genai-prices has for them."""
RESPONSES_FLAVORS = ("responses", "default")
"""Of the Responses API."""
EMBEDDING_FLAVORS = ("embeddings", "default")
"""Of embeddings."""


SEARCHES_MAX = 10_000
"""Of one answer; more is a mistake and not a bill."""


def with_listed_counts(
    found: WireUsage, usage: JsonValue, base_url: str, flavors: Sequence[str] = CHAT_FLAVORS
) -> WireUsage | None:
    """The counts with what the provider's rules see in them besides: never less is charged than by those.

    None: what they see is a mistake, so that nobody knows what was billed.
    """
    listed = _listed(usage, base_url, flavors)
    if listed is None:
        return found
    seen = {name: listed.reported_value(theirs) for name, theirs in _NAMES.items()}
    if not all(isinstance(count, int) for count in seen.values()):
        return None
    if max(seen.values()) > TOKENS_MAX or seen["web_searches"] > SEARCHES_MAX:
        return None
    counts = found.model_dump()
    larger = {name: max(counts[name], count) for name, count in seen.items()}
    cached = min(found.cached_input_tokens, seen["cached_input_tokens"])
    return WireUsage.model_validate(counts | larger | {"cached_input_tokens": cached})


_NAMES = {
    "input_tokens": "input_tokens",
    "cached_input_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "output_tokens": "output_tokens",
    "reasoning_tokens": "output_reasoning_tokens",
    "web_searches": "web_searches",
}
"""Our name of each count, and that of genai-prices."""


def _listed(usage: JsonValue, base_url: str, flavors: Sequence[str]) -> Usage | None:
    try:
        provider = get_snapshot().find_provider(None, None, base_url)
    except LookupError:
        return None
    known = {extractor.api_flavor for extractor in provider.extractors or ()}
    flavor = next((each for each in flavors if each in known), None)
    if flavor is None:
        return None
    try:
        return provider.extract_usage({"usage": usage}, api_flavor=flavor)[1]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
