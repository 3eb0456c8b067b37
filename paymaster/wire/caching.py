"""Marks that have a provider keep the text before them in its cache, for a time that may have a price of its own."""

from collections.abc import Iterable, Iterator, Mapping

from pydantic import JsonValue

from paymaster.values.json_reading import object_of

_USUAL = {
    "cache_control": (None, "5m"),
    "prompt_cache_breakpoint": (None, "30m"),
    "prompt_cache_options": (None, "30m"),
}
"""By the member that is a mark, Anthropic's or OpenAI's, the times that its providers keep the text for anyway."""


def kept_for(marked: Iterable[Mapping[str, JsonValue]]) -> Iterator[str]:
    """What the marks choose, as `cache_control.ttl=1h`, of all objects that may have one."""
    for each in marked:
        for name, usual in _USUAL.items():
            if name in each and (ttl := object_of(each[name]).get("ttl")) not in usual:
                yield f"{name}.ttl={ttl}"
