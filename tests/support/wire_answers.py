"""An answer of each wire format, whole and streamed, with what it means; and answers with something wrong in them."""

import json
from typing import Any

from aws_frames import frames
from hypothesis import strategies as st

from paymaster.messages import ToolCall
from paymaster.providers.aws_event_stream import as_server_sent_events
from paymaster.providers.provider import ServiceAnswer, WireUsage
from paymaster.settings import Api


def sse(*events: Any, last: str | None = None) -> str:
    """Each event as its `data:`, after an `event:` where it has a type."""
    text = ""
    for event in events:
        name = f"event: {event['type']}\n" if "type" in event else ""
        text += f"{name}data: {json.dumps(event)}\n\n"
    return text + (f"data: {last}\n\n" if last else "")


CHAT: dict[str, Any] = {
    "model": "gpt-x",
    "service_tier": "default",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "content": "Let me see.",
                "tool_calls": [{"id": "c1", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}],
            },
        }
    ],
    "usage": {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
        "completion_tokens_details": {"reasoning_tokens": 5},
    },
}
CHAT_STREAM = sse(
    {"model": "", "choices": []},
    {"model": "gpt-x", "service_tier": "default", "choices": [{"index": 0, "delta": {"content": "Let me"}}]},
    {"choices": [{"index": 0, "delta": {"content": " see."}}], "usage": None},
    {
        "choices": [
            {"delta": {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "weather", "arguments": '{"ci'}}]}}
        ]
    },
    {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": 'ty": "Bern"}'}}]}}]},
    {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
    {"choices": [], "usage": CHAT["usage"]},
    last="[DONE]",
)
CHAT_ANSWER = ServiceAnswer(
    text="Let me see.",
    tool_calls=(ToolCall(id="c1", name="weather", arguments={"city": "Bern"}),),
    finish_reason="tool_calls",
    model="gpt-x",
    usage=WireUsage(
        input_tokens=100, cached_input_tokens=60, cache_write_tokens=30, output_tokens=20, reasoning_tokens=5
    ),
    service_tier="default",
)
RESPONSE: dict[str, Any] = {
    "model": "gpt-x",
    "status": "completed",
    "output": [
        {"type": "reasoning", "summary": []},
        {"type": "message", "content": [{"type": "output_text", "text": "Let me see."}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Bern"}'},
    ],
    "usage": {
        "input_tokens": 100,
        "output_tokens": 20,
        "input_tokens_details": {"cached_tokens": 60},
        "output_tokens_details": {"reasoning_tokens": 5},
    },
}
RESPONSE_STREAM = sse(
    {"type": "response.created", "response": {"status": "in_progress"}},
    {"type": "response.output_text.delta", "delta": "Let"},
    {"type": "response.completed", "response": RESPONSE},
)
RESPONSE_ANSWER = ServiceAnswer(
    text="Let me see.",
    tool_calls=CHAT_ANSWER.tool_calls,
    finish_reason="completed",
    model="gpt-x",
    usage=WireUsage(input_tokens=100, cached_input_tokens=60, output_tokens=20, reasoning_tokens=5),
)
MESSAGE: dict[str, Any] = {
    "type": "message",
    "model": "claude-x",
    "stop_reason": "tool_use",
    "content": [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Bern"}},
    ],
    "usage": {
        "input_tokens": 10,
        "cache_creation_input_tokens": 30,
        "cache_read_input_tokens": 60,
        "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        "output_tokens": 20,
        "output_tokens_details": {"thinking_tokens": 5},
    },
}
MESSAGE_STREAM = sse(
    {
        "type": "message_start",
        "message": MESSAGE | {"content": [], "stop_reason": None, "usage": MESSAGE["usage"] | {"output_tokens": 1}},
    },
    {"type": "ping"},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Let me"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": " see."}},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "c1", "name": "weather", "input": {}},
    },
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"city"'}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ': "Bern"}'}},
    {"type": "something_new", "usage": {"output_tokens": 9_999}},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 20}},
    {"type": "message_stop"},
)
MESSAGE_ANSWER = ServiceAnswer(
    text="Let me see.",
    tool_calls=CHAT_ANSWER.tool_calls,
    finish_reason="tool_use",
    model="claude-x",
    state=[{"own": {"type": "thinking", "thinking": "hm"}}, {"text": 11}, {"call": 0}],
    usage=WireUsage(
        input_tokens=100,
        cached_input_tokens=60,
        cache_write_tokens=30,
        cache_write_1h_tokens=20,
        output_tokens=20,
        reasoning_tokens=5,
    ),
)
GEMINI: dict[str, Any] = {
    "modelVersion": "gemini-x",
    "candidates": [
        {
            "finishReason": "STOP",
            "content": {
                "parts": [
                    {"text": "hm", "thought": True},
                    {"text": "Let me see."},
                    {"functionCall": {"name": "weather", "args": {"city": "Bern"}}, "thoughtSignature": "s"},
                ]
            },
        }
    ],
    "usageMetadata": {
        "promptTokenCount": 90,
        "toolUsePromptTokenCount": 10,
        "cachedContentTokenCount": 60,
        "candidatesTokenCount": 15,
        "thoughtsTokenCount": 5,
    },
}
_PARTS = GEMINI["candidates"][0]["content"]["parts"]
GEMINI_STREAM = sse(
    {"candidates": [{"content": {"parts": _PARTS[:1]}}], "usageMetadata": {"promptTokenCount": 90}},
    {"candidates": [{"content": {"parts": [{"text": "Let me"}]}}]},
    {"candidates": [{"content": {"parts": [{"text": " see."}]}}]},
    GEMINI | {"candidates": [{"content": {"parts": _PARTS[2:]}, "finishReason": "STOP"}]},
)
GEMINI_ANSWER = ServiceAnswer(
    text="Let me see.",
    tool_calls=(ToolCall(id="call-1", name="weather", arguments={"city": "Bern"}, signature="s"),),
    finish_reason="STOP",
    model="gemini-x",
    state=[{"text": 11}, {"call": 0}],
    usage=WireUsage(input_tokens=100, cached_input_tokens=60, output_tokens=20, reasoning_tokens=5),
)
CONVERSE: dict[str, Any] = {
    "output": {
        "message": {
            "role": "assistant",
            "content": [
                {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
                {"text": "Let me see."},
                {"toolUse": {"toolUseId": "c1", "name": "weather", "input": {"city": "Bern"}}},
            ],
        }
    },
    "stopReason": "tool_use",
    "usage": {
        "inputTokens": 10,
        "outputTokens": 20,
        "totalTokens": 120,
        "cacheReadInputTokens": 60,
        "cacheWriteInputTokens": 30,
        "cacheDetails": [{"ttl": "1h", "inputTokens": 20}, {"ttl": "5m", "inputTokens": 10}],
    },
    "metrics": {"latencyMs": 551},
}
CONVERSE_EVENTS: list[tuple[str, Any]] = [
    ("messageStart", {"role": "assistant", "p": "abcd"}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "h"}}}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "m"}}}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"signature": "s"}}}),
    ("contentBlockStop", {"contentBlockIndex": 0}),
    ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "Let me"}}),
    ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": " see."}}),
    ("contentBlockStart", {"contentBlockIndex": 2, "start": {"toolUse": {"toolUseId": "c1", "name": "weather"}}}),
    ("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": '{"city"'}}}),
    ("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": ': "Bern"}'}}}),
    ("somethingNew", {"usage": {"outputTokens": 9_999}}),
    ("messageStop", {"stopReason": "tool_use"}),
    ("metadata", {"usage": CONVERSE["usage"], "metrics": {"latencyMs": 551}}),
]
CONVERSE_STREAM = as_server_sent_events(b"".join(frames(CONVERSE_EVENTS))).decode()
CONVERSE_ANSWER = ServiceAnswer(
    text="Let me see.",
    tool_calls=CHAT_ANSWER.tool_calls,
    finish_reason="tool_use",
    state=[{"own": CONVERSE["output"]["message"]["content"][0]}, {"text": 11}, {"call": 0}],
    usage=WireUsage(
        input_tokens=100,
        cached_input_tokens=60,
        cache_write_tokens=30,
        cache_write_1h_tokens=20,
        output_tokens=20,
    ),
)
ANSWERS: dict[Api, tuple[dict[str, Any], str, ServiceAnswer]] = {
    "openai": (CHAT, CHAT_STREAM, CHAT_ANSWER),
    "azure-openai": (CHAT, CHAT_STREAM, CHAT_ANSWER),
    "openai-responses": (RESPONSE, RESPONSE_STREAM, RESPONSE_ANSWER),
    "anthropic": (MESSAGE, MESSAGE_STREAM, MESSAGE_ANSWER),
    "gemini": (GEMINI, GEMINI_STREAM, GEMINI_ANSWER),
    "vertex-gemini": (GEMINI, GEMINI_STREAM, GEMINI_ANSWER),
    "vertex-claude": (MESSAGE, MESSAGE_STREAM, MESSAGE_ANSWER),
    "bedrock": (CONVERSE, CONVERSE_STREAM, CONVERSE_ANSWER),
}
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud83d"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def replaced(data: Any, draw: Any) -> Any:
    """The data with one value somewhere in it replaced by anything."""
    if isinstance(data, dict) and data and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(data)))
        return {**data, key: replaced(data[key], draw)}
    if isinstance(data, list) and data and draw(st.integers(0, 3)):
        index = draw(st.integers(0, len(data) - 1))
        return [*data[:index], replaced(data[index], draw), *data[index + 1 :]]
    return draw(junk)
