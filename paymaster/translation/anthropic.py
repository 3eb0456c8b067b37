"""The dialect `anthropic` in neutral words: what a body of the Messages API asks for."""

from base64 import b64encode
from collections.abc import Mapping

from pydantic import JsonValue

from paymaster.messages import ChatMessage, Document, Image, ReasoningEffort, Tool, ToolCall
from paymaster.messages.wire import Wire
from paymaster.translation.anthropic_answer import answered
from paymaster.translation.neutral import NeutralFields, Translation, Untranslatable, only
from paymaster.translation.reading import (
    a_number,
    a_text,
    a_tool,
    a_whole,
    an_effort,
    an_object,
    chosen,
    object_or_none,
    objects,
    only_usual,
    texts,
    with_different_names,
)
from paymaster.translation.user_turns import UserTurns
from paymaster.wire.measured import kind_of

_KNOWN = frozenset(
    {
        "model",
        "anthropic_version",
        "messages",
        "system",
        "max_tokens",
        "stop_sequences",
        "stream",
        "temperature",
        "top_p",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "cache_control",
        "metadata",  # says who asks, to Anthropic alone
    }
)
_USUAL: Mapping[str, tuple[JsonValue, ...]] = {
    "stream": (True, False),
    "service_tier": ("auto", "standard_only"),
    "speed": ("standard",),
    "inference_geo": ("global", "not_available"),
}
"""By key that needs no word of its own, the values that ask for nothing special."""
_TOOL = frozenset(
    {
        "type",
        "name",
        "description",
        "input_schema",
        "cache_control",
        "strict",  # the caller checks the arguments in any case
        "eager_input_streaming",
    }
)
_USUAL_TOOL: Mapping[str, tuple[JsonValue, ...]] = {"defer_loading": (False,), "allowed_callers": (["direct"],)}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def asked(wire: Wire, body: dict[str, JsonValue]) -> NeutralFields:
    """Raises Untranslatable."""
    only(body, _KNOWN | _USUAL.keys())
    only_usual(body, _USUAL)
    tools = with_different_names(map(_tool, objects(body.get("tools"), "tools")), "tools.name")
    output = an_object(body.get("output_config"), "output_config")
    only(output, ("effort", "format"), "output_config.")
    return NeutralFields(
        messages=(*_system(body.get("system")), *_conversation(body)),
        json_schema=_schema(output.get("format")),
        temperature=a_number(body.get("temperature"), "temperature"),
        stop=texts(body.get("stop_sequences"), "stop_sequences"),
        top_p=a_number(body.get("top_p"), "top_p"),
        max_output_tokens=a_whole(body.get("max_tokens"), "max_tokens"),
        reasoning_effort=_effort(body.get("thinking"), output.get("effort")),
        tools=tools,
        tool_choice=_choice(body.get("tool_choice"), tools),
    )


# ---------------------------------------------------------------- messages


def _system(content: JsonValue) -> list[ChatMessage]:
    """A message for each block, so that each keeps its mark."""
    return [
        ChatMessage(role="system", content=_block_text(block, "system"), cache=_is_marked(block))
        for block in _blocks(content, "system")
    ]


def _conversation(body: dict[str, JsonValue]) -> list[ChatMessage]:
    messages = objects(body.get("messages"), "messages")
    if messages and messages[-1].get("role") == "assistant":
        raise Untranslatable("messages.prefill")  # other services begin a turn of their own
    found: list[ChatMessage] = []
    for message in messages:
        only(message, ("role", "content"), "messages.")
        match message.get("role"):
            case "system":
                found += _system(message.get("content"))
            case "user":
                found += _asked(_blocks(message.get("content"), "messages.content"))
            case "assistant":
                found += _said(_blocks(message.get("content"), "messages.content"))
            case _:
                raise Untranslatable("messages.role")
    if found and _is_marked(body):  # the mark of the last block
        found[-1] = found[-1].model_copy(update={"cache": True})
    return found


def _asked(blocks: list[dict[str, JsonValue]]) -> list[ChatMessage]:
    turns = UserTurns()
    for block in blocks:
        cache = _is_marked(block)
        match kind_of(block):
            case "text":
                turns.add_text(_block_text(block, "messages.text"), cache=cache)
            case "image":
                turns.add_image(_image(block), cache=cache)
            case "document":
                turns.add_document(_document(block), cache=cache)
            case "tool_result":
                call_id = a_text(block.get("tool_use_id"), "messages.tool_result.tool_use_id")
                turns.add_result(call_id, _result(block), cache=cache)
            case kind:
                raise Untranslatable(f"messages.{kind}")
    return turns.messages()


def _said(blocks: list[dict[str, JsonValue]]) -> list[ChatMessage]:
    """One message, without the thoughts, which nobody but their provider can read; none for thoughts alone.

    Every service is given the texts of an answer before its calls.
    """
    said = [_block_text(block, "messages.text") for block in blocks if kind_of(block) == "text"]
    calls = [_call(block) for block in blocks if kind_of(block) == "tool_use"]
    for kind in map(kind_of, blocks):
        if kind not in ("text", "tool_use", "thinking", "redacted_thinking"):
            raise Untranslatable(f"messages.{kind}")
    if not said and not calls:
        return []
    # A model's text is cut into blocks anywhere, even within a word.
    text, cache = "".join(said), _is_marked(blocks[-1])
    return [ChatMessage(role="assistant", content=text, tool_calls=tuple(calls), cache=cache)]


def _is_marked(holder: Mapping[str, JsonValue]) -> bool:
    """Whether it is to be cached up to here: heeded at the end of a neutral message, elsewhere it changes no answer."""
    return holder.get("cache_control") is not None


