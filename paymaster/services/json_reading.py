"""Reading JSON that somebody else wrote: whatever it is, the result is a value of the asked kind, or its absence."""

import json

from pydantic import JsonValue, TypeAdapter

TOKENS_MAX = 10**10
"""A count above this is a mistake and not a bill."""

_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


def read_json(text: bytes | str) -> JsonValue:
    """The data. Raises ValueError for everything that is not JSON, endless nesting and endless numbers included."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def message_data(text: str) -> JsonValue:
    """The data, if a message can carry it. Raises ValueError for half a surrogate pair and deep nesting too."""
    data = read_json(text)
    try:
        _JSON.dump_json(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return data


def object_of(value: JsonValue) -> dict[str, JsonValue]:
    """The object, or an empty one."""
    return value if isinstance(value, dict) else {}


def list_of(value: JsonValue) -> list[JsonValue]:
    """The list, or an empty one."""
    return value if isinstance(value, list) else []


def text_of(value: JsonValue) -> str | None:
    """A string that can be encoded: half a surrogate pair, which JSON can name and UTF-8 cannot, becomes U+FFFD."""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else None


def count_of(value: JsonValue, name: str) -> int | None:
    """The count of that name in an object. None: absent or senseless."""
    count = object_of(value).get(name)
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= TOKENS_MAX else None
