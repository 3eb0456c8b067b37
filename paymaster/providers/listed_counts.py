"""What genai-prices reads in the counts of a provider: some count reasoning, citations or searches apart."""

from genai_prices import Usage
from genai_prices.data_snapshot import get_snapshot
from pydantic import JsonValue

from paymaster.providers.provider import WireUsage
from paymaster.values.json_reading import TOKENS_MAX

_FLAVORS = ("chat", "default")
"""Of chat completions, by the names that genai-prices has for them."""


def with_listed_counts(found: WireUsage, usage: JsonValue, base_url: str) -> WireUsage:
    """The counts with what the provider's rules see in them besides: never less is charged than by those."""
    listed = _listed(usage, base_url)
    if listed is None or max(listed.input_tokens, listed.output_tokens) > TOKENS_MAX:
        return found
    return found.model_copy(
        update={
            "input_tokens": max(found.input_tokens, listed.input_tokens),
            "cached_input_tokens": min(found.cached_input_tokens, listed.reported_value("cache_read_tokens")),
            "cache_write_tokens": max(found.cache_write_tokens, listed.reported_value("cache_write_tokens")),
            "output_tokens": max(found.output_tokens, listed.output_tokens),
            "reasoning_tokens": max(found.reasoning_tokens, listed.reported_value("output_reasoning_tokens")),
            "web_searches": max(found.web_searches, listed.reported_value("web_searches")),
        }
    )


def _listed(usage: JsonValue, base_url: str) -> Usage | None:
    try:
        provider = get_snapshot().find_provider(None, None, base_url)
    except LookupError:
        return None
    flavors = {extractor.api_flavor for extractor in provider.extractors or ()}
    flavor = next((each for each in _FLAVORS if each in flavors), None)
    if flavor is None:
        return None
    try:
        return provider.extract_usage({"usage": usage}, api_flavor=flavor)[1]
    except (ValueError, LookupError, TypeError):
        return None