def _blocks(content: JsonValue, key: str) -> list[dict[str, JsonValue]]:
    """A text is one block."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else objects(content, key)


def _block_text(block: dict[str, JsonValue], key: str) -> str:
    """Raises Untranslatable, also for another kind of block, and for a text that cites something."""
    if kind_of(block) != "text":
        raise Untranslatable(f"{key}.{kind_of(block)}")
    only(block, ("type", "text", "cache_control"), f"{key}.")
    return a_text(block.get("text"), key)


def _result(block: dict[str, JsonValue]) -> str:
    only(block, ("type", "tool_use_id", "content", "is_error", "cache_control"), "messages.tool_result.")
    # Blocks are apart: without a space "1" and "2" would be 12.
    parts = _blocks(block.get("content"), "messages.tool_result.content")
    text = "\n\n".join(_block_text(part, "messages.tool_result") for part in parts)
    if not text and block.get("is_error") is True:  # else the text says it too
        raise Untranslatable("messages.tool_result.is_error")
    return text


def _call(block: dict[str, JsonValue]) -> ToolCall:
    key = "messages.tool_use."
    only(block, ("type", "id", "name", "input", "caller", "cache_control"), key)
    only_usual(block, {"caller": ({"type": "direct"},)}, key)
    call_id, name = a_text(block.get("id"), f"{key}id"), a_text(block.get("name"), f"{key}name")
    return ToolCall(id=call_id, name=name, arguments=an_object(block.get("input"), f"{key}input"))


# ---------------------------------------------------------------- images and documents


def _image(block: dict[str, JsonValue]) -> Image:
    only(block, ("type", "source", "cache_control"), "messages.image.")
    source = _Source(block, "messages.image")
    if source.kind == "url":
        return Image(url=source.text("url"))
    if source.kind == "base64":
        return Image(data=source.text("data"), media_type=source.text("media_type"))
    raise Untranslatable(f"messages.image.{source.kind}")


def _document(block: dict[str, JsonValue]) -> Document:
    """A text is one in the neutral form too: a service gets it by its name and apart from what is said about it."""
    key = "messages.document."
    only(block, ("type", "source", "title", "citations", "cache_control"), key)
    only_usual(block, {"citations": ({"enabled": False}, {})}, key)
    source, title = _Source(block, "messages.document"), block.get("title")
    name: dict[str, JsonValue] = {} if title is None else {"name": a_text(title, f"{key}title")}
    match source.kind:
        case "url":
            return Document.model_validate({"url": source.text("url")} | name)
        case "base64":
            media_type = source.text("media_type")
            return Document.model_validate({"data": source.text("data"), "media_type": media_type} | name)
        case "text":
            data = b64encode(source.text("data").encode()).decode()
            facts: dict[str, JsonValue] = {"data": data, "media_type": source.text("media_type")}
            return Document.model_validate({"name": "document.txt"} | facts | name)
        case kind:
            raise Untranslatable(f"{key}{kind}")


class _Source:
    """Where an image or a document is."""

    def __init__(self, block: dict[str, JsonValue], key: str) -> None:
        self._key, self._data = key, an_object(block.get("source"), key)
        self.kind = kind_of(self._data)
        if self.kind in ("url", "base64", "text"):
            only(self._data, ("type", "url") if self.kind == "url" else ("type", "media_type", "data"), f"{key}.")

    def text(self, name: str) -> str:
        return a_text(self._data.get(name), f"{self._key}.{name}")


# ---------------------------------------------------------------- the rest


def _tool(tool: dict[str, JsonValue]) -> Tool:
    kind = a_text(tool.get("type") or "custom", "tools.type")
    if kind != "custom":
        raise Untranslatable(f"tools.{kind}")
    only(tool, _TOOL | _USUAL_TOOL.keys(), "tools.")
    only_usual(tool, _USUAL_TOOL, "tools.")
    schema = object_or_none(tool.get("input_schema"), "tools.input_schema")
    return a_tool(tool.get("name"), tool.get("description"), schema, "tools.")


def _choice(given: JsonValue, tools: tuple[Tool, ...]) -> str | None:
    choice = an_object(given, "tool_choice")
    if not choice:
        return None
    only(choice, ("type", "name", "disable_parallel_tool_use"), "tool_choice.")
    only_usual(choice, {"disable_parallel_tool_use": (False,)}, "tool_choice.")
    kind = kind_of(choice)
    if kind not in (*_CHOICES, "tool"):
        raise Untranslatable("tool_choice")
    return chosen(_CHOICES.get(kind), choice.get("name"), tools, "tool_choice")


def _schema(given: JsonValue) -> dict[str, JsonValue] | None:
    form = object_or_none(given, "output_config.format")
    if form is None:
        return None
    only(form, ("type", "schema"), "output_config.format.")
    schema = object_or_none(form.get("schema"), "output_config.format")
    if kind_of(form) != "json_schema" or schema is None:
        raise Untranslatable("output_config.format")
    return schema


def _effort(thinking: JsonValue, given: JsonValue) -> ReasoningEffort | None:
    """Thoughts are no part of a neutral answer: whether they would be shown matters only where somebody wants them."""
    config = an_object(thinking, "thinking")
    effort = an_effort(given, "output_config.effort")
    if thinking is None:
        return effort
    if kind_of(config) == "enabled":
        raise Untranslatable("thinking.budget_tokens")
    if kind_of(config) not in ("adaptive", "disabled"):
        raise Untranslatable(f"thinking.{kind_of(config)}")
    only(config, ("type", "display"), "thinking.")
    only_usual(config, {"display": ("omitted",)}, "thinking.")
    if kind_of(config) == "adaptive":
        return effort
    if effort is not None:  # of an answer without thoughts
        raise Untranslatable("output_config.effort")
    return "none"


TRANSLATION = Translation(asked=asked, answered=answered)
