"""Google's JSON: members have two names, as `maxOutputTokens` and `max_output_tokens`, and one item needs no list."""

from collections.abc import Mapping

from pydantic import JsonValue

from paymaster.wire.measured import BadBody


def camel(name: str) -> str:
    head, *rest = name.split("_") if not name.startswith("_") else [name]
    return head + "".join(each[:1].upper() + each[1:] for each in rest)


def named(data: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The members by their names as Google writes them. Raises BadBody for one that has both of its names."""
    found: dict[str, JsonValue] = {}
    for name, value in data.items():
        if camel(name) in found:
            raise BadBody(f"{name[:50]} stands there in another of its names too")
        found[camel(name)] = value
    return found


def items_of(given: JsonValue) -> list[JsonValue]:
    """The items of a list, or the one that stands there without a list."""
    if given is None:
        return []
    return given if isinstance(given, list) else [given]


def item_objects(data: Mapping[str, JsonValue], name: str) -> list[dict[str, JsonValue]]:
    """The objects of a list, or the one that stands there without a list.

    Raises BadBody for anything else, such as a list in the list, which some server might read as if it were none.
    """
    each = items_of(data.get(name))
    objects = [item for item in each if isinstance(item, dict)]
    if len(objects) < len(each):
        raise BadBody(f"{name} has something in it that is no object")
    return objects


def parts_of(content: Mapping[str, JsonValue]) -> list[dict[str, JsonValue]]:
    """The parts of a content, their members by Google's names. Raises BadBody."""
    return [named(part) for part in item_objects(content, "parts")]
