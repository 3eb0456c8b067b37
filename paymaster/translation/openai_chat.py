"""The dialect `openai`: chat completions in neutral words, and an answer as a chat completion."""

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from paymaster.messages import ChatMessage, Tool, ToolCall
from paymaster.messages.wire import Wire, WireAnswer
from paymaster.translation.neutral import Ending, NeutralAnswer, NeutralFields, Translation, Untranslatable, only
from paymaster.translation.openai_parts import (
    MARKS,
    calls_of,
    check_arguments,
    document_of,
    event,
    image_of,
    is_marked,
    marked_parts,
    parts_of,
    schema_of,
    streamed,
    text_of_part,
    tool_call_of,
    tool_choice_of,
    tool_of,
    whole,
    without_usual,
    written_arguments,
)
from paymaster.translation.reading import a_number, a_whole, an_effort, object_or_none, with_different_names
from paymaster.translation.user_turns import UserTurns
from paymaster.values.json_reading import object_of
from paymaster.values.money import TokenUsage
from paymaster.wire.measured import kind_of, number_of, objects_of

_ASKED = frozenset(
    {
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "response_format",
        "temperature",
        "top_p",
        "stop",
        "seed",
        "reasoning_effort",
        "tools",
        "tool_choice",
    }
)
"""Keys that have a neutral word."""
_LET_GO = frozenset(
    {
        "model",
        "stream",
        "stream_options",
        "user",
        "safety_identifier",
        "metadata",
        "store",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
    }
)
"""Keys that cannot change what is answered."""
_USUAL: Mapping[str, tuple[JsonValue, ...]] = {
    "n": (1,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "service_tier": ("auto", "default"),
    "verbosity": ("medium",),
}
"""By key, the values at which it changes nothing."""
_CAPS = ("max_completion_tokens", "max_tokens")
_OF_MESSAGES = frozenset({"role", "content"}) | MARKS
_OF_ANSWERS = frozenset(
    {"tool_calls", "refusal", "annotations", "reasoning", "reasoning_content", "reasoning_details"} | _OF_MESSAGES
)
"""Keys of an assistant's message; what it says of annotations and reasoning is let go: it is the provider's own."""
_OF_CALLS = frozenset({"id", "type", "index", "function", "extra_content"})
"""Keys of a call in an assistant's message; the last one is for the provider alone that wrote it."""
_FINISH_REASONS: Mapping[Ending, str] = {
    "stop": "stop",
    "length": "length",
    "tools": "tool_calls",
    "refused": "content_filter",
}


# ---------------------------------------------------------------- asking


def _asked(wire: Wire, body: dict[str, JsonValue]) -> NeutralFields:
    only(without_usual(body, _USUAL), _ASKED | _LET_GO)
    caps = [cap for name in _CAPS if (cap := number_of(body, name)) is not None]
    tools = with_different_names(map(_tool, objects_of(body, "tools")), "tools.name")
    choice = body.get("tool_choice")
    return {
        "messages": tuple(_messages(objects_of(body, "messages"))),
        "json_schema": _schema(object_or_none(body.get("response_format"), "response_format")),
        "temperature": a_number(body.get("temperature"), "temperature"),
        "top_p": a_number(body.get("top_p"), "top_p"),
        "stop": _stop(body.get("stop")),
        "seed": a_whole(body.get("seed"), "seed", least=-(2**63)),
        "max_output_tokens": min(caps, default=None),
        "reasoning_effort": an_effort(body.get("reasoning_effort"), "reasoning_effort"),
        "tools": tools,
        "tool_choice": tool_choice_of(choice, object_of(object_of(choice).get("function")).get("name"), tools),
    }


def _messages(messages: list[dict[str, JsonValue]]) -> Iterator[ChatMessage]:
    calls = [object_of(call.get("function")) for message in messages for call in objects_of(message, "tool_calls")]
    check_arguments(call.get("arguments") for call in calls)
    for message in messages:
        match message.get("role"):
            case "system" | "developer":
                yield from _told(message)
            case "user":
                yield from _user(message)
            case "assistant":
                yield _said(message)
            case "tool":
                yield _result(message)
            case role:
                raise Untranslatable(f"messages.{role}" if isinstance(role, str) else "messages.role")


def _told(message: dict[str, JsonValue]) -> Iterator[ChatMessage]:
    """A message for each text: joined they would be another one."""
    only(message, _OF_MESSAGES, "messages.")
    for part, cache in marked_parts(message, "messages"):
        yield ChatMessage(role="system", content=text_of_part(part, {"text"}, "messages"), cache=cache)


def _user(message: dict[str, JsonValue]) -> list[ChatMessage]:
    only(message, _OF_MESSAGES, "messages.")
    turns = UserTurns()
    for part, cache in marked_parts(message, "messages"):
        _add(turns, part, cache=cache)
    return turns.messages()


def _add(turns: UserTurns, part: dict[str, JsonValue], *, cache: bool) -> None:
    kind = kind_of(part)
    if kind not in ("image_url", "file"):
        turns.add_text(text_of_part(part, {"text"}, "messages"), cache=cache)
        return
    only(part, {"type", kind} | MARKS, f"messages.{kind}.")
    held = without_usual(object_of(part.get(kind)), {"detail": ("auto",)})
    if kind == "image_url":
        only(held, {"url"}, "messages.image_url.")
        turns.add_image(image_of(held.get("url"), "messages.image_url"), cache=cache)
    else:
        only(held, {"filename", "file_data"}, "messages.file.")
        document = document_of(held.get("file_data"), held.get("filename"), "messages.file")
        turns.add_document(document, cache=cache)


def _said(message: dict[str, JsonValue]) -> ChatMessage:
    only(message, _OF_ANSWERS, "messages.")
    refusal = {"type": "refusal", "refusal": message["refusal"]} if message.get("refusal") else None
    parts = parts_of(message["content"], "messages") if message.get("content") else []
    texts = [text_of_part(part, {"text", "refusal"}, "messages") for part in [*parts, *([refusal] if refusal else [])]]
    return ChatMessage(
        role="assistant",
        content="".join(texts),  # one answer, in pieces
        tool_calls=tuple(_call(call) for call in objects_of(message, "tool_calls")),
        cache=is_marked(message, *parts),
    )


def _call(call: dict[str, JsonValue]) -> ToolCall:
    if "function" not in call:
        raise Untranslatable(f"messages.tool_calls.{kind_of(call)}")
    only(call, _OF_CALLS, "messages.tool_calls.")
    function = object_of(call["function"])
    only(function, {"name", "arguments"}, "messages.tool_calls.")
    return tool_call_of(call.get("id"), function.get("name"), function.get("arguments"), "messages.tool_calls")


def _result(message: dict[str, JsonValue]) -> ChatMessage:
    only(message, _OF_MESSAGES | {"tool_call_id"}, "messages.")
    call_id, parts = message.get("tool_call_id"), parts_of(message.get("content"), "messages")
    if not isinstance(call_id, str):
        raise Untranslatable("messages.tool_call_id")
    text = "".join(text_of_part(part, {"text"}, "messages") for part in parts)
    return ChatMessage(role="tool", content=text, tool_call_id=call_id, cache=is_marked(message, *parts))


def _tool(tool: dict[str, JsonValue]) -> Tool:
    function = tool.get("function")
    if tool.get("type", "function") != "function" or not isinstance(function, dict):
        raise Untranslatable(f"tools.{kind_of(tool)}")
    only(tool, {"type", "function", "cache_control"}, "tools.")
    return tool_of(function)


def _schema(asked: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
    if asked is None:
        return None
    only(asked, {"type", "json_schema"}, "response_format.")
    described = object_or_none(asked.get("json_schema"), "response_format.json_schema")
    return schema_of(kind_of(asked), described, "response_format")


def _stop(stop: JsonValue) -> tuple[str, ...]:
    listed = stop if isinstance(stop, list) else [] if stop is None else [stop]
    texts = tuple(text for text in listed if isinstance(text, str))
    if len(texts) < len(listed):
        raise Untranslatable("stop")
    return texts


# ---------------------------------------------------------------- answering


def _answered(wire: Wire, body: dict[str, JsonValue], answer: NeutralAnswer) -> WireAnswer:
    if body.get("stream") is True:
        return streamed(_events(answer, wants_usage=object_of(body.get("stream_options")).get("include_usage") is True))
    message: dict[str, JsonValue] = {"role": "assistant", **_text(answer), "annotations": []}
    if answer.tool_calls:
        message["tool_calls"] = [_written(call, written_arguments(call)) for call in calls_of(answer)]
    choice = _choice({"message": message}, _finish_reason(answer))
    return whole(_head(answer, "chat.completion") | {"choices": [choice]} | _usage(answer.usage))


def _events(answer: NeutralAnswer, *, wants_usage: bool) -> Iterator[str]:
    """A text is one delta, a call two: its beginning and its arguments."""
    head = _head(answer, "chat.completion.chunk") | ({"usage": None} if wants_usage else {})
    for delta in _deltas(answer):
        yield event(head | {"choices": [_choice({"delta": delta}, None)]})
    yield event(head | {"choices": [_choice({"delta": {}}, _finish_reason(answer))]})
    if wants_usage and answer.usage is not None:
        yield event(head | {"choices": []} | _usage(answer.usage))
    yield "data: [DONE]\n\n"


def _deltas(answer: NeutralAnswer) -> Iterator[dict[str, JsonValue]]:
    said = _text(answer)
    yield {"role": "assistant", **{name: None if text is None else "" for name, text in said.items()}}
    for name, text in said.items():
        if text:
            yield {name: text}
    for index, call in enumerate(calls_of(answer)):
        begun: JsonValue = {"index": index, **_written(call, "")}
        yield {"tool_calls": [begun]}
        arguments: JsonValue = {"index": index, "function": {"arguments": written_arguments(call)}}
        yield {"tool_calls": [arguments]}


def _text(answer: NeutralAnswer) -> dict[str, JsonValue]:
    if answer.ending == "refused":
        return {"content": None, "refusal": answer.text or None}
    return {"content": None if answer.tool_calls and not answer.text else answer.text, "refusal": None}


def _finish_reason(answer: NeutralAnswer) -> str:
    """A refusal in words stops as any answer does; SDKs raise an error for one that a filter ended."""
    return "stop" if answer.ending == "refused" and answer.text else _FINISH_REASONS[answer.ending]


def _head(answer: NeutralAnswer, kind: str) -> dict[str, JsonValue]:
    return {"id": f"chatcmpl-{answer.id}", "object": kind, "created": answer.at_s, "model": answer.model}


def _choice(said: dict[str, JsonValue], finish_reason: str | None) -> JsonValue:
    return {"index": 0, **said, "logprobs": None, "finish_reason": finish_reason}


def _written(call: ToolCall, arguments: str) -> dict[str, JsonValue]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _usage(usage: TokenUsage | None) -> dict[str, JsonValue]:
    if usage is None:
        return {}
    counts: JsonValue = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
    return {"usage": counts}


TRANSLATION = Translation(asked=_asked, answered=_answered)
