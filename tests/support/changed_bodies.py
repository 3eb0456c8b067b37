"""Bodies of wire calls with a part of them changed, for searches with hypothesis."""

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

_ODD = ("1e400", "NaN", "-Infinity", r'"\ud800"', r'"\u2028"', "9" * 400, '{"a":{"a":{"a":[]}}}', '"\\u0000"')
"""Values as JSON that not every reader takes."""
_words = st.sampled_from(
    ["", "x", "none", "user", "text", "data", "image/png", "https://example.com/a", "call-1", "AAA"]
)
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(0, 2) | _words,
    lambda below: st.lists(below, max_size=2) | st.dictionaries(_words, below, max_size=2),
    max_leaves=4,
)
_MARK = "@@"


@st.composite
def changed(draw: st.DrawFn, body: dict[str, Any]) -> bytes:
    """The body with up to three of its parts replaced, taken out, doubled, or given a member that nobody knows."""
    data = copy.deepcopy(body)
    odd: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(data))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["replace", "odd", "remove", "double", "add"])):
            case "replace":
                holder[key] = draw(_values)
            case "odd":
                holder[key] = f"{_MARK}{len(odd)}"
                odd.append(draw(st.sampled_from(_ODD)))
            case "remove" if isinstance(holder, dict):
                del holder[key]
            case "double" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            case _ if isinstance(holder, dict):
                holder["odd_member"] = draw(_values)
            case _:
                pass
    text = json.dumps(data)
    for number, value in enumerate(odd):
        text = text.replace(f'"{_MARK}{number}"', value)
    return text.encode()


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every part, as what holds it and its key there."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, below in list(items):
        yield data, key
        yield from _places(below)
