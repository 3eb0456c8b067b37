"""Bodies of wire calls with something in them that nobody expects, for searches with hypothesis."""

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

_ODD = st.sampled_from(
    [
        *("null", "true", "false", "[]", "{}", '""', "0", "-1", "0.5", "1e400", "NaN", "9" * 400, "[null]", "[[]]"),
        *(r'"\ud800"', r'"a\udc00"', r'"\u0000"', '"x"', '"https://a/b"', '"data:,"', '"data:a/b;base64,AA"', '"auto"'),
        *('{"type":"function"}', '{"type":"text","text":"x"}', '"{}"', '"[1"', '{"x":[{}]}', "[" * 99 + "]" * 99),
    ]
)
"""JSON values, and what only looks like one."""


@st.composite
def changed(draw: st.DrawFn, body: dict[str, Any]) -> bytes:
    """The body with one to three of its parts replaced, taken out, said twice, or with one that nobody knows."""
    data = json.loads(json.dumps(body))
    odd: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(list(_places(data))))
        how = draw(st.sampled_from(["replace", "replace", "drop", "add"]))
        if how == "drop":
            del holder[key]
        elif how == "add" and isinstance(holder, dict):
            holder[draw(st.sampled_from(["odd", "type", "content", "refusal", "name"]))] = f"@{len(odd)}"
            odd.append(draw(_ODD))
        elif isinstance(holder, list) and how == "add":
            holder.append(holder[key])
        else:
            holder[key] = f"@{len(odd)}"
            odd.append(draw(_ODD))
        if not data:
            break
    text = json.dumps(data)
    for number, value in enumerate(odd):
        text = text.replace(f'"@{number}"', value)
    return text.encode()


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every part of a document, as what holds it and its key there."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, below in list(items):
        yield data, key
        yield from _places(below)
