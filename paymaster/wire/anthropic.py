"""The dialect `anthropic`: bodies of Claude's Messages API."""

import json
import re
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from paymaster.values.json_reading import object_of, text_of
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
from paymaster.wire.thinking import below_cap

_FREE = frozenset(
    {
        "model",
        "anthropic_version",  # as it is written for Vertex AI
        "messages",
        "system",
        "max_tokens",
        "metadata",
        "stop_sequences",
        "stream",
        "temperature",
        "top_p",
        "top_k",
        "tools",
        "tool_choice",
        "thinking",
        "output_format",
        "cache_control",
        "diagnostics",
        "safeguards",
        "user_profile_id",
        "workspace_id",
    }
)
"""Keys that cannot change what an answer may cost at most, beside those whose members decide it (`_needs`)."""
_FREE_WITHIN = {"output_config": frozenset({"effort", "format", "task_budget"})}
"""By key, its members that cannot."""
_CHOOSES = {
    "service_tier": ("auto", "standard_only"),
    "speed": ("standard",),
    "inference_geo": ("global", "not_available"),
}
"""By key that chooses a price, the values at which the listed one holds."""
_EDITS = frozenset({"clear_tool_uses_20250919", "clear_thinking_20251015"})
"""Edits of the context that leave something out; others have the model sum it up, for tokens of their own."""
_BLOCKS = frozenset(
    {
        "text",
        "thinking",
        "redacted_thinking",
        "tool_use",
        "tool_result",
        "search_result",
        "tool_reference",
        "server_tool_use",
        "web_search_tool_result",
        "web_search_result",
        "web_fetch_tool_result",
        "web_fetch_result",
        "code_execution_tool_result",
        "bash_code_execution_tool_result",
        "text_editor_code_execution_tool_result",
        "tool_search_tool_result",
        "mcp_tool_use",
        "mcp_tool_result",
        "mcp_tool_listing",
        "advisor_tool_result",
        "compaction",
        "fallback",
        "tool_addition",
        "tool_removal",
        "image",
        "document",
    }
)
"""Kinds of blocks that say nothing but what stands there."""
_HOLDERS = frozenset({"tool_result", "mcp_tool_result", "search_result", "web_fetch_tool_result", "web_fetch_result"})
"""Kinds of blocks that hold blocks in their content."""
_SOURCES = frozenset({"base64", "text", "content", "url"})
"""Kinds of sources of images and documents; what is behind the id of a file nobody knows."""
_TOOL_KEYS = frozenset(
    {
        "name",
        "type",
        "description",
        "input_schema",
        "cache_control",
        "strict",
        "defer_loading",
        "input_examples",
        "allowed_callers",
        "eager_input_streaming",
        "display_width_px",
        "display_height_px",
        "display_number",
        "enable_zoom",
        "max_characters",
    }
)
_OWN_TOOLS = re.compile(r"(bash|text_editor|memory|computer)_\d{8}")
"""Kinds of tools that the caller runs and Anthropic describes to the model; all others but `custom` it runs itself."""
_OWN_TOOL_BYTES = 3_000
"""For such a description. Anthropic's page "Pricing" has 245 tokens for bash, 700 for the text editor, and for the
computer 735 with 499 of its system prompt."""
_CAP = "max_tokens"
_HEADERS = frozenset({"anthropic-version", "anthropic-beta", "x-app", "x-claude-code-session-id"})
"""Of the caller, that are passed on. A key never is."""


def measured(body: bytes) -> Measured:
    """Raises BadBody."""
    data = body_object(body)
    blocks: list[dict[str, JsonValue]] = []
    seen = {**data, "system": _taken_apart(data.get("system"), blocks)}
    seen["messages"] = [
        {**message, "content": _taken_apart(message.get("content"), blocks)} for message in objects_of(data, "messages")
    ]
    tools = [*objects_of(data, "tools"), *_added_tools(blocks)]
    cap = number_of(data, _CAP, least=0)  # 0 fills the cache
    own_tools = sum(_OWN_TOOLS.fullmatch(kind_of(tool)) is not None for tool in tools)
    return Measured(
        model=model_of(data),
        input_bytes=seen_bytes(seen) + _OWN_TOOL_BYTES * own_tools,
        max_output_tokens=None if cap is None else max(1, cap),
        outputs=1,
        images=sum(kind_of(block) == "image" for block in blocks),
        documents=sum(kind_of(block) == "document" and _source_kind(block) in ("base64", "url") for block in blocks),
        streams=data.get("stream") is True,
        needs=once([*_needs(data), *_tool_needs(tools), *_block_needs(blocks)]),
        chooses=once(_chooses(data, tools, blocks)),
    )


