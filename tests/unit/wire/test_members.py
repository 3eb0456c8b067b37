"""A value is changed within the text of a JSON object, and every other byte stays."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paymaster.wire.members import NotAnObject, members, value_text, with_name, with_values

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8"))
values = st.recursive(
    scalars, lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below, max_size=3)
)
objects = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), values, max_size=5)
spaces = st.text(" \t\n\r", max_size=2)
TEXT = '{ "a" : 1.0e2 ,\n"b":"\\u00e9\\"{",\t"c":{"a":[1,2]}, "d":-0 }'


@st.composite
def written(draw: st.DrawFn) -> tuple[dict[str, Any], str]:
    """An object and a text of it, with spaces and escapes of any kind."""
    data = draw(objects)
    parts = [
        f"{draw(spaces)}{json.dumps(name, ensure_ascii=draw(st.booleans()))}{draw(spaces)}:{draw(spaces)}"
        f"{json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.none() | st.just(1)))}{draw(spaces)}"
        for name, value in data.items()
    ]
    return data, f"{draw(spaces)}{{{','.join(parts) or draw(spaces)}}}{draw(spaces)}"


@given(written())
def test_each_member_is_where_it_stands(written: tuple[dict[str, Any], str]) -> None:
    data, text = written
    found = members(text)
    assert {name: json.loads(value_text(text, member)) for name, member in found.items()} == data


@given(written(), st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=2), values, max_size=3))
def test_only_what_is_given_changes(written: tuple[dict[str, Any], str], given: dict[str, Any]) -> None:
    data, text = written
    changed = with_values(text, {name: json.dumps(value) for name, value in given.items()})
    assert json.loads(changed) == data | given
    found, after = members(text), members(changed)
    for name in data.keys() - given.keys():
        assert value_text(changed, after[name]) == value_text(text, found[name])
    if not given:
        assert changed == text


def test_every_other_byte_stays() -> None:
    assert with_values(TEXT, {"b": "true", "e": "[]"}) == TEXT.replace('"\\u00e9\\"{"', "true").replace(
        "-0", '-0,"e":[]'
    )
    assert with_name(TEXT, "c", "sea") == TEXT.replace('"c"', '"sea"')
    assert with_values("{ }", {"a": "1"}) == '{"a":1 }'


@pytest.mark.parametrize(
    "text",
    ["", "[]", "1", "{", '{"a"', '{"a":', '{"a":1', '{"a":1,}', '{"a" 1}', "{a:1}", '{"a":1}}', '{"a":1} x', "null"],
)
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(NotAnObject):
        members(text)


def test_a_name_that_stands_twice_is_refused() -> None:
    """Which of the two a provider reads, nobody knows."""
    with pytest.raises(NotAnObject, match="'model' stands there twice"):
        members('{"model":"cheap","mod\\u0065l":"dear"}')


def test_endless_numbers_and_depths_are_refused_or_read_in_time() -> None:
    assert members('{"a":' + "9" * 1_000_000 + "}")["a"].value_end == 1_000_005
    with pytest.raises(NotAnObject, match="levels"):
        members('{"a":' + "[" * 1_000 + "]" * 1_000 + "}")
