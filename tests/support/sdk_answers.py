"""Answers of providers that the types of their SDKs take."""

import json
from typing import Any

_CHUNK: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m-1"}


def event(data: dict[str, Any], name: str | None = None) -> str:
    """Of a stream. `name` None: it has none, as in chat completions."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {json.dumps(data)}\n\n"


CHAT_CHUNKS = [
    event({**_CHUNK, "choices": [{"index": 0, "delta": {"content": "aé"}}]}),
    event({**_CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
    event({**_CHUNK, "choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}}),
    "data: [DONE]\n\n",
]
VECTORS = json.dumps(
    {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": [0.5 - index]} for index in range(2)],
        "model": "m-1",
        "usage": {"prompt_tokens": 12, "total_tokens": 12},
    }
).encode()
_RESPONSE = {
    "id": "r",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "m-1",
    "output": [
        {
            "type": "message",
            "id": "m",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "é", "annotations": []}],
        }
    ],
    "usage": {"input_tokens": 12, "output_tokens": 5, "total_tokens": 17},
}
RESPONSE = json.dumps(_RESPONSE).encode()
RESPONSE_EVENTS = [
    event({"type": name, "sequence_number": number, "response": {**_RESPONSE, **changed}}, name)
    for number, (name, changed) in enumerate(
        [("response.created", {"status": "in_progress", "output": []}), ("response.completed", {})]
    )
]
_MESSAGE: dict[str, Any] = {"id": "x", "type": "message", "role": "assistant", "model": "m-1"}
_USAGE = {"input_tokens": 12, "output_tokens": 5}
MESSAGE = json.dumps(
    {**_MESSAGE, "content": [{"type": "text", "text": "é"}], "stop_reason": "end_turn", "usage": _USAGE}
).encode()
MESSAGE_EVENTS = [
    event(data, str(data["type"]))
    for data in (
        {"type": "message_start", "message": {**_MESSAGE, "content": [], "usage": {**_USAGE, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "é"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    )
]
_GENERATED: dict[str, Any] = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": "é"}]}, "finishReason": "STOP"}],
    "modelVersion": "m-1",
    "usageMetadata": {"promptTokenCount": 12, "candidatesTokenCount": 5},
}
GENERATED = json.dumps(_GENERATED).encode()
GENERATED_EVENTS = [
    event({"candidates": [{"content": {"role": "model", "parts": [{"text": "a"}]}}]}),
    event(_GENERATED),
]
GEMINI_VECTORS = json.dumps(
    {"embeddings": [{"values": [0.5]}, {"values": [-0.5]}], "usageMetadata": {"promptTokenCount": 12}}
).encode()
