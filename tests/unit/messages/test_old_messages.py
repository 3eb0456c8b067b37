"""Messages between versions: what a released version writes is read, and what is written to it is what it knows.

`released/VERSION.json` has the JSON schema of every message of that version (`record_release.py`). Instances are made
from it; today's models read them and write them again, and the released schema judges that, with every field forbidden
that it does not have.
"""

import json
from typing import Any, cast

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paymaster_process import ROOT
from pydantic import BaseModel

from paymaster import messages
from paymaster.settings import load_settings
from paymaster.settings.desk_config import desk_config
from paymaster.values import money

FOLDER = ROOT / "tests" / "released"
RELEASED: dict[str, Any] = json.loads((FOLDER / "0.1.0.json").read_text())
SCHEMAS: dict[str, dict[str, Any]] = RELEASED["messages"]
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
VALID_BY_HAND: dict[str, st.SearchStrategy[Any]] = {
    # Their validators look at several fields together, of which a schema says nothing.
    "Image": st.sampled_from([{"url": "https://x"}, {"data": "eA==", "media_type": "image/png"}]),
    "ChatMessage": st.sampled_from(
        [
            {"role": "system", "content": "x"},
            {"role": "user", "content": "x", "images": [{"url": "https://x"}]},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "name": "f", "arguments": {"a": [1]}}]},
            {"role": "tool", "content": "x", "tool_call_id": "1"},
        ]
    ),
}
NOT_FREE = {"prompt": st.just("x"), "tools": st.just([]), "tool_choice": st.none()}
"""Fields of LLMRequest that depend on each other."""


def today(name: str) -> type[BaseModel]:
    return cast(type[BaseModel], getattr(messages, name, None) or getattr(money, name))


def instances(name: str) -> st.SearchStrategy[Any]:
    schema = SCHEMAS[name]
    return _of(schema, schema.get("$defs", {}), name)


def _of(schema: dict[str, Any], defs: dict[str, Any], name: str = "") -> st.SearchStrategy[Any]:
    """Ordinary values of a schema: today's bounds may be narrower than those of a released version."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _of(defs[name], defs, name)
    if name in VALID_BY_HAND:
        return VALID_BY_HAND[name]
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return st.one_of([_of(choice, defs) for choice in choices])
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    match schema.get("type"):
        case "object" if "properties" in schema:
            return _object(schema, defs, name)
        case "object":
            keys = schema.get("propertyNames", {"type": "string"})
            return st.dictionaries(_of(keys, defs), _of(schema.get("additionalProperties") or {}, defs), max_size=2)
        case "array":
            return st.lists(_of(schema.get("items", {}), defs), max_size=2)
        case "string":
            return _string(schema)
        case "integer":
            low = max(1, schema.get("minimum", 1))
            return st.integers(low, schema.get("maximum", low + 10**6))
        case "number":
            return st.floats(schema.get("minimum", 0), schema.get("maximum", 2), allow_nan=False).map(float)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case _:  # anything: JsonValue
            return st.recursive(
                st.none() | st.booleans() | TEXTS, lambda part: st.lists(part, max_size=2), max_leaves=3
            )


def _object(schema: dict[str, Any], defs: dict[str, Any], name: str) -> st.SearchStrategy[Any]:
    fields = {
        field: NOT_FREE[field] if name == "LLMRequest" and field in NOT_FREE else _of(kind, defs)
        for field, kind in schema["properties"].items()
    }
    always = {*schema.get("required", ()), *NOT_FREE, "kind"} & fields.keys()
    required = {field: fields[field] for field in sorted(always)}
    return st.fixed_dictionaries(required, optional={field: fields[field] for field in fields if field not in always})


def _string(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    if schema.get("format") == "duration":
        return st.sampled_from(["PT1S", "PT90S", "P1D"])
    if "pattern" in schema:
        return st.from_regex(schema["pattern"], fullmatch=True)
    return TEXTS.filter(bool) if "minLength" in schema else TEXTS


def closed(schema: Any) -> Any:
    """The schema with every field forbidden that it does not name."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {key: closed(part) for key, part in schema.items()}
    return parts | ({"additionalProperties": False} if isinstance(parts.get("properties"), dict) else {})


def test_every_message_of_a_release_is_still_there() -> None:
    assert len(SCHEMAS) > 70
    for name in SCHEMAS:
        assert issubclass(today(name), BaseModel), name


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_old_messages_are_read_and_written_as_they_were(name: str) -> None:
    judge = jsonschema.Draft202012Validator(closed(SCHEMAS[name]))
    kind = today(name)

    @settings(max_examples=10, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(instances(name))
    def check(old: Any) -> None:
        judge.validate(old)  # else the test makes what the release never wrote
        message = kind.model_validate_json(json.dumps(old))
        written = json.loads(message.model_dump_json())
        judge.validate(written)
        assert kind.model_validate_json(json.dumps(written)) == message
        required = set(SCHEMAS[name].get("properties", {})) - set(written)
        assert not required & set(SCHEMAS[name].get("required", ())), "left out what the release needs"

    check()


def test_the_kind_of_a_message_is_always_written() -> None:
    kinds = {name: schema["properties"]["kind"]["const"] for name, schema in SCHEMAS.items() if _has_kind(schema)}
    assert len(kinds) > 10
    for name, kind in kinds.items():
        field = today(name).model_fields["kind"]
        assert (field.exclude_if, field.default) == (None, kind)


def _has_kind(schema: dict[str, Any]) -> bool:
    return "kind" in schema.get("properties", {})


def test_the_judge_sees_a_field_that_is_always_written() -> None:
    class Denied(messages.Denied):
        since: int = 0

    judge = jsonschema.Draft202012Validator(closed(SCHEMAS["Denied"]))
    with pytest.raises(jsonschema.ValidationError, match="since"):
        judge.validate(json.loads(Denied(hold_id="h", reason="r", detail="d").model_dump_json()))


@pytest.mark.parametrize("file", sorted(RELEASED["config_digests"]))
def test_a_configuration_has_the_digest_that_it_had(file: str) -> None:
    """Workers of two versions with the same file must not take turns in giving it to the ledger."""
    digest = desk_config(load_settings(FOLDER / "configurations" / file, environ={})).digest
    assert digest == RELEASED["config_digests"][file]
