"""Requests that no message can carry, or that would make others too large: denied with a reason and what to do."""

import json
from typing import Any

import pytest
from pydantic import JsonValue

from paymaster import LLMRequest, Outcome
from paymaster.calls.request_limits import denial_of, metadata_bytes
from paymaster.messages import ChatMessage, ProviderState, Tool, ToolCall
from paymaster.values.limits import (
    BUDGET_BYTES_MAX,
    METADATA_BYTES_MAX,
    METADATA_KEYS_MAX,
    NESTING_MAX,
    REQUEST_BYTES_MAX,
    ROUTE_BYTES_MAX,
    STATE_OF_MESSAGE_BYTES_MAX,
)


def ask(**fields: object) -> LLMRequest:
    return LLMRequest.model_validate({"route": "writer", "budget": "acme", "prompt": "Hello"} | fields)


def nested(levels: int, innermost: JsonValue = 1) -> dict[str, Any]:
    """An object of so many levels, arrays in it."""
    data = innermost
    for _ in range(levels - 1):
        data = [data]
    return {"a": data}


def with_schema(data: dict[str, Any]) -> LLMRequest:
    return ask(json_schema=data)


def with_tool(data: dict[str, Any]) -> LLMRequest:
    return ask(tools=(Tool(name="look", parameters=data),))


def with_arguments(data: dict[str, Any]) -> LLMRequest:
    call = ToolCall(id="1", name="look", arguments=data)
    return ask(messages=(ChatMessage(role="assistant", content="", tool_calls=(call,)),))


def with_state(data: JsonValue) -> LLMRequest:
    state = ProviderState(api="anthropic", host="h", service="s", model="m", data=data)
    return ask(messages=(ChatMessage(role="assistant", content="", state=state),))


@pytest.mark.parametrize("build", [with_schema, with_tool, with_arguments, with_state])
@pytest.mark.parametrize("levels", [1, NESTING_MAX, NESTING_MAX + 1, 199, 201, 252, 253])
def test_a_request_is_as_deep_as_it_can_be_read(build: Any, levels: int) -> None:
    """What the libraries write and read themselves differs: 254 levels and 200."""
    request = build(nested(levels))
    denied = denial_of(request)
    if levels <= NESTING_MAX:
        assert denied is None
        assert LLMRequest.model_validate_json(request.model_dump_json()) == request
    else:
        assert denied is not None
        assert (denied.outcome, denied.reason) == (Outcome.DENIED, "nested_too_deeply")
        assert str(NESTING_MAX) in (denied.detail or "")


def test_brackets_in_texts_are_no_levels() -> None:
    words = {"description": '[{"' * 500 + "\\" * 3 + '"' + "[" * 500}
    assert denial_of(with_schema(nested(99, words))) is None  # pyright: ignore[reportArgumentType]
    assert denial_of(with_schema(nested(101, words))) is not None  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "metadata",
    [
        {"a": "x" * METADATA_BYTES_MAX},
        {"x" * METADATA_BYTES_MAX: "a"},
        {"a": "ü" * (METADATA_BYTES_MAX // 2)},
        {str(number): "" for number in range(METADATA_KEYS_MAX + 1)},
        {f"{number:02}": "x" * 250 for number in range(80)},
    ],
    ids=["a value", "a key", "not ASCII", "many keys", "together"],
)
def test_metadata_beyond_its_bound_is_denied(metadata: dict[str, str]) -> None:
    """The keys count too, and bytes, not characters."""
    denied = denial_of(ask(metadata=metadata))
    assert denied is not None
    assert (denied.outcome, denied.reason) == (Outcome.DENIED, "metadata_too_large")
    assert f"{METADATA_BYTES_MAX:,}" in (denied.detail or "")


def test_metadata_may_be_as_large_as_its_bound() -> None:
    metadata = {"ü": "x" * (METADATA_BYTES_MAX - 2)}
    assert metadata_bytes(metadata) == METADATA_BYTES_MAX
    assert denial_of(ask(metadata=metadata)) is None
    assert denial_of(ask(metadata={str(number): "" for number in range(METADATA_KEYS_MAX)})) is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"route": "r" * (ROUTE_BYTES_MAX + 1)}, "unknown_route"),
        ({"budget": "b" * (BUDGET_BYTES_MAX + 1)}, "bad_budget"),
        ({"prompt": "x" * REQUEST_BYTES_MAX}, "request_too_long"),
        ({"stop": ["x" * 200_000] * 10}, "request_too_long"),
        ({"system": "\ud800"}, "not_text"),
        ({"json_schema": {"a": ["\ud800"]}}, "not_text"),
        ({"seed": 10**5_000}, "number_too_long"),
        ({"json_schema": {"maximum": 10**5_000}}, "number_too_long"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_each_denial_has_its_reason_and_a_short_detail(fields: dict[str, object], reason: str) -> None:
    denied = denial_of(ask(**fields))
    assert denied is not None
    assert denied.reason == reason
    assert denied.detail
    assert len(json.dumps(denied.detail)) < 1_000


def test_a_request_at_every_bound_at_once_is_sent() -> None:
    request = ask(
        metadata={"a": "x" * (METADATA_BYTES_MAX - 1)},
        json_schema=nested(NESTING_MAX),
        budget="b" * BUDGET_BYTES_MAX,
        route="r" * ROUTE_BYTES_MAX,
        seed=10**4_000,
    )
    request = request.model_copy(update={"prompt": "x" * (REQUEST_BYTES_MAX - len(request.model_dump_json()))})
    assert denial_of(request) is None
    assert LLMRequest.model_validate_json(request.model_dump_json()) == request


@pytest.mark.parametrize(("length", "reason"), [(-2, None), (-1, "state_too_large")])
def test_a_state_has_a_bound_of_its_own(length: int, reason: str | None) -> None:
    denied = denial_of(with_state("x" * (STATE_OF_MESSAGE_BYTES_MAX + length)))
    assert (denied and denied.reason) == reason
