"""Members of a wire call's body, read as what they must be: anything else cannot be said in neutral words."""

from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from pydantic import JsonValue, ValidationError

from paymaster.messages import ReasoningEffort, Tool
from paymaster.translation.neutral import Untranslatable

WORDS = ("auto", "none", "required")
"""Choices of a tool that name none."""


def a_text(value: JsonValue, key: str) -> str:
    if not isinstance(value, str):
        raise Untranslatable(key)
    return value


def texts(value: JsonValue, key: str) -> tuple[str, ...]:
    """Empty for null."""
    return tuple(a_text(each, key) for each in a_list(value, key))


def a_number(value: JsonValue, key: str) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise Untranslatable(key)
    return value


def a_whole(value: JsonValue, key: str, least: int = 1) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise Untranslatable(key)
    return value


def object_or_none(value: JsonValue, key: str) -> dict[str, JsonValue] | None:
    if value is not None and not isinstance(value, dict):
        raise Untranslatable(key)
    return value


def an_object(value: JsonValue, key: str) -> dict[str, JsonValue]:
    """Empty for null."""
    return object_or_none(value, key) or {}


def a_list(value: JsonValue, key: str) -> list[JsonValue]:
    """Empty for null."""
    if value is not None and not isinstance(value, list):
        raise Untranslatable(key)
    return value or []


def objects(value: JsonValue, key: str) -> list[dict[str, JsonValue]]:
    """Empty for null."""
    found = a_list(value, key)
    if not all(isinstance(each, dict) for each in found):
        raise Untranslatable(key)
    return [an_object(each, key) for each in found]


def an_effort(value: JsonValue, key: str) -> ReasoningEffort | None:
    """None for null."""
    if value is None:
        return None
    for known in get_args(ReasoningEffort):
        if value == known:
            return known
    raise Untranslatable(key)


def only_usual(data: Mapping[str, JsonValue], usual: Mapping[str, Sequence[JsonValue]], prefix: str = "") -> None:
    """Raises Untranslatable for the first of these members that has none of its usual values. Null is usual."""
    for name, values in usual.items():
        if data.get(name) is not None and data[name] not in values:
            raise Untranslatable(f"{prefix}{name}")


def a_tool(name: JsonValue, description: JsonValue, parameters: dict[str, JsonValue] | None, prefix: str) -> Tool:
    """Without parameters it takes none."""
    facts: dict[str, JsonValue] = {} if parameters is None else {"parameters": parameters}
    if description is not None:
        facts["description"] = a_text(description, f"{prefix}description")
    try:
        return Tool.model_validate(facts | {"name": a_text(name, f"{prefix}name")})
    except ValidationError:
        raise Untranslatable(f"{prefix}name") from None


def with_different_names(tools: Iterable[Tool], key: str) -> tuple[Tool, ...]:
    found = tuple(tools)
    if len({tool.name for tool in found}) < len(found):
        raise Untranslatable(key)
    return found


def chosen(word: str | None, named: JsonValue, tools: Sequence[Tool], key: str) -> str | None:
    """The neutral choice: a word, or else the tool that is named.

    Where there are no tools to choose from, a word that wants none of them says nothing. A tool with the name of a word
    cannot be chosen.
    """
    if word is None:
        names = {tool.name for tool in tools} - set(WORDS)
        if a_text(named, key) not in names:
            raise Untranslatable(key)
        return a_text(named, key)
    if not tools and word == "required":
        raise Untranslatable(key)
    return word if tools else None
