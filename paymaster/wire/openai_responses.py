"""The dialect `openai-responses`: bodies of OpenAI's Responses API."""

import json
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from paymaster.values.json_reading import list_of, object_of, text_of
from paymaster.wire.caching import kept_for
from paymaster.wire.grammar import Grammar, of_body, passed_on
from paymaster.wire.measured import (
    Measured,
    body_object,
    kind_of,
    model_of,
    number_of,
    objects_of,
    once,
    seen_bytes,
    unknown,
    without,
)
from paymaster.wire.members import with_values

_FREE = frozenset(
    {
        "model",
        "input",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "top_logprobs",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "text",
        "include",
        "truncation",
        "metadata",
        "client_metadata",
        "store",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "access_programs",
    }
)
"""Keys that cannot change what an answer may cost at most, beside those whose members decide it (`_needs`)."""
_FREE_WITHIN = {
    "reasoning": frozenset({"effort", "summary", "generate_summary", "context"}),
    "prompt_cache_options": frozenset({"mode", "ttl", "prewarm", "comparison_response_id"}),
    "image": frozenset({"context_compression"}),
}
"""By key, its members that cannot."""
_USUAL: Mapping[str, tuple[JsonValue, ...]] = {
    "background": (False,),
    "reasoning.mode": ("standard",),
}
"""By key, the values at which it changes nothing."""
_USUAL_TIERS = (None, "auto", "default")
_TOOLS = frozenset({"function", "custom", "local_shell", "apply_patch", "tool_search", "namespace"})
"""Kinds of tools that the caller runs; all others the provider runs, for a fee and with input of its own."""
_ITEMS = frozenset(
    {
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "local_shell_call",
        "local_shell_call_output",
        "shell_call",
        "shell_call_output",
        "apply_patch_call",
        "apply_patch_call_output",
        "web_search_call",
        "file_search_call",
        "code_interpreter_call",
        "mcp_list_tools",
        "mcp_call",
        "mcp_approval_request",
        "mcp_approval_response",
        "tool_search_call",
        "tool_search_output",
        "additional_tools",
        "configuration_update",
        "compaction",
        "computer_call",
        "computer_call_output",
        "image_generation_call",
    }
)
"""Kinds of input items that say nothing but what stands there."""
_PARTS = frozenset({"input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text"})
"""Kinds of parts that are text."""
_BYTES = {"input_image": "image_url", "computer_screenshot": "image_url", "input_file": "file_data"}
"""By kind of part, its field that holds what is no text."""
_CAP = "max_output_tokens"
_HEADERS = frozenset(
    {
        "openai-beta",
        "http-referer",
        "x-title",
        "session-id",
        "thread-id",
        "originator",
        "version",
        "x-codex-beta-features",
        "x-codex-turn-metadata",
        "x-codex-window-id",
        "x-openai-internal-codex-responses-lite",
    }
)
"""Of the caller, that are passed on. A key never is."""


def measured(body: bytes) -> Measured:
    """Raises BadBody."""
    data = body_object(body)
    items = [] if isinstance(data.get("input"), str) else objects_of(data, "input")
    parts = [part for item in items for part in _parts(item)]
    return Measured(
        model=model_of(data),
        input_bytes=seen_bytes(seen(data)),
        max_output_tokens=number_of(data, _CAP),
        outputs=1,
        images=sum(kind_of(each) in ("input_image", "computer_screenshot", "image_generation_call") for each in parts),
        documents=sum(kind_of(each) == "input_file" for each in parts),
        streams=data.get("stream") is True,
        needs=once(_needs(data, items, parts)),
        chooses=once(_chooses(data, items, parts)),
        kept_thoughts=sum(_is_kept_thought(item) for item in items),
    )


def seen(data: dict[str, JsonValue]) -> JsonValue:
    """What of a body a tokenizer may make tokens of: all but images and documents. Raises BadBody."""
    if not isinstance(data.get("input"), list):
        return data
    return {**data, "input": [_reduced(item) for item in objects_of(data, "input")]}


def has_sealed_thoughts(data: dict[str, JsonValue]) -> bool:
    """Whether what was thought before stands in it as a text that says nothing of its tokens. Raises BadBody."""
    items = [] if isinstance(data.get("input"), str) else objects_of(data, "input")
    return any(item.get("encrypted_content") is not None for item in items)


