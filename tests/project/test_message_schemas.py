"""docs/schemas: up to date, and true of what crosses."""

import json
from typing import Any

import any_request
import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from paymaster import LLMRequest, LLMResult, Outcome
from paymaster.messages import BudgetNotice, EndpointRequest, ToolCall, Wire, WireAnswer
from tests.project.message_schemas import FOLDER, schemas


def schema_of(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def validator(name: str) -> Draft202012Validator:
    schema = schema_of(name)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_they_are_up_to_date() -> None:
    assert {file.name: file.read_text() for file in FOLDER.iterdir()} == schemas(), "make schemas"


@given(any_request.requests)
@settings(max_examples=50)
def test_every_request_is_of_its_schema(request: LLMRequest) -> None:
    written = request.model_dump(mode="json")
    validator("LLMRequest").validate(written)
    validator("EndpointRequest").validate(written)


def test_a_request_in_a_providers_own_format_is_too() -> None:
    wire = Wire(dialect="openai", body=b'{"model": "writer"}')
    validator("EndpointRequest").validate(EndpointRequest(route="writer", wire=wire).model_dump(mode="json"))


@pytest.mark.parametrize("wrong", [{}, {"route": 1, "prompt": "x"}, {"route": "r", "prompt": "x", "colour": "red"}])
def test_what_is_no_request_is_not(wrong: dict[str, Any]) -> None:
    assert not validator("EndpointRequest").is_valid(wrong)


def test_every_result_is_of_its_schema() -> None:
    result = LLMResult(
        outcome=Outcome.COMPLETED,
        call_id="content/1",
        text="x",
        parsed={"a": [1, None]},
        tool_calls=(ToolCall(id="1", name="look", arguments={"a": 1}),),
        budget=(BudgetNotice("budget:acme", "day", 10, 1, 0, (0.5,)),),
        wire=WireAnswer(status=200, body=b"\x00"),
    )
    validator("LLMResult").validate(result.model_dump(mode="json"))
    validator("LLMResult").validate(LLMResult(outcome=Outcome.DENIED, call_id="1").model_dump(mode="json"))


def test_every_field_is_said_in_words_but_for_plain_ones() -> None:
    schema = schema_of("EndpointRequest")
    assert [name for name, field in schema["properties"].items() if "description" not in field] == [
        "messages",
        "system",
        "temperature",
        "stop",
        "seed",
        "top_p",
    ]
    assert "RFC 1950" in schema["$defs"]["Wire"]["properties"]["body"]["description"]
