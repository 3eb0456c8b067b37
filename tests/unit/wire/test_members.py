"""A value is changed within the text of a JSON object, and every other byte stays."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_texts import values, written

from paymaster.wire.members import (
    NotAnObject,
    items,
    members,
    value_text,
    with_each_item,
    with_name,
    with_values,
    without,
)

TEXT = '{ "a" : 1.0e2 ,\n"b":"\\u00e9\\"{",\t"c":{"a":[1,2]}, "d":-0 }'


@given(written())
def test_each_member_is_where_it_stands(given: tuple[dict[str, Any], str]) -> None:
    data, text = given
    found = members(text)
    assert {name: json.loads(value_text(text, member)) for name, member in found.items()} == data


@given(written(), st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=2), values, max_size=3))
def test_only_what_is_given_changes(before: tuple[dict[str, Any], str], given: dict[str, Any]) -> None:
    data, text = before
    changed = with_values(text, {name: json.dumps(value) for name, value in given.items()})
    assert json.loads(changed) == data | given
    found, after = members(text), members(changed)
    for name in data.keys() - given.keys():
        assert value_text(changed, after[name]) == value_text(text, found[name])
    if not given:
        assert changed == text


@given(written(), st.data())
def test_only_what_is_taken_out_goes(before: tuple[dict[str, Any], str], choice: st.DataObject) -> None:
    data, text = before
    if not data:
        return
    name = choice.draw(st.sampled_from(sorted(data)))
    left = without(text, name)
    found, after = members(text), members(left)
    assert list(after) == [each for each in found if each != name]
    assert all(value_text(left, after[each]) == value_text(text, found[each]) for each in after)


@given(st.lists(written(), max_size=4))
def test_each_item_is_changed_where_it_stands(listed: list[tuple[dict[str, Any], str]]) -> None:
    text = f"[{','.join(each for _, each in listed)}]"
    assert [text[begin:end] for begin, end in items(text)] == [each.strip(" \t\r\n") for _, each in listed]
    assert with_each_item(text, lambda item: item) == text
    assert json.loads(with_each_item(text, lambda item: with_values(item, {"a": "1"}))) == [
        {**data, "a": 1} for data, _ in listed
    ]


@pytest.mark.parametrize("text", ["", "{}", "[1", "[1 2]", "[,1]", "[", '["a]'])
def test_what_is_no_array_is_refused(text: str) -> None:
    with pytest.raises(NotAnObject):
        items(text)


def test_every_other_byte_stays() -> None:
    assert with_values(TEXT, {"b": "true", "e": "[]"}) == TEXT.replace('"\\u00e9\\"{"', "true").replace(
        "-0", '-0,"e":[]'
    )
    assert with_name(TEXT, "c", "sea") == TEXT.replace('"c"', '"sea"')
    assert with_values("{ }", {"a": "1"}) == '{"a":1 }'
    assert without('{ "a" : 1 , "b":2}', "a") == '{ "b":2}'
    assert without('{"a":1 , "b":2 }', "b") == '{"a":1 }'
    assert without('{ "a":1 }', "a") == "{  }"


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


@pytest.mark.parametrize(("text", "said"), [("", "^empty$"), (" \n", "^empty$"), ('{"a": 1', "it ends too early")])
def test_a_text_that_ends_in_the_middle_is_told_so(text: str, said: str) -> None:
    with pytest.raises(NotAnObject, match=said):
        members(text)


def test_endless_numbers_and_depths_are_refused_or_read_in_time() -> None:
    assert members('{"a":' + "9" * 1_000_000 + "}")["a"].value_end == 1_000_005
    with pytest.raises(NotAnObject, match="levels"):
        members('{"a":' + "[" * 1_000 + "]" * 1_000 + "}")
