"""Parts that the answers of all providers have: an object of JSON, and calls of tools."""

import json
from collections.abc import Iterable
from typing import NamedTuple

from pydantic import JsonValue

from paymaster.messages import ToolCall
from paymaster.providers.provider import MalformedAnswer
from paymaster.redaction import redact
from paymaster.values.json_reading import (
    NestedTooDeeply,
    TooManyValues,
    message_data,
    read_json,
    read_without_likelihoods,
    text_of,
)
from paymaster.values.limits import ANSWER_BYTES_MAX


def answer_object(body: bytes) -> dict[str, JsonValue]:
    """The object that an answer must be. Raises MalformedAnswer."""
    try:
        data = _read(body)
    except (TooManyValues, NestedTooDeeply) as error:
        raise MalformedAnswer(f"{error}; this begins with {body[:200]!r}") from None
    except ValueError:
        raise MalformedAnswer(f"not JSON: {body[:200]!r}") from None
    if isinstance(data, list) and len(data) == 1:  # Google's streaming endpoint wraps an error so
        data = data[0]
    if not isinstance(data, dict):
        raise MalformedAnswer(f"not an object: {start_of(data)}")
    return data


def _read(body: bytes) -> JsonValue:
    try:
        return read_json(body)
    except TooManyValues:
        if b'"logprob"' not in body:
            raise
        return read_without_likelihoods(body)


def start_of(data: JsonValue) -> str:
    """For an error's text: what the data begin with, searched for keys before it is cut."""
    return redact(dumped(data))[:200]


class WrittenCall(NamedTuple):
    """A call of a tool, as a model wrote it."""

    id: str
    name: str
    arguments: JsonValue
    """An object, or JSON text that ought to hold one."""
    signature: str | None = None


def tool_calls(calls: Iterable[WrittenCall]) -> tuple[ToolCall, ...]:
    """The calls with their arguments as data; as text where they are none, or those of all calls are too many."""
    found: list[ToolCall] = []
    text_left = ANSWER_BYTES_MAX
    for call in calls:
        written = call.arguments if isinstance(call.arguments, str) else dumped(call.arguments)
        if written.strip() in ("", "null"):  # optional, and left out
            written = ""
        text_left -= len(written)
        try:
            data = message_data(written or "{}") if text_left >= 0 else None
        except ValueError:
            data = None
        facts: dict[str, JsonValue] = {"id": call.id, "name": call.name, "signature": call.signature}
        facts |= {"arguments": data} if isinstance(data, dict) else {"invalid_arguments": text_of(written)}
        found.append(ToolCall.model_validate(facts))
    return tuple(found)


def dumped(data: JsonValue) -> str:
    """The data as JSON text; empty when it is nested too deeply for that."""
    try:
        return json.dumps(data, ensure_ascii=False)
    except RecursionError:
        return ""
