"""Bodies of OpenAI's Responses API: what they may cost at most, and how little of them is changed."""

import json
from typing import Any

import pytest

from paymaster.wire.measured import BadBody, Measured
from paymaster.wire.openai_responses import measured, sent, sent_headers

IMAGE = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 100_000, "detail": "auto"}
FILE = {"type": "input_file", "filename": "a.pdf", "file_data": "A" * 100_000}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "writer", "input": "Hello"} | fields).encode()


def measure(**fields: Any) -> Measured:
    return measured(body(**fields))


def asked(*parts: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": list(parts)}]}


def test_a_plain_body_needs_nothing() -> None:
    found = measure(
        instructions="x",
        max_output_tokens=50,
        stream=True,
        temperature=0,
        reasoning={"effort": "low", "summary": "auto", "context": "all_turns"},
        text={"format": {"type": "text"}, "verbosity": "low"},
        include=["reasoning.encrypted_content"],
        store=False,
        background=False,
        previous_response_id=None,
        conversation=None,
        truncation="auto",
        prompt_cache_options={"mode": "implicit", "ttl": "30m"},
        service_tier="auto",
        tools=[
            {"type": "function", "name": "f", "parameters": {}},
            {"type": "custom", "name": "g"},
            {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "h"}]},
            {"type": "shell", "environment": {"type": "local"}},
            {"type": "apply_patch"},
            {"type": "tool_search", "execution": "client"},
        ],
        input=[
            {"role": "user", "content": "Hello"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
            {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "x"},
            {"type": "shell_call_output", "output": [{"stdout": "x", "stderr": ""}]},
            {"type": "additional_tools", "tools": [{"type": "custom", "name": "g"}]},
        ],
    )
    assert found[:1] + found[2:] == ("writer", 50, 1, 0, 0, True, (), (), 0)


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({"background": True}, ("background",)),
        ({"background_options": {"completion_window": "2h"}}, ("background_options",)),
        ({"previous_response_id": "r"}, ("previous_response_id",)),
        ({"conversation": "c"}, ("conversation",)),
        ({"prompt": {"id": "p"}}, ("prompt",)),
        ({"context_management": [{"type": "compaction"}]}, ("context_management",)),
        ({"moderation": {"model": "m"}}, ("moderation",)),
        ({"reasoning": {"mode": "pro"}}, ("reasoning.mode",)),
        ({"reasoning": {"mode": "standard"}}, ()),
        ({"reasoning": {"drafts": 2}}, ("reasoning.drafts",)),
        ({"prompt_cache_options": {"more": 1}}, ("prompt_cache_options.more",)),
        ({"a_key_of_tomorrow": 1}, ("a_key_of_tomorrow",)),
        ({"tools": [{"type": "web_search"}]}, ("tools.web_search",)),
        ({"tools": [{"type": "web_search_preview"}]}, ("tools.web_search_preview",)),
        ({"tools": [{"type": "file_search"}, {"type": "mcp"}]}, ("tools.file_search", "tools.mcp")),
        ({"tools": [{"type": "code_interpreter"}]}, ("tools.code_interpreter",)),
        ({"tools": [{"type": "image_generation"}]}, ("tools.image_generation",)),
        ({"tools": [{"type": "computer_use_preview"}]}, ("tools.computer_use_preview",)),
        ({"tools": [{"type": "tool_search"}]}, ("tools.tool_search",)),
        ({"tools": [{"type": "shell"}]}, ("tools.shell",)),
        ({"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}, ("tools.shell",)),
        ({"tools": [{"type": "namespace", "tools": [{"type": "web_search"}]}]}, ("tools.web_search",)),
        ({"input": [{"type": "additional_tools", "tools": [{"type": "mcp"}]}]}, ("tools.mcp",)),
        ({"input": [{"type": "item_reference", "id": "i"}]}, ("input.item_reference",)),
        ({"input": [{"type": "compaction_trigger"}]}, ("input.compaction_trigger",)),
        ({"input": [{"type": "odd"}]}, ("input.odd",)),
        (asked({"type": "input_audio", "input_audio": {}}), ("input.input_audio",)),
        (asked({"image_url": "https://a/b"}), ("input.untyped",)),
        ({"input": [{"type": "shell_call_output", "output": [{"stdout": "x"}]}]}, ()),
        (asked({"type": "input_image", "file_id": "f"}), ("input.input_image.file_id",)),
        (asked({"type": "input_file", "file_id": "f"}), ("input.input_file.file_id",)),
        (asked({"type": "input_file", "file_id": None, "file_url": "https://a/b"}), ()),
        (
            {"input": [{"type": "computer_call_output", "output": {"type": "computer_screenshot", "file_id": "f"}}]},
            ("input.computer_screenshot.file_id",),
        ),
    ],
)
def test_what_has_no_bound_is_named(fields: dict[str, Any], needs: tuple[str, ...]) -> None:
    assert measure(**fields).needs == needs