def sent(body: bytes, *, model: str, cap: int) -> bytes:
    """The body with its model, and with no more than `cap` tokens for its output; every other byte as it was."""
    asked = number_of(body_object(body), _CAP)
    values = {"model": json.dumps(model)}
    if asked is None or asked > cap:
        values[_CAP] = str(cap)
    return with_values(body.decode(), values).encode()


def sent_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of the caller that a provider gets."""
    return passed_on(headers, _HEADERS)


def _needs(
    data: dict[str, JsonValue], items: list[dict[str, JsonValue]], parts: list[dict[str, JsonValue]]
) -> Iterator[str]:
    for name in unknown(data, _FREE | {"service_tier"}):
        if name not in _FREE_WITHIN:
            if data[name] not in _USUAL.get(name, ()):
                yield name
            continue
        for within in unknown(object_of(data[name]), _FREE_WITHIN[name], f"{name}."):
            if object_of(data[name])[within.removeprefix(f"{name}.")] not in _USUAL.get(within, ()):
                yield within
    yield from _tool_needs(objects_of(data, "tools"))
    for item in items:
        kind = _item_kind(item)
        if kind not in _ITEMS:
            yield f"input.{kind}"
        yield from _tool_needs(objects_of(item, "tools") if kind in ("additional_tools", "tool_search_output") else [])
    for part in parts:
        kind = kind_of(part)
        if "file_id" in part and part["file_id"] is not None:
            yield f"input.{kind}.file_id"
        elif kind not in _PARTS and kind not in _BYTES and kind != "image_generation_call":
            yield f"input.{kind}"


def _chooses(
    data: dict[str, JsonValue], items: list[dict[str, JsonValue]], parts: list[dict[str, JsonValue]]
) -> Iterator[str]:
    if data.get("service_tier") not in _USUAL_TIERS:
        yield f"service_tier={data['service_tier']}"
    yield from kept_for((data, *items, *parts))


def _tool_needs(tools: list[dict[str, JsonValue]]) -> Iterator[str]:
    """Of a namespace, what its tools need."""
    for tool in tools:
        kind = kind_of(tool)
        runs_here = kind == "shell" and object_of(tool.get("environment")).get("type") == "local"
        searches_there = kind == "tool_search" and tool.get("execution") != "client"
        if (kind not in _TOOLS and not runs_here) or searches_there:
            yield f"tools.{kind}"
        if kind == "namespace":
            yield from _tool_needs(objects_of(tool, "tools"))


def _is_kept_thought(item: dict[str, JsonValue]) -> bool:
    """Whether the provider finds by its id what was thought; a summary is not what counts."""
    return kind_of(item) == "reasoning" and not text_of(item.get("encrypted_content")) and item.get("id") is not None


def _item_kind(item: dict[str, JsonValue]) -> str:
    """A message need not say that it is one."""
    return "message" if item.get("type") is None and "role" in item else kind_of(item)


def _parts(item: dict[str, JsonValue]) -> list[dict[str, JsonValue]]:
    """What it holds, each with a kind; an image that was made there counts as one itself."""
    if kind_of(item) == "image_generation_call":
        return [item]
    held = item.get("output" if _item_kind(item).endswith("_output") else "content")
    if isinstance(held, dict):  # a screenshot
        return [held]
    # What a shell wrote has no kind; elsewhere some server might tell the kind by the other members.
    shell = _item_kind(item) == "shell_call_output"
    return [part for part in list_of(held) if isinstance(part, dict) and ("type" in part or not shell)]


def _reduced(item: dict[str, JsonValue]) -> JsonValue:
    """The item without what is no text."""
    if kind_of(item) == "image_generation_call":
        return without(item, "result")
    for name in ("output", "content"):
        held = item.get(name)
        if isinstance(held, dict):
            item = {**item, name: _without_bytes(held)}
        elif isinstance(held, list):
            item = {**item, name: [_without_bytes(part) if isinstance(part, dict) else part for part in held]}
    return item


def _without_bytes(part: dict[str, JsonValue]) -> JsonValue:
    return without(part, _BYTES.get(kind_of(part), ""))


def says_something(event: Mapping[str, JsonValue]) -> bool:
    return event.get("type") not in ("response.created", "response.queued", "response.in_progress", None)


GRAMMAR = Grammar(
    measured=of_body(measured),
    path_ends=("/responses",),
    sent_headers=sent_headers,
    says_something=says_something,
)
