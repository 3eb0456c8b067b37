"""Whether an answer follows the JSON schema that was asked for, in bounded work whatever the two are.

JSON Schema 2020-12 as pydantic and people write it; `format` is a remark there, and `unevaluated…` and `$dynamicRef`
are not looked at. No library is used because what others check by has no bound: patterns that backtrack, choices within
choices that multiply, errors that repeat the whole answer.
"""

import json
import operator
from collections.abc import Sequence
from fractions import Fraction
from typing import NoReturn

from pydantic import JsonValue

from paymaster.providers.bounded_pattern import found_in
from paymaster.values.json_reading import list_of, object_of

WORK_MAX = 100_000
"""Schemas and values that are compared for one answer: some 0.1 s, in a thread."""
_TOLD_LENGTH_MAX = 200
_WORK_CHARACTERS = 100
"""Characters of a text that count as one value."""
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "null": (type(None),),
    "boolean": (bool,),
}
_Path = tuple[str | int, ...]


class _Broken(Exception):
    """Says where and how the answer breaks the schema."""


class _TooMuch(Exception):
    """The check would take too much work."""


def schema_problem(answer: JsonValue, schema: dict[str, JsonValue]) -> str | None:
    """Where an answer breaks the schema, in words; None when it follows it, as far as that is known.

    A check that would take too much work finds nothing: the answer is then as good as its service makes it.
    """
    try:
        _Check(schema).value(answer, schema, ())
    except _Broken as broken:
        return str(broken)
    except (_TooMuch, RecursionError):
        return None
    return None


