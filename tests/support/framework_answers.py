"""What the providers of agents of frameworks answer: first with what is to be called, then with words."""

import json
from collections.abc import Mapping
from typing import Any

from counting_server import Reply

from paymaster.values.money import TokenUsage

USAGE = TokenUsage(input_tokens=12, output_tokens=2_000)
"""Of every answer."""
Called = tuple[str, Mapping[str, Any]]
"""A tool, and with what."""


def chat(said: str | Called) -> Reply:
    """Of chat completions."""
    message: dict[str, Any] = {"role": "assistant", "content": said if isinstance(said, str) else None}
    if not isinstance(said, str):
        function = {"name": said[0], "arguments": json.dumps(said[1])}
        message["tool_calls"] = [{"id": f"call_{said[0]}", "type": "function", "function": function}]
    reason = "stop" if isinstance(said, str) else "tool_calls"
    return _reply(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "m-1",
            "choices": [{"index": 0, "finish_reason": reason, "message": message}],
            "usage": {
                "prompt_tokens": USAGE.input_tokens,
                "completion_tokens": USAGE.output_tokens,
                "total_tokens": USAGE.input_tokens + USAGE.output_tokens,
            },
        }
    )


def response(said: str | Called) -> Reply:
    """Of the Responses API."""
    text = {"type": "output_text", "text": said, "annotations": [], "logprobs": []}
    item: dict[str, Any] = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [text]}
    if not isinstance(said, str):
        item = {
            "type": "function_call",
            "id": f"fc_{said[0]}",
            "call_id": f"call_{said[0]}",
            "name": said[0],
            "arguments": json.dumps(said[1]),
            "status": "completed",
        }
    return _reply(
        {
            "id": "r",
            "object": "response",
            "created_at": 1,
            "status": "completed",
            "model": "m-1",
            "output": [item],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": {
                "input_tokens": USAGE.input_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": USAGE.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": USAGE.input_tokens + USAGE.output_tokens,
            },
        }
    )


def claude(said: str | Called, thought: str = "") -> Reply:
    """Of Claude's Messages, with what it thought before."""
    thinking = [{"type": "thinking", "thinking": thought, "signature": f"signed {thought}"}] if thought else []
    block = (
        {"type": "text", "text": said}
        if isinstance(said, str)
        else {"type": "tool_use", "id": f"toolu_{said[0]}", "name": said[0], "input": said[1]}
    )
    return _reply(
        {
            "id": "x",
            "type": "message",
            "role": "assistant",
            "model": "m-1",
            "content": [*thinking, block],
            "stop_reason": "end_turn" if isinstance(said, str) else "tool_use",
            "usage": {"input_tokens": USAGE.input_tokens, "output_tokens": USAGE.output_tokens},
        }
    )


def _reply(body: Mapping[str, Any]) -> Reply:
    return Reply(body=json.dumps(body).encode())
