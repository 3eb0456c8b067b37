"""JSON objects in any way of writing them, for searches with hypothesis."""

import json
from typing import Any

from hypothesis import strategies as st

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8"))
values = st.recursive(
    scalars, lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below, max_size=3)
)
objects = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), values, max_size=5)
spaces = st.text(" \t\n\r", max_size=2)


@st.composite
def written(draw: st.DrawFn, given: st.SearchStrategy[dict[str, Any]] = objects) -> tuple[dict[str, Any], str]:
    """An object and a text of it, with spaces and escapes of any kind."""
    data = draw(given)
    parts = [
        f"{draw(spaces)}{json.dumps(name, ensure_ascii=draw(st.booleans()))}{draw(spaces)}:{draw(spaces)}"
        f"{json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.none() | st.just(1)))}{draw(spaces)}"
        for name, value in data.items()
    ]
    return data, f"{draw(spaces)}{{{','.join(parts) or draw(spaces)}}}{draw(spaces)}"
