"""Answers of other services as Claude's Messages API would give them, whole or as events."""

import json
import re
from collections.abc import Iterator

from pydantic import JsonValue

from paymaster.messages import ToolCall
from paymaster.messages.wire import Wire, WireAnswer
from paymaster.translation.neutral import Ending, NeutralAnswer, in_ascii
from paymaster.values.made_ids import is_made
from paymaster.values.money import TokenUsage

_STOP_REASONS: dict[Ending, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tools": "tool_use",
    "refused": "refusal",
}
"""`stop_sequence` is missing: which one ended an answer only Anthropic says."""
_CALL_ID = re.compile("[a-zA-Z0-9_-]+")
"""What Anthropic takes when the call goes back to it."""
_INVALID = "INVALID_JSON"
"""The argument in which Anthropic's page "Fine-grained tool streaming" has what is not JSON. All that the model wrote
is there, and no tool has an argument of this name that it might be taken for."""
_Block = dict[str, JsonValue]


def answered(wire: Wire, body: dict[str, JsonValue], answer: NeutralAnswer) -> WireAnswer:
    if body.get("stream") is not True:
        return WireAnswer(status=200, headers={"content-type": "application/json"}, body=in_ascii(_message(answer)))
    events = b"".join(_event(event) for event in _events(answer))
    return WireAnswer(status=200, headers={"content-type": "text/event-stream; charset=utf-8"}, body=events)


def _message(answer: NeutralAnswer) -> _Block:
    return {
        "id": f"msg_{answer.id}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": list[JsonValue](_content(answer)),
        **_end(answer),
        "usage": _usage(answer.usage),
    }


def _end(answer: NeutralAnswer) -> _Block:
    return {"stop_reason": _STOP_REASONS[answer.ending], "stop_sequence": None}


def _content(answer: NeutralAnswer) -> list[_Block]:
    said: list[_Block] = [{"type": "text", "text": answer.text}] if answer.text else []
    return [*said, *(_tool_use(call, answer, number) for number, call in enumerate(answer.tool_calls))]


def _tool_use(call: ToolCall, answer: NeutralAnswer, number: int) -> _Block:
    keeps_id = _CALL_ID.fullmatch(call.id) and not is_made(call.id)
    return {
        "type": "tool_use",
        "id": call.id if keeps_id else f"toolu_{answer.id}_{number}",
        "name": call.name,
        "input": call.arguments if call.invalid_arguments is None else {_INVALID: call.invalid_arguments},
    }


def _usage(usage: TokenUsage | None) -> _Block:
    """Input, cache reads and cache writes apart. The format has no word for counts that nobody knows: they are 0."""
    known = usage or TokenUsage()
    read, written = known.cached_input_tokens, known.cache_write_tokens
    return {
        "input_tokens": max(0, known.input_tokens - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": known.output_tokens,
        **({"output_tokens_details": {"thinking_tokens": known.reasoning_tokens}} if known.reasoning_tokens else {}),
    }


def _events(answer: NeutralAnswer) -> Iterator[_Block]:
    usage = _usage(answer.usage)
    begun: _Block = {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 0}}
    yield {"type": "message_start", "message": _message(answer) | begun}
    for index, block in enumerate(_content(answer)):
        start, delta = _in_two(block)
        yield {"type": "content_block_start", "index": index, "content_block": start}
        yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {"type": "message_delta", "delta": _end(answer), "usage": usage}
    yield {"type": "message_stop"}


def _in_two(block: _Block) -> tuple[_Block, _Block]:
    """The block before anything of it is there, and all of it."""
    if block["type"] == "text":
        return block | {"text": ""}, {"type": "text_delta", "text": block["text"]}
    return block | {"input": {}}, {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}


def _event(data: _Block) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (str(data["type"]).encode(), in_ascii(data))
