"""Google's schemas, which have words of OpenAPI, as JSON schemas."""

from collections.abc import Mapping

from pydantic import JsonValue

from paymaster.translation.neutral import Untranslatable
from paymaster.translation.reading import a_text, an_object, objects, texts
from paymaster.wire.google_json import named

_TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")
_COUNTS = frozenset({"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"})
"""Google writes such counts as texts too."""
_AS_THEY_ARE = frozenset({"format", "title", "description", "default", "minimum", "maximum", "pattern"})
_Schema = dict[str, JsonValue]


def json_schema(given: JsonValue, key: str) -> _Schema:
    """Raises Untranslatable for a word that is none of Google's, BadBody for a member that stands there twice."""
    schema = named(an_object(given, key))
    found: _Schema = {}
    for name, value in schema.items():
        if value is not None:
            found |= _said(name, value, schema, key)
    return _nullable(found) if schema.get("nullable") is True else found


def _said(name: str, value: JsonValue, schema: Mapping[str, JsonValue], key: str) -> _Schema:
    """One member in the words of JSON schema."""
    match name:
        case "type":
            return _type(value, f"{key}.type")
        case "nullable" | "propertyOrdering":  # heeded beside what they are about
            return {}
        case "properties":
            return {"properties": _properties(an_object(value, f"{key}.{name}"), schema, key)}
        case "items":
            return {"items": json_schema(value, key)}
        case "anyOf":
            return {"anyOf": [json_schema(each, key) for each in objects(value, f"{key}.{name}")]}
        case "additionalProperties":
            return {name: value if isinstance(value, bool) else json_schema(value, key)}
        case "required":
            return {name: list[JsonValue](texts(value, f"{key}.{name}"))}
        case "enum":
            return {name: _choices(value, schema, f"{key}.{name}")}
        case "example":
            return {"examples": [value]}
        case _ if name in _COUNTS:
            return {name: int(value) if isinstance(value, str) and value.isdecimal() else value}
        case _ if name in _AS_THEY_ARE:
            return {name: value}
        case _:
            raise Untranslatable(f"{key}.{name}")


def _type(value: JsonValue, key: str) -> _Schema:
    word = a_text(value, key).lower()
    if word == "type_unspecified":
        return {}
    if word not in _TYPES:
        raise Untranslatable(key)
    return {"type": word}


def _properties(given: Mapping[str, JsonValue], schema: Mapping[str, JsonValue], key: str) -> _Schema:
    """In the order in which they shall be written."""
    ordering = texts(schema.get("propertyOrdering"), f"{key}.propertyOrdering")
    order = dict.fromkeys([*(name for name in ordering if name in given), *given])
    return {name: json_schema(given[name], key) for name in order}


def _choices(value: JsonValue, schema: Mapping[str, JsonValue], key: str) -> list[JsonValue]:
    """Google writes the choices as texts, of a number too."""
    if str(schema.get("type") or "string").lower() != "string":
        raise Untranslatable(key)
    return list[JsonValue](texts(value, key))


def _nullable(schema: _Schema) -> _Schema:
    return {"anyOf": [schema, {"type": "null"}]}
