"""What a model wrote as JSON goes in and comes out the same, or is no data at all."""

import json

import pytest
from pydantic import JsonValue, TypeAdapter

from paymaster.messages import Completion, LLMResult, Outcome
from paymaster.providers.answer_parts import WrittenCall, tool_calls
from paymaster.values.json_reading import NestedTooDeeply, check_nesting, message_data, read_json
from paymaster.values.limits import NESTING_MAX

JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


def nested(levels: int, around: str = "[]") -> str:
    opening, closing = ('{"a":', "}") if around == "{}" else ("[", "]")
    return opening * levels + "1" + closing * levels


@pytest.mark.parametrize("around", ["[]", "{}"])
@pytest.mark.parametrize("levels", [0, 1, 50, NESTING_MAX])
def test_what_is_read_can_be_written_and_read_again(levels: int, around: str) -> None:
    data = message_data(nested(levels, around))
    check_nesting(data)
    assert JSON.validate_json(JSON.dump_json(data)) == data == json.loads(nested(levels, around))
    result = LLMResult(outcome=Outcome.COMPLETED, call_id="c", parsed=data)
    assert LLMResult.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize("around", ["[]", "{}"])
@pytest.mark.parametrize("levels", [NESTING_MAX + 1, 199, 200, 201, 254, 255, 900, 40_000])
def test_more_levels_are_refused_going_in_and_coming_out(levels: int, around: str) -> None:
    with pytest.raises(NestedTooDeeply):
        message_data(nested(levels, around))
    if levels < 1_000:
        with pytest.raises(NestedTooDeeply):
            check_nesting(read_json(nested(levels, around)))


def test_an_empty_list_is_a_level_too() -> None:
    assert message_data("[" * NESTING_MAX + "]" * NESTING_MAX)
    with pytest.raises(NestedTooDeeply):
        message_data("[" * (NESTING_MAX + 1) + "]" * (NESTING_MAX + 1))


@pytest.mark.parametrize("text", ["1e400", "[-1E+999]", '{"a": 1' + "0" * 310 + ".0}"])
def test_a_number_without_an_end_is_no_data(text: str) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        message_data(text)


def test_numbers_that_are_only_large_are_data() -> None:
    text = '["-Infinity", 1e100, 1e-400, ' + "9" * 400 + "]"
    assert message_data(text) == ["-Infinity", 1e100, 0.0, int("9" * 400)]


@pytest.mark.parametrize("text", ["", "[", "]", "1],[2", "1,2", "NaN", '"\\ud800"', "[" * 300, "]" * 300, "9" * 5_000])
def test_what_no_message_can_carry_is_no_data(text: str) -> None:
    with pytest.raises(ValueError, match=r"line 1 column|nested"):
        message_data(text)


@pytest.mark.parametrize("levels", [NESTING_MAX, NESTING_MAX + 1, 220, 254])
@pytest.mark.parametrize("as_text", [True, False])
def test_tool_arguments_too_deep_are_kept_as_text(levels: int, as_text: bool) -> None:
    """Some services give them as text, others as an object."""
    text = nested(levels, "{}")
    (call,) = tool_calls([WrittenCall("1", "look", text if as_text else json.loads(text))])
    if levels <= NESTING_MAX:
        assert (call.arguments, call.invalid_arguments) == (json.loads(text), None)
    else:
        assert call.arguments == {}
        assert json.loads(call.invalid_arguments or "") == json.loads(text)
    completion = Completion(text="", tool_calls=(call,), finish_reason=None, attempts=())
    assert Completion.model_validate_json(completion.model_dump_json()) == completion
