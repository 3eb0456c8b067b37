"""The members of a JSON object as places in its text, so that one value can be changed and every other byte stays."""

import json
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from paymaster.values.json_reading import check_levels, check_values
from paymaster.values.limits import JSON_VALUES_MAX

_SPACE = re.compile(r"[ \t\n\r]*")
# Numbers stay texts: nothing here needs their values, and to make integers of a million digits takes seconds.
_DECODER = json.JSONDecoder(parse_float=str, parse_int=str)


class NotAnObject(ValueError):
    """A text that is no JSON object, or one that has a name twice, which readers take in different ways."""


class Member(NamedTuple):
    """Where a member stands in the text of its object; ends are behind the last character."""

    name: str
    name_begin: int
    name_end: int
    value_begin: int
    value_end: int


def members(text: str, values_max: int = JSON_VALUES_MAX) -> dict[str, Member]:
    """The members of the object, by their names, in their order. Raises NotAnObject."""
    try:
        encoded = text.encode()
        check_values(encoded, values_max)
        check_levels(encoded)
        found, end = _members(text)
    except NotAnObject:
        raise
    except IndexError:
        raise NotAnObject("no JSON object: it ends too early" if text.strip() else "empty") from None
    except ValueError as error:
        raise NotAnObject(f"no JSON object: {error}") from None
    if _SPACE.fullmatch(text, end) is None:
        raise NotAnObject("something stands behind the JSON object")
    return found


def _members(text: str) -> tuple[dict[str, Member], int]:
    """And where the object ends."""
    at = _expect(text, _after_space(text, 0), "{")
    found: dict[str, Member] = {}
    if text[at] == "}":
        return found, at + 1
    while True:
        name_begin = at
        if text[at] != '"':
            raise NotAnObject(f"no JSON object: no name in quotes at character {at}")
        name, name_end = _DECODER.raw_decode(text, at)
        value_begin = _expect(text, _after_space(text, name_end), ":")
        value_end = _DECODER.raw_decode(text, value_begin)[1]
        if name in found:
            raise NotAnObject(f"the name {name[:50]!r} stands there twice")
        found[name] = Member(name, name_begin, name_end, value_begin, value_end)
        at = _after_space(text, value_end)
        if text[at] == "}":
            return found, at + 1
        at = _expect(text, at, ",")


def _expect(text: str, at: int, mark: str) -> int:
    """Where the text goes on behind the mark and the space after it."""
    if text[at] != mark:
        raise NotAnObject(f"no JSON object: no {mark!r} at character {at}")
    return _after_space(text, at + 1)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None  # it matches nothing too
    return found.end()


def value_text(text: str, member: Member) -> str:
    return text[member.value_begin : member.value_end]


def with_values(text: str, values: Mapping[str, str], values_max: int = JSON_VALUES_MAX) -> str:
    """The object with these values, each given as JSON: in the place of those it has, the others at its end.

    Raises NotAnObject. Every byte outside stays as it is.
    """
    found = members(text, values_max)
    changes = [
        (found[name].value_begin, found[name].value_end, value) for name, value in values.items() if name in found
    ]
    new = [f"{json.dumps(name)}:{value}" for name, value in values.items() if name not in found]
    if new:
        last = max((member.value_end for member in found.values()), default=text.index("{") + 1)
        changes.append((last, last, ("," if found else "") + ",".join(new)))
    return _changed(text, changes)


def with_name(text: str, old: str, new: str) -> str:
    """The object with another name for one of its members. Raises NotAnObject, KeyError without such a member."""
    member = members(text)[old]
    return _changed(text, [(member.name_begin, member.name_end, json.dumps(new))])


def without(text: str, name: str) -> str:
    """The object without one of its members, which the next one's comma goes with. Raises NotAnObject, KeyError."""
    found = members(text)
    names = list(found)
    at, member = names.index(name), found[name]
    if at > 0:
        return text[: found[names[at - 1]].value_end] + text[member.value_end :]
    end = found[names[1]].name_begin if len(names) > 1 else member.value_end
    return text[: member.name_begin] + text[end:]


def items(text: str) -> list[tuple[int, int]]:
    """Where each item of a JSON array begins and ends. Raises NotAnObject for what is no array."""
    try:
        at = _expect(text, _after_space(text, 0), "[")
        found: list[tuple[int, int]] = []
        while text[at] != "]":
            if found:
                at = _expect(text, at, ",")
            end = _DECODER.raw_decode(text, at)[1]
            found.append((at, end))
            at = _after_space(text, end)
    except NotAnObject:
        raise
    except (ValueError, IndexError, RecursionError) as error:
        raise NotAnObject(f"no JSON array: {error}") from None
    return found


def with_each_item(text: str, change: Callable[[str], str]) -> str:
    """The array with each of its items changed; every byte between them stays. Raises NotAnObject."""
    return _changed(text, [(begin, end, change(text[begin:end])) for begin, end in items(text)])


def _changed(text: str, changes: list[tuple[int, int, str]]) -> str:
    pieces: list[str] = []
    at = 0
    for begin, end, value in sorted(changes):
        pieces += [text[at:begin], value]
        at = end
    return "".join([*pieces, text[at:]])
