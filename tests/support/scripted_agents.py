"""Providers that lead an agent of the command line through one task: a call of one of its tools, then a last word."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from counting_server import Received, Reply
from sdk_answers import event

LAST_WORD = "The task is done."
_CALL_ID = "call_1"
_USAGE = {"input_tokens": 12, "output_tokens": 5}

Item = dict[str, Any]


def of_messages(tool: str, arguments: Mapping[str, object]) -> Callable[[Received], Reply]:
    """Of Anthropic's Messages. Requests that do not offer the tool, or bring its result, get the last word."""

    def reply(request: Received) -> Reply:
        if "/count_tokens" in request.path:
            return Reply(free=True, body=json.dumps({"input_tokens": 12}).encode())
        offered = tool in _names(request.body.get("tools", ()))
        if offered and not _within(request.body["messages"], "tool_result"):
            block: Item = {"type": "tool_use", "id": _CALL_ID, "name": tool, "input": arguments}
        else:
            block = {"type": "text", "text": LAST_WORD}
        message = {
            "id": f"msg_{request.number}",
            "type": "message",
            "role": "assistant",
            "model": request.body["model"],
            "content": [block],
            "stop_reason": "tool_use" if block["type"] == "tool_use" else "end_turn",
            "stop_sequence": None,
            "usage": _USAGE,
        }
        if request.body.get("stream"):
            return Reply(stream=_message_events(message, block))
        return Reply(body=json.dumps(message).encode())

    return reply


def of_responses(tool: str, arguments: Mapping[str, object]) -> Callable[[Received], Reply]:
    """Of OpenAI's Responses, as `of_messages`."""

    def reply(request: Received) -> Reply:
        given: list[Item] = request.body["input"]
        added = [each for item in given for each in item.get("tools", ()) if item["type"] == "additional_tools"]
        offered = tool in _names([*request.body.get("tools", ()), *added])
        if offered and not _within(given, "function_call_output"):
            item: Item = {"type": "function_call", "id": "fc_1", "call_id": _CALL_ID, "name": tool}
            item |= {"arguments": json.dumps(arguments), "status": "completed"}
        else:
            text = {"type": "output_text", "text": LAST_WORD, "annotations": []}
            item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [text]}
        response = {
            "id": f"resp_{request.number}",
            "object": "response",
            "created_at": 1,
            "status": "completed",
            "model": request.body["model"],
            "output": [item],
            "usage": {**_USAGE, "total_tokens": 17},
        }
        if request.body.get("stream"):
            return Reply(stream=response_events(response, item))
        return Reply(body=json.dumps(response).encode())

    return reply


def _names(tools: Sequence[Item]) -> set[str]:
    """Of the tools, and of those that a namespace of them has."""
    return {name for tool in tools for name in (tool.get("name", ""), *_names(tool.get("tools", ())))}


def _within(value: object, kind: str) -> bool:
    """Whether something of this type is anywhere in it."""
    match value:
        case {"type": found} if found == kind:
            return True
        case dict():
            return any(_within(below, kind) for below in value.values())
        case list():
            return any(_within(below, kind) for below in value)
        case _:
            return False


def _message_events(message: Item, block: Item) -> list[str]:
    if block["type"] == "tool_use":
        begun, delta = {**block, "input": {}}, {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
    else:
        begun, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
    events: list[Item] = [
        {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": begun},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": message["stop_reason"]}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]
    return [event(each, each["type"]) for each in events]


def response_events(response: Item, item: Item) -> list[str]:
    """The stream of a response with one item."""
    where: Item = {"output_index": 0, "item_id": item["id"]}
    if item["type"] == "message":
        begun = {**item, "content": [], "status": "in_progress"}
        within: list[Item] = [
            {
                "type": "response.output_text.delta",
                **where,
                "content_index": 0,
                "delta": item["content"][0]["text"],
                "logprobs": [],
            },
        ]
    else:
        begun = {**item, "arguments": "", "status": "in_progress"}
        within = [{"type": "response.function_call_arguments.done", **where, "arguments": item["arguments"]}]
    events: list[Item] = [
        {"type": "response.created", "response": {**response, "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": begun},
        *within,
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": response},
    ]
    return [event({**each, "sequence_number": number}, each["type"]) for number, each in enumerate(events)]
