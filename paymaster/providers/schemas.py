"""A JSON schema in the words of each service: what a service does not know goes into the description.

What a service's words cannot say at all is CannotSay. The answer is checked against the schema as it was given
(`schema_check`), so that what is sent may say less than that, or be stricter.

Sources: OpenAI's guide "Structured model outputs" (supported schemas) and its SDK's `to_strict_json_schema`; Claude's
"Structured outputs" (JSON Schema limitations) and its SDK's `transform_schema`; Gemini's `responseJsonSchema`.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import JsonValue

from paymaster.providers.provider import UnsupportedParameter
from paymaster.values.json_reading import list_of

Schema = dict[str, JsonValue]
_NOTE_LENGTH_MAX = 200
"""Characters of one constraint in a description."""
_ANNOTATIONS = frozenset(
    ("title", "$schema", "$id", "$comment", "examples", "deprecated", "readOnly", "writeOnly", "discriminator")
)
"""Keywords that constrain nothing."""
_STRUCTURE = frozenset(
    ("$ref", "$defs", "definitions", "type", "enum", "const", "anyOf", "oneOf", "allOf", "description", "items")
) | {"properties", "required", "additionalProperties", "prefixItems"}
"""Keywords that each service has words for, or a way around."""
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_OF_TYPE = {
    "object": frozenset(("properties", "required", "additionalProperties", "minProperties", "maxProperties"))
    | {"patternProperties", "propertyNames", "dependentRequired"},
    "array": frozenset(("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains")),
    "string": frozenset(("minLength", "maxLength", "pattern", "format")),
    "integer": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
}
_OF_TYPE["number"] = _OF_TYPE["integer"]
_REFERENCE = "#/$defs/"
_LOOKAROUND = ("(?=", "(?!", "(?<=", "(?<!")


class CannotSay(ValueError):
    """A service's words have nothing for a part of a schema."""


@dataclass(frozen=True)
class Words:
    """What one kind of service understands of JSON schema."""

    keywords: frozenset[str]
    """Constraints that it takes."""
    formats: frozenset[str]
    """Values of `format` that it takes."""
    closes: bool = True
    """Objects have `additionalProperties: false`."""
    requires_all: bool = False
    """Every property is required."""
    tuples: bool = False
    """It has `prefixItems`."""
    constants: bool = True
    """It has `const`, and enums of booleans."""
    few_items: bool = False
    """It takes `minItems` of 0 and 1 only."""
    recursive: bool = True
    """Whether a schema may contain itself at all."""
    recursive_if_required: bool = True
    """Whether a schema may contain itself where it must."""
    object_only: bool = False
    """The whole must be an object, and not a choice."""