class _Check:
    def __init__(self, root: dict[str, JsonValue]) -> None:
        self._root = root
        self._work = 0

    def value(self, value: JsonValue, schema: JsonValue, path: _Path) -> None:
        """Raises _Broken and _TooMuch."""
        self._add(1)
        if schema is False:
            _break(path, "nothing may stand here")
        if not isinstance(schema, dict):
            return
        if "$ref" in schema:
            self.value(value, self._target(schema["$ref"]), path)
        self._literals(value, schema, path)
        match value:
            case dict():
                self._object(value, schema, path)
            case list():
                self._array(value, schema, path)
            case str():
                self._string(value, schema, path)
            case int() | float() if not isinstance(value, bool):
                _number(value, schema, path)
            case _:
                pass
        self._combined(value, schema, path)

    def _add(self, work: int) -> None:
        self._work += work
        if self._work > WORK_MAX:
            raise _TooMuch

    def _follows(self, value: JsonValue, schema: JsonValue) -> bool:
        try:
            self.value(value, schema, ())
        except _Broken:
            return False
        return True

    def _target(self, reference: JsonValue) -> JsonValue:
        """What a reference within the schema means. Another one, which could be anywhere, allows everything."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            return True
        found: JsonValue = self._root
        for part in reference.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list):
                place = int(name) if name.isdecimal() and len(name) < 9 else len(found)
                if place >= len(found):
                    return True
                found = found[place]
            elif isinstance(found, dict):
                found = found.get(name, True)
            else:
                return True
        return found

    def _literals(self, value: JsonValue, schema: dict[str, JsonValue], path: _Path) -> None:
        kinds = schema.get("type")
        wanted = [kinds] if isinstance(kinds, str) else list_of(kinds)
        if wanted and not any(_is_of(value, kind) for kind in wanted):
            _break(path, f"is no {' or '.join(map(str, wanted))}")
        if "const" in schema and not self._same(value, schema["const"]):
            _break(path, f"is not {_told(schema['const'])}")
        choices = schema.get("enum")
        if isinstance(choices, list) and not any(self._same(value, choice) for choice in choices):
            _break(path, f"is none of {_told(choices)}")

    def _same(self, one: JsonValue, other: JsonValue) -> bool:
        """JSON's equality: 1 is 1.0, and not true."""
        self._add(1)
        if isinstance(one, dict) and isinstance(other, dict):
            return one.keys() == other.keys() and all(self._same(one[name], other[name]) for name in one)
        if isinstance(one, list) and isinstance(other, list):
            return len(one) == len(other) and all(map(self._same, one, other))
        return isinstance(one, bool) == isinstance(other, bool) and one == other

    def _object(self, value: dict[str, JsonValue], schema: dict[str, JsonValue], path: _Path) -> None:
        self._add(len(value))
        for name in list_of(schema.get("required")):
            if isinstance(name, str) and name not in value:
                _break((*path, name), "is missing")
        _count(len(value), schema, "Properties", path)
        properties, patterns = object_of(schema.get("properties")), object_of(schema.get("patternProperties"))
        for name, below in value.items():
            here = (*path, name)
            fitting = [patterns[each] for each in patterns if self._found(each, name)]
            if name in properties:
                fitting.append(properties[name])
            if not fitting and "additionalProperties" in schema:
                if schema["additionalProperties"] is False:
                    _break(here, "is not expected")
                fitting.append(schema["additionalProperties"])
            for each in fitting:
                self.value(below, each, here)
            if "propertyNames" in schema:
                self.value(name, schema["propertyNames"], here)
        for name, others in object_of(schema.get("dependentRequired")).items():
            missing = [each for each in list_of(others) if isinstance(each, str) and each not in value]
            if name in value and missing:
                _break((*path, missing[0]), f"is missing beside {name}")

    def _array(self, value: list[JsonValue], schema: dict[str, JsonValue], path: _Path) -> None:
        self._add(len(value))
        _count(len(value), schema, "Items", path)
        first = list_of(schema.get("prefixItems"))
        for place, (item, each) in enumerate(zip(value, first, strict=False)):
            self.value(item, each, (*path, place))
        if "items" in schema:
            for place, item in enumerate(value[len(first) :], len(first)):
                self.value(item, schema["items"], (*path, place))
        if schema.get("uniqueItems") is True:
            text = [_canonical(item) for item in value]
            self._add(sum(map(len, text)) // _WORK_CHARACTERS)
            if len(set(text)) < len(text):
                _break(path, "has an item twice")
        if "contains" in schema:
            found = sum(self._follows(item, schema["contains"]) for item in value)
            least = schema.get("minContains", 1)
            if isinstance(least, int) and found < least:
                _break(path, "lacks an item that it must contain")

    def _string(self, value: str, schema: dict[str, JsonValue], path: _Path) -> None:
        self._add(len(value) // _WORK_CHARACTERS)
        _count(len(value), schema, "Length", path)
        pattern = schema.get("pattern")
        if isinstance(pattern, str) and not self._found(pattern, value):
            _break(path, f"does not match {_told(pattern)}")

    def _found(self, pattern: str, text: str) -> bool:
        self._add(10)
        return found_in(pattern, text) is not False

    def _combined(self, value: JsonValue, schema: dict[str, JsonValue], path: _Path) -> None:
        for part in list_of(schema.get("allOf")):
            self.value(value, part, path)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                self._choice(value, list_of(schema[keyword]), path, exactly_one=keyword == "oneOf")
        if "not" in schema and self._follows(value, schema["not"]):
            _break(path, "is what it must not be")
        if "if" in schema:
            branch = "then" if self._follows(value, schema["if"]) else "else"
            self.value(value, schema.get(branch, True), path)

    def _choice(self, value: JsonValue, branches: Sequence[JsonValue], path: _Path, *, exactly_one: bool) -> None:
        problems: list[str] = []
        for branch in branches:
            try:
                self.value(value, branch, path)
            except _Broken as broken:
                problems.append(str(broken))
        fitting = len(branches) - len(problems)
        if fitting == 0:
            raise _Broken(" or ".join(dict.fromkeys(problems))[:_TOLD_LENGTH_MAX] or "fits nothing")
        if exactly_one and fitting > 1:
            _break(path, f"fits {fitting} of the choices, and may fit one")


def _break(path: _Path, how: str) -> NoReturn:
    place = ".".join(map(str, path))[:_TOLD_LENGTH_MAX] or "the answer"
    raise _Broken(f"{place} {how}")


def _told(data: JsonValue) -> str:
    return json.dumps(data, ensure_ascii=False)[:_TOLD_LENGTH_MAX]


def _canonical(data: JsonValue) -> str:
    """One text for all that JSON holds equal, but for numbers that differ in how they are written."""
    return json.dumps(data, sort_keys=True)


def _is_of(value: JsonValue, kind: JsonValue) -> bool:
    if kind in ("integer", "number"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return kind == "number" or float(value).is_integer()
    return isinstance(value, _TYPES.get(str(kind), (object,)))


def _count(found: int, schema: dict[str, JsonValue], of: str, path: _Path) -> None:
    least, most = schema.get(f"min{of}"), schema.get(f"max{of}")
    what = {"Length": "characters", "Items": "items", "Properties": "properties"}[of]
    if isinstance(least, int | float) and found < least:
        _break(path, f"has {found} {what}, at least {least:g} are wanted")
    if isinstance(most, int | float) and found > most:
        _break(path, f"has {found} {what}, at most {most:g} are wanted")


def _number(value: float, schema: dict[str, JsonValue], path: _Path) -> None:
    for keyword, is_wrong, words in (
        ("minimum", operator.lt, "less than"),
        ("maximum", operator.gt, "more than"),
        ("exclusiveMinimum", operator.le, "not more than"),
        ("exclusiveMaximum", operator.ge, "not less than"),
    ):
        limit = schema.get(keyword)
        if isinstance(limit, int | float) and is_wrong(value, limit):
            _break(path, f"is {words} {_told(limit)}")
    factor = schema.get("multipleOf")
    if isinstance(factor, int | float) and factor > 0 and Fraction(str(value)) % Fraction(str(factor)) != 0:
        _break(path, f"is no multiple of {_told(factor)}")
