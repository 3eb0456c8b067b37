"""What a provider tells the SDKs that judge the gateway: a text, a call of a tool, what a schema wants."""

import base64
import json
import struct
from typing import Any

from counting_server import Received, Reply
from scripted_agents import response_events
from sdk_answers import (
    CHAT_CHUNKS,
    GEMINI_VECTORS,
    GENERATED,
    GENERATED_EVENTS,
    MESSAGE,
    MESSAGE_EVENTS,
    RESPONSE,
)

from paymaster.values.money import TokenUsage

TEXT = "é"
TOOL = ("weather", {"city": "Kiel"})
STRUCTURED = {"city": "Kiel", "degrees": 7}
VECTORS = [[0.5], [-0.5]]

_ANSWERED: dict[str, Any] = json.loads(RESPONSE)


def judged_usage(request: Received) -> TokenUsage:
    """What each answer says of itself."""
    embeds = request.path.endswith(("/embeddings", ":batchEmbedContents"))
    return TokenUsage(input_tokens=12, output_tokens=0 if embeds else 5)


def judged_reply(request: Received) -> Reply:
    """A `reply` of a FakeService, whichever API is asked."""
    path, body = request.path.partition("?")[0], request.body
    if path.endswith("/embeddings"):
        return Reply(body=_vectors(body))
    if path.endswith("/chat/completions"):
        return Reply(stream=CHAT_CHUNKS) if body.get("stream") else Reply(body=_chat(body))
    if path.endswith("/responses"):
        return (
            Reply(stream=response_events(_ANSWERED, _ANSWERED["output"][0]))
            if body.get("stream")
            else Reply(body=RESPONSE)
        )
    if path.endswith("/messages/count_tokens"):
        return Reply(free=True, body=json.dumps({"input_tokens": 12}).encode())
    if path.endswith("/messages"):
        return Reply(stream=MESSAGE_EVENTS) if body.get("stream") else Reply(body=_message(body))
    if path.endswith(":batchEmbedContents"):
        return Reply(body=GEMINI_VECTORS)
    if path.endswith(":streamGenerateContent"):
        return Reply(stream=GENERATED_EVENTS)
    return Reply(body=_generated(body))


def _chat(body: Any) -> bytes:
    name, arguments = TOOL
    message: dict[str, Any] = {"role": "assistant", "content": TEXT}
    if "tools" in body and body["messages"][-1]["role"] == "user":
        call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    elif "response_format" in body:
        message["content"] = json.dumps(STRUCTURED)
    answer = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m-1",
        "choices": [
            {"index": 0, "message": message, "finish_reason": "tool_calls" if "tool_calls" in message else "stop"}
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17},
    }
    return json.dumps(answer).encode()


def _message(body: Any) -> bytes:
    name, arguments = TOOL
    answer = json.loads(MESSAGE)
    if "tools" in body and isinstance(body["messages"][-1]["content"], str):
        answer["content"] = [{"type": "tool_use", "id": "call_1", "name": name, "input": arguments}]
        answer["stop_reason"] = "tool_use"
    elif "format" in body.get("output_config", {}):
        answer["content"] = [{"type": "text", "text": json.dumps(STRUCTURED)}]
    return json.dumps(answer).encode()


def _generated(body: Any) -> bytes:
    name, arguments = TOOL
    answer = json.loads(GENERATED)
    if "tools" in body:
        part: dict[str, Any] = {"functionCall": {"name": name, "args": arguments}}
    elif "responseMimeType" in body.get("generationConfig", {}):
        part = {"text": json.dumps(STRUCTURED)}
    else:
        part = {"text": TEXT}
    answer["candidates"][0]["content"]["parts"] = [part]
    return json.dumps(answer).encode()


def _vectors(body: Any) -> bytes:
    encoded = body.get("encoding_format") == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(struct.pack("<f", *vector)).decode() if encoded else vector,
        }
        for index, vector in enumerate(VECTORS)
    ]
    usage = {"prompt_tokens": 12, "total_tokens": 12}
    return json.dumps({"object": "list", "data": data, "model": "m-1", "usage": usage}).encode()
