"""A message that is to be cached is marked in the provider's own form, and nowhere else."""

import json
from typing import Any

import pytest
from pydantic import JsonValue
from wire import GRANT, ask, service

from paymaster.messages import ChatMessage, LLMRequest, ToolCall
from paymaster.providers.kept_state import state_of
from paymaster.providers.registry import PROVIDERS
from paymaster.settings import Api

EPHEMERAL = {"cache_control": {"type": "ephemeral"}}
BREAKPOINT = {"prompt_cache_breakpoint": {"mode": "explicit"}}
CALL = ToolCall(id="c1", name="weather", arguments={})
CONVERSATION = (
    ChatMessage(role="system", content="Be brief.", cache=True),
    ChatMessage(role="system", content="Be kind."),
    ChatMessage(role="user", content="a", cache=True),
    ChatMessage(role="assistant", content="", tool_calls=(CALL,), cache=True),
    ChatMessage(role="tool", content="sunny", tool_call_id="c1", cache=True),
    ChatMessage(role="assistant", content="b"),
)


def body(api: Api, model: str, messages: tuple[ChatMessage, ...] = CONVERSATION, base_url: str | None = None) -> Any:
    grant = GRANT.model_copy(update={"model": model})
    request: LLMRequest = ask(messages=messages)
    return PROVIDERS[api].build_request(request, grant, service(api, base_url), False).body


def test_claudes_blocks_are_marked() -> None:
    found = body("anthropic", "claude-opus-5")
    assert found["system"] == [{"type": "text", "text": "Be brief.", **EPHEMERAL}, {"type": "text", "text": "Be kind."}]
    assert found["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "a", **EPHEMERAL}]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c1", "name": "weather", "input": {}, **EPHEMERAL}],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "sunny", **EPHEMERAL}],
        },
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "Hello"},
    ]


def test_the_latest_four_marks_count() -> None:
    messages = tuple(ChatMessage(role="user", content=str(number), cache=number < 7) for number in range(9))
    found = body("anthropic", "claude-opus-5", messages)["messages"]
    assert [number for number, message in enumerate(found) if not isinstance(message["content"], str)] == [3, 4, 5, 6]


def test_a_thought_is_never_marked() -> None:
    thought: dict[str, JsonValue] = {"type": "thinking", "thinking": "hm", "signature": "s"}
    state = state_of([{"own": thought}, {"text": 1}], GRANT, service("anthropic"))
    said = ChatMessage(role="assistant", content="b", state=state, cache=True)
    found = body("anthropic", GRANT.model, (ChatMessage(role="user", content="a"), said))["messages"][1]["content"]
    assert found == [thought, {"type": "text", "text": "b", **EPHEMERAL}]


@pytest.mark.parametrize("model", ["gpt-5.6-sol", "gpt-5.10", "gpt-6-astra"])
def test_openais_parts_are_marked_but_for_the_assistants(model: str) -> None:
    chat = body("openai", model)["messages"]
    assert chat[0]["content"] == [{"type": "text", "text": "Be brief.", **BREAKPOINT}]
    assert chat[1]["content"] == "Be kind."
    assert chat[2]["content"] == [{"type": "text", "text": "a", **BREAKPOINT}]
    assert "cache" not in json.dumps(chat[3])
    assert chat[4] == {
        "role": "tool",
        "tool_call_id": "c1",
        "content": [{"type": "text", "text": "sunny", **BREAKPOINT}],
    }
    items = body("openai-responses", model)["input"]
    assert items[2]["content"] == [{"type": "input_text", "text": "a", **BREAKPOINT}]
    assert items[4]["output"] == [{"type": "input_text", "text": "sunny", **BREAKPOINT}]
    assert json.dumps(items).count("breakpoint") == 3


def test_openrouters_parts_are_marked_in_anthropics_form() -> None:
    found = body("openai", "anthropic/claude-opus-5.5", base_url="https://openrouter.ai/api/v1")["messages"]
    assert found[2]["content"] == [{"type": "text", "text": "a", **EPHEMERAL}]


@pytest.mark.parametrize("model", ["us.anthropic.claude-opus-5-5", "amazon.nova-pro-v1:0"])
def test_bedrocks_cache_points_stand_behind_what_is_cached(model: str) -> None:
    point = {"cachePoint": {"type": "default"}}
    found = body("bedrock", model)
    assert found["system"] == [{"text": "Be brief."}, point, {"text": "Be kind."}]
    assert [message["content"] for message in found["messages"]] == [
        [{"text": "a"}, point],
        [{"toolUse": {"toolUseId": "c1", "name": "weather", "input": {}}}, point],
        [{"toolResult": {"toolUseId": "c1", "content": [{"text": "sunny"}]}}, point],
        [{"text": "b"}],
        [{"text": "Hello"}],
    ]


@pytest.mark.parametrize(
    ("api", "model", "base_url"),
    [
        ("openai", "gpt-5.4", None),
        ("openai", "gpt-4.1", None),
        ("openai-responses", "gpt-5.5", None),
        ("openai", "gpt-5.6", "https://gateway.example/v1"),
        ("azure-openai", "gpt-5.6", None),
        ("gemini", "gemini-3.8-flash", None),
        ("bedrock", "us.meta.llama4-maverick-17b-instruct-v1:0", None),
        ("bedrock", "us.anthropic.claude-3-haiku-20240307-v1:0", None),
    ],
)
def test_who_takes_no_marks_is_asked_without(api: Api, model: str, base_url: str | None) -> None:
    plain = tuple(message.model_copy(update={"cache": False}) for message in CONVERSATION)
    assert body(api, model, base_url=base_url) == body(api, model, plain, base_url)