_STRING_FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"))
STRICT = Words(
    keywords=frozenset(("pattern", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"))
    | {"minItems", "maxItems"},
    formats=_STRING_FORMATS,
    requires_all=True,
    object_only=True,
)
"""OpenAI's strict mode, which most compatible servers take."""
CLAUDE = Words(keywords=frozenset(("minItems",)), formats=_STRING_FORMATS | {"uri"}, few_items=True, recursive=False)
GEMINI = Words(
    keywords=frozenset(("minimum", "maximum", "minItems", "maxItems")),
    formats=frozenset(("date-time", "date", "time")),
    closes=False,
    tuples=True,
    constants=False,
    recursive_if_required=False,
)
GROWTH_MAX, GROWTH_FREE = 2, 1_000
"""A schema as it is sent is at most so many times as long as it was given, and as many bytes: `input_bytes` counts it
twice, and a call's bound has 1,024 tokens beside."""
PROPERTIES_MAX, LEVELS_MAX, ENUM_VALUES_MAX, NAMES_LENGTH_MAX = 5_000, 10, 1_000, 120_000
"""Of a schema in OpenAI's strict mode."""


class Sent(NamedTuple):
    """A schema as it is sent to a service with OpenAI's form."""

    schema: Schema
    strict: bool
    """Whether the service keeps the answer to it. It does so only to what its strict mode can say."""


def strict_or_loose(schema: Schema) -> Sent:
    """In strict mode, or where that cannot say it as it was given, for the model to follow.

    Raises UnsupportedParameter for a schema whose answer is no object, which OpenAI refuses in both.
    """
    try:
        return Sent(_not_too_long(in_words(schema, STRICT), schema), strict=True)
    except CannotSay:
        return Sent(of_object(schema), strict=False)


def of_object(schema: Schema) -> Schema:
    """The schema with what its root refers to in place. Raises UnsupportedParameter if the answer is no object."""
    try:
        root = _resolved(schema)
    except CannotSay as error:
        raise _unsupported(error) from None
    if root.get("type") != "object":
        raise _unsupported("the answer must be an object")
    return root


def said_or_refused(schema: Schema, words: Words) -> Schema:
    """The schema in these words. Raises UnsupportedParameter, saying what they lack."""
    try:
        return _not_too_long(in_words(schema, words), schema)
    except CannotSay as error:
        raise _unsupported(error) from None


def instruction(schema: Schema) -> str:
    """A schema as a sentence, for services that promise JSON and no more. Raises UnsupportedParameter."""
    text = json.dumps(of_object(schema), ensure_ascii=False)
    return f"Answer with one JSON object and nothing else. It must follow this JSON schema: {text}"


def _unsupported(why: object) -> UnsupportedParameter:
    return UnsupportedParameter("json_schema", f"this service cannot be told this schema: {why}")


def in_words(schema: Schema, words: Words) -> Schema:
    """The schema in these words. Raises CannotSay."""
    writer = _Writer(words)
    root = _resolved(schema)
    definitions = _definitions(root)
    said = writer.node({name: value for name, value in root.items() if name not in ("$defs", "definitions")})
    if words.object_only and said.get("type") != "object":
        raise CannotSay("the answer must be an object")
    named = {name: writer.node(value) for name, value in definitions.items()}
    _check_references([said, *named.values()], named)
    if not words.recursive or not words.recursive_if_required:
        _check_recursion(said, named, only_required=words.recursive)
    if words.requires_all:
        _check_size([said, *named.values()])
    if named:
        said["$defs"] = dict[str, JsonValue](named)
    return said


def _not_too_long(said: Schema, schema: Schema) -> Schema:
    """Raises CannotSay where the bound of the call's cost has no room for it."""
    if _length(said) > GROWTH_MAX * _length(schema) + GROWTH_FREE:
        raise CannotSay("so long a schema")
    return said


def _length(schema: Schema) -> int:
    return len(json.dumps(schema, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _definitions(root: Schema) -> Mapping[str, JsonValue]:
    found = root.get("$defs", root.get("definitions", {}))
    return found if isinstance(found, dict) else {}


def _resolved(schema: Schema) -> Schema:
    """The schema, with what its root refers to in place: a root must be no reference."""
    root, seen = schema, 0
    while isinstance(reference := root.get("$ref"), str):
        target = _definitions(schema).get(_name_of(reference))
        seen += 1
        if not isinstance(target, dict) or seen > len(_definitions(schema)):
            raise CannotSay(f"{reference} leads nowhere")
        beside = {name: value for name, value in root.items() if name != "$ref"}
        root = {**target, **beside}
    return root


def _name_of(reference: str) -> str:
    prefix = next((each for each in (_REFERENCE, "#/definitions/") if reference.startswith(each)), None)
    if prefix is None:
        raise CannotSay(f"the reference {reference[:100]!r} is none to $defs")
    return reference.removeprefix(prefix).replace("~1", "/").replace("~0", "~")


class _Writer:
    def __init__(self, words: Words) -> None:
        self._words = words

    def node(self, schema: JsonValue) -> Schema:
        """One schema in these words, with all below it. Raises CannotSay."""
        if not isinstance(schema, dict):
            raise CannotSay("a value of any type" if schema is True else f"the schema {str(schema)[:100]}")
        said = self._content(schema)
        notes = self._notes(schema, said)
        if notes:
            said["description"] = notes
        if "$ref" in said and len(said) > 1:  # a reference has nothing beside it
            said["anyOf"] = [{"$ref": said.pop("$ref")}]
        return said

    def _content(self, schema: Schema) -> Schema:
        if isinstance(reference := schema.get("$ref"), str):
            escaped = _name_of(reference).replace("~", "~0").replace("/", "~1")
            return {"$ref": f"{_REFERENCE}{escaped}"}
        for keyword in ("anyOf", "oneOf"):
            if isinstance(branches := schema.get(keyword), list):
                if "properties" in schema or "items" in schema:
                    raise CannotSay(f"{keyword} beside the properties of an object")
                return {"anyOf": [self.node(branch) for branch in branches]}
        if isinstance(parts := schema.get("allOf"), list):
            if len(parts) != 1 or "properties" in schema:
                raise CannotSay("allOf of several schemas")
            return {"anyOf": [self.node(parts[0])]}
        if "const" in schema:
            return self._one_of([schema["const"]])
        if isinstance(values := schema.get("enum"), list):
            return self._one_of(values)
        types = schema.get("type")
        if isinstance(types, list):
            return self._of_types(schema, [kind for kind in types if isinstance(kind, str)])
        if not isinstance(types, str) or types not in _TYPES:
            raise CannotSay("a value of any type")
        return self._of_type(schema, types)

    def _of_types(self, schema: Schema, types: Sequence[str]) -> Schema:
        branches: list[JsonValue] = []
        for kind in types:
            if kind not in _TYPES:
                raise CannotSay(f"the type {kind[:100]!r}")
            own = _OF_TYPE.get(kind, frozenset())
            branches.append(self._of_type({name: schema[name] for name in own if name in schema}, kind))
        return {"anyOf": branches}

    def _of_type(self, schema: Schema, kind: str) -> Schema:
        match kind:
            case "object":
                return self._object(schema)
            case "array":
                return {"type": "array", **self._items(schema), **self._constraints(schema, kind)}
            case _:
                return {"type": kind, **self._constraints(schema, kind)}

    def _object(self, schema: Schema) -> Schema:
        given = schema.get("properties", {})
        properties = given if isinstance(given, dict) else {}
        beside = schema.get("additionalProperties", "properties" not in schema)
        said: Schema = {"type": "object"}
        if self._words.closes:
            if not properties and beside is not False:
                raise CannotSay("an object with any names")
            said["additionalProperties"] = False
        elif isinstance(beside, dict):
            said["additionalProperties"] = self.node(beside) if beside else True
        elif "additionalProperties" in schema:
            said["additionalProperties"] = beside
        if properties or self._words.closes:
            said["properties"] = {name: self.node(below) for name, below in properties.items()}
        required = schema.get("required", [])
        if self._words.requires_all:
            said["required"] = list[JsonValue](properties)
        elif isinstance(required, list):
            said["required"] = [name for name in required if name in properties]
        return said

    def _items(self, schema: Schema) -> Schema:
        first, items = schema.get("prefixItems"), schema.get("items")
        if isinstance(first, list) and first:
            parts = [self.node(part) for part in first]
            if self._words.tuples:
                rest = {"items": self.node(items)} if isinstance(items, dict) and items else {}
                return {"prefixItems": list(parts), **rest}
            kinds: list[JsonValue] = []
            for part in [*parts, *([self.node(items)] if isinstance(items, dict) and items else [])]:
                if part not in kinds:
                    kinds.append(part)
            return {"items": kinds[0] if len(kinds) == 1 else {"anyOf": kinds}}
        if items is None or items is True or items == {}:
            raise CannotSay("a list of values of any type")
        return {"items": self.node(items)}

    def _one_of(self, values: Sequence[JsonValue]) -> Schema:
        by_type: dict[str, list[JsonValue]] = {}
        for value in values:
            by_type.setdefault(_type_of(value), []).append(value)
        branches: list[JsonValue] = [self._enum(kind, found) for kind, found in by_type.items()]
        if not branches:
            raise CannotSay("a choice of nothing")
        only = branches[0]
        return only if len(branches) == 1 and isinstance(only, dict) else {"anyOf": branches}

    def _enum(self, kind: str, values: list[JsonValue]) -> Schema:
        if kind == "null":
            return {"type": "null"}
        if kind == "boolean" and not self._words.constants:
            return {"type": kind}
        return {"type": kind, "enum": values}

    def _constraints(self, schema: Schema, kind: str) -> Schema:
        return {
            name: value
            for name, value in schema.items()
            if name in _OF_TYPE.get(kind, ()) and name not in _STRUCTURE and self._takes(name, value)
        }

    def _takes(self, name: str, value: JsonValue) -> bool:
        if name == "format":
            return value in self._words.formats
        if name == "pattern" and isinstance(value, str) and any(each in value for each in _LOOKAROUND):
            return False
        if name == "minItems" and self._words.few_items:
            return value in (0, 1)
        return name in self._words.keywords

    def _notes(self, schema: Schema, said: Schema) -> str:
        """The description, with what the service does not know."""
        notes = [
            f"{name}: {json.dumps(value, ensure_ascii=False)[:_NOTE_LENGTH_MAX]}"
            for name, value in schema.items()
            if name not in _STRUCTURE
            and name not in _ANNOTATIONS
            and name not in said
            and not (name == "default" and value is None)
            and not _within(said, name)
        ]
        if "prefixItems" in schema and "prefixItems" not in said:
            notes.append("the items are in the order of these types")
        const = schema.get("const")
        if isinstance(const, bool) and not self._words.constants:
            notes.append(f"always {json.dumps(const)}")
        given = schema.get("description")
        description = given if isinstance(given, str) else ""
        if not notes:
            return description
        return f"{description} {{{', '.join(notes)}}}".strip()


def _within(said: Schema, name: str) -> bool:
    """Whether one of several types has taken the constraint."""
    branches = said.get("anyOf")
    return isinstance(branches, list) and any(isinstance(each, dict) and name in each for each in branches)


def _type_of(value: JsonValue) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case _:
            raise CannotSay("a choice among lists or objects")


# ---------------------------------------------------------------- what holds for the whole


def _walk(node: JsonValue, visit: Callable[[Schema, int, bool], None], level: int = 0, required: bool = True) -> None:
    """Visits every schema, with how many objects it is in and whether it must be there. References are not followed."""
    if not isinstance(node, dict):
        return
    visit(node, level, required)
    properties = node.get("properties")
    if isinstance(properties, dict):
        names = {name for name in list_of(node.get("required")) if isinstance(name, str)}
        for name, below in properties.items():
            _walk(below, visit, level + 1, required and name in names)
    for keyword in ("items", "additionalProperties"):
        _walk(node.get(keyword), visit, level, required)
    for keyword in ("anyOf", "prefixItems"):
        branches = node.get(keyword)
        for below in branches if isinstance(branches, list) else ():
            _walk(below, visit, level, required)


def _references(node: Schema, *, only_required: bool = False) -> set[str]:
    found: set[str] = set()

    def visit(schema: Schema, level: int, required: bool) -> None:
        reference = schema.get("$ref")
        if isinstance(reference, str) and (required or not only_required):
            found.add(_name_of(reference))

    _walk(node, visit)
    return found


def _check_references(nodes: Iterable[Schema], named: Mapping[str, Schema]) -> None:
    for node in nodes:
        if missing := _references(node) - named.keys():
            raise CannotSay(f"#/$defs/{min(missing)[:100]} leads nowhere")


def _check_recursion(root: Schema, named: Mapping[str, Schema], *, only_required: bool) -> None:
    below = {name: _references(node, only_required=only_required) for name, node in named.items()}
    begun, ended = set[str](), set[str]()
    waiting = [(name, False) for name in sorted(_references(root) | named.keys())]
    while waiting:
        name, is_left = waiting.pop()
        if is_left:
            begun.discard(name)
            ended.add(name)
        elif name in begun:
            raise CannotSay(f"{name[:100]} contains itself")
        elif name not in ended:
            begun.add(name)
            waiting.append((name, True))
            waiting += [(each, False) for each in below[name]]


def _check_size(nodes: Iterable[Schema]) -> None:
    properties = names = values = 0
    deepest = 0

    def visit(schema: Schema, level: int, required: bool) -> None:
        nonlocal properties, names, values, deepest
        deepest = max(deepest, level)
        if isinstance(below := schema.get("properties"), dict):
            properties += len(below)
            names += sum(map(len, below))
        if isinstance(choices := schema.get("enum"), list):
            values += len(choices)
            names += sum(len(each) for each in choices if isinstance(each, str))

    for node in nodes:
        _walk(node, visit)
    if properties > PROPERTIES_MAX or values > ENUM_VALUES_MAX or names > NAMES_LENGTH_MAX or deepest > LEVELS_MAX:
        raise CannotSay("so large a schema")