@pytest.mark.parametrize(
    ("fields", "chooses"),
    [
        ({"service_tier": "priority"}, ("service_tier=priority",)),
        ({"service_tier": "default"}, ()),
        ({"service_tier": None}, ()),
        ({"prompt_cache_options": {"ttl": "12h"}}, ("prompt_cache_options.ttl=12h",)),
        (
            asked({"type": "input_text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}),
            ("prompt_cache_breakpoint.ttl=12h",),
        ),
    ],
)
def test_what_chooses_a_price_is_named(fields: dict[str, Any], chooses: tuple[str, ...]) -> None:
    assert (measure(**fields).chooses, measure(**fields).needs) == (chooses, ())


def test_media_are_counted_one_by_one_wherever_they_stand() -> None:
    given: list[dict[str, Any]] = [
        {"role": "user", "content": [IMAGE, FILE, {"type": "input_text", "text": "x" * 500}]},
        {"type": "function_call_output", "call_id": "c", "output": [IMAGE]},
        {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": "A" * 100_000}},
        {"type": "image_generation_call", "id": "i", "result": "A" * 100_000},
    ]
    found = measure(input=given)
    assert (found.images, found.documents, found.needs) == (4, 1, ())
    assert 500 < found.input_bytes < 2_500


@pytest.mark.parametrize(
    "hidden",
    [
        {"type": "function_call", "arguments": "x" * 10_000, "result": "x"},
        {"type": "function_call_output", "output": "x" * 10_000},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "", "file_data": "x" * 10_000}]},
        {"type": "reasoning", "encrypted_content": "x" * 10_000, "summary": []},
        {"type": "custom_tool_call", "result": "x" * 10_000},
    ],
)
def test_what_only_looks_like_media_is_counted(hidden: dict[str, Any]) -> None:
    assert measure(input=[hidden]).input_bytes > 10_000


@pytest.mark.parametrize(
    ("item", "kept"),
    [
        ({"id": "r", "summary": [{"type": "summary_text", "text": "so"}]}, 1),
        ({"id": "r", "summary": [], "encrypted_content": None}, 1),
        ({"id": "r", "summary": [], "encrypted_content": ""}, 1),
        ({"id": "r", "summary": [], "encrypted_content": "x"}, 0),
        ({"summary": []}, 0),
    ],
)
def test_a_thought_that_is_not_there_is_counted(item: dict[str, Any], kept: int) -> None:
    """OpenAI finds it by its id, and it is input again."""
    found = measure(input=[{"type": "reasoning", **item}, {"type": "message", "id": "m", "content": "x"}])
    assert (found.kept_thoughts, found.needs) == (kept, ())


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"[]",
        b'{"input":"x"}',
        body(max_output_tokens=0),
        body(max_output_tokens=1.5),
        body(input=["x"]),
        body(input={}),
        body(tools={}),
        body(tools=[{"type": "namespace", "tools": {}}]),
    ],
)
def test_a_body_that_is_none_is_refused(wrong: bytes) -> None:
    with pytest.raises(BadBody):
        measured(wrong)


WRITTEN = b'{ "model":"writer", "temperature":1.0,"input":"\\u00e9t\\u00e9"%s }'


@pytest.mark.parametrize(
    ("asked_for", "changed"),
    [
        (b"", b',"max_output_tokens":40'),
        (b', "max_output_tokens": null', b', "max_output_tokens": 40'),
        (b', "max_output_tokens": 39', b', "max_output_tokens": 39'),
        (b', "max_output_tokens" : 41', b', "max_output_tokens" : 40'),
    ],
)
def test_the_cap_is_lowered_and_never_raised(asked_for: bytes, changed: bytes) -> None:
    assert sent(WRITTEN % asked_for, model="m-1", cap=40) == WRITTEN.replace(b"writer", b"m-1") % changed


def test_no_key_of_the_caller_is_passed_on() -> None:
    given = {
        "Authorization": "Bearer sk",
        "Cookie": "c",
        "OpenAI-Beta": "b",
        "session-id": "s",
        "chatgpt-account-id": "a",
    }
    assert sent_headers(given) == {"openai-beta": "b", "session-id": "s"}
