"""The JSON schema of `paymaster.toml`, by which editors complete and check it."""

import json
from typing import Any, cast

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from paymaster.settings.tables import Settings

_DIALECT = "http://json-schema.org/draft-07/schema#"
"""The newest that taplo, of which the editors' extensions are made, knows for sure."""

_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum"}


class _OfTheFile(GenerateJsonSchema):
    """What may be written in the file: TOML has no null, and a bound behind a validator is a bound all the same."""

    def generate(self, schema: CoreSchema, mode: JsonSchemaMode = "validation") -> JsonSchemaValue:
        document = super().generate(schema, mode)
        tables = document.pop("$defs")
        return _closed({"$schema": _DIALECT, **document, "definitions": tables})

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        found = super().default_schema(schema)
        if found.get("default", 0) is None or isinstance(found.get("default"), dict):  # a table's keys have their own
            del found["default"]
        return found


def settings_schema() -> str:
    """The schema, as JSON text that ends with a line's end."""
    document = Settings.model_json_schema(
        ref_template="#/definitions/{model}", mode="serialization", schema_generator=_OfTheFile
    )
    document["description"] = "The configuration of Paymaster, paymaster.toml."
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _closed(schema: Any) -> Any:
    """With the standard's words for bounds, with text on one line, without names that no pattern allows."""
    if isinstance(schema, list):
        return [_closed(each) for each in cast(list[Any], schema)]
    if not isinstance(schema, dict):
        return schema
    closed = {_BOUNDS.get(name, name): _closed(value) for name, value in cast(dict[str, Any], schema).items()}
    if isinstance(closed.get("description"), str):
        closed["description"] = " ".join(closed["description"].split())
    if isinstance(closed.get("title"), str):  # a name in other letters
        del closed["title"]
    if "patternProperties" in closed:
        closed["additionalProperties"] = False
    return closed