def sent(body: bytes, *, model: str, cap: int) -> bytes:
    """The body with its model, and with no more than `cap` tokens for its output, of which thinking is a part; every
    other byte as it was."""
    data, text = body_object(body), body.decode()
    asked = number_of(data, _CAP, least=0)
    values = {"model": json.dumps(model)}
    if asked is None or asked > cap:
        values[_CAP] = str(cap)
        values |= below_cap(text, data, "thinking", "budget_tokens", cap)
    return with_values(text, values).encode()


def sent_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of the caller that a provider gets."""
    return passed_on(headers, _HEADERS)


def _needs(data: dict[str, JsonValue]) -> Iterator[str]:
    for name in unknown(data, _FREE | _CHOOSES.keys()):
        if name in _FREE_WITHIN:
            yield from unknown(object_of(data[name]), _FREE_WITHIN[name], f"{name}.")
        elif name == "context_management":
            yield from unknown(object_of(data[name]), ("edits",), f"{name}.")
            for edit in objects_of(object_of(data[name]), "edits"):
                if kind_of(edit) not in _EDITS:
                    yield f"{name}.{kind_of(edit)}"
        else:
            yield name
    for message in objects_of(data, "messages"):
        for name in unknown(message, ("role", "content")):
            if name != "output_config":
                yield f"messages.{name}"
            else:
                yield from unknown(object_of(message[name]), _FREE_WITHIN[name], f"messages.{name}.")


def _tool_needs(tools: list[dict[str, JsonValue]]) -> Iterator[str]:
    for tool in tools:
        kind = text_of(tool.get("type")) or "custom"
        if kind != "custom" and _OWN_TOOLS.fullmatch(kind) is None:
            yield f"tools.{kind}"
        else:
            yield from unknown(tool, _TOOL_KEYS, "tools.")


def _added_tools(blocks: list[dict[str, JsonValue]]) -> list[dict[str, JsonValue]]:
    """Those that a conversation defines in its middle; the others it adds are references to what stands elsewhere."""
    added = [object_of(block.get("tool")) for block in blocks if kind_of(block) == "tool_addition"]
    return [object_of(tool.get("definition")) for tool in added if "definition" in tool]


def _block_needs(blocks: list[dict[str, JsonValue]]) -> Iterator[str]:
    for block in blocks:
        kind = kind_of(block)
        if kind not in _BLOCKS:
            yield f"messages.{kind}"
        elif kind in ("image", "document") and _source_kind(block) not in _SOURCES:
            yield f"messages.{kind}.{_source_kind(block)}"


def _chooses(
    data: dict[str, JsonValue], tools: list[dict[str, JsonValue]], blocks: list[dict[str, JsonValue]]
) -> Iterator[str]:
    for name, usual in _CHOOSES.items():
        if data.get(name) is not None and data[name] not in usual:
            yield f"{name}={data[name]}"
    yield from kept_for((data, *tools, *blocks))


def _source_kind(block: dict[str, JsonValue]) -> str:
    return kind_of(object_of(block.get("source")))


def _taken_apart(content: JsonValue, found: list[dict[str, JsonValue]]) -> JsonValue:
    """The content without the data of images and documents. `found` gets its blocks, with those that they hold."""
    if isinstance(content, list):
        return [_taken_apart(each, found) for each in content]
    if not isinstance(content, dict):
        return content
    found.append(content)
    kind, source = kind_of(content), object_of(content.get("source"))
    if kind in ("image", "document") and source.get("type") == "base64":
        return {**content, "source": without(source, "data")}
    if kind == "document" and "content" in source:
        return {**content, "source": {**source, "content": _taken_apart(source["content"], found)}}
    if kind in _HOLDERS:
        return {**content, "content": _taken_apart(content.get("content"), found)}
    return content


def says_something(event: Mapping[str, JsonValue]) -> bool:
    return event.get("type") not in ("message_start", "ping", None)


GRAMMAR = Grammar(
    measured=of_body(measured),
    path_ends=("/v1/messages",),
    sent_headers=sent_headers,
    says_something=says_something,
)
