"""What OpenAI's two formats say alike: parts of messages, tools and their calls, and how an answer is framed."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from pydantic import JsonValue

from paymaster.messages import Document, Image, Tool, ToolCall
from paymaster.messages.wire import WireAnswer
from paymaster.translation.neutral import NeutralAnswer, Untranslatable, only
from paymaster.translation.reading import WORDS, a_tool, chosen, object_or_none
from paymaster.values.json_reading import check_values, message_data
from paymaster.values.made_ids import is_made
from paymaster.wire.measured import kind_of

MARKS = frozenset({"cache_control", "prompt_cache_breakpoint"})
"""Of a message or a part: the conversation up to there is to be cached."""
_OF_TEXTS = frozenset({"type", "text", "refusal", "annotations", "logprobs"}) | MARKS
"""Members of a part that is text; annotations and log probabilities are what an answer said about itself."""
_OF_FUNCTIONS = frozenset({"name", "description", "parameters", "strict", "cache_control"})
"""Of a tool. `strict` is let go: each service keeps to a schema as well as it can, and the caller's own check decides.
A mark changes the price alone."""
_DATA, _BASE64 = "data:", ";base64"


# ---------------------------------------------------------------- messages


def parts_of(content: JsonValue, where: str) -> list[dict[str, JsonValue]]:
    """The parts of a content; a string is one part. Raises Untranslatable, also where there is none."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    if not isinstance(content, list) or not parts or len(parts) < len(content):
        raise Untranslatable(f"{where}.content")
    return parts


def text_of_part(part: Mapping[str, JsonValue], kinds: Collection[str], where: str) -> str:
    """The text of a part of one of these kinds, `refusal` being one that has it under another name.

    Raises Untranslatable.
    """
    kind = kind_of(part)
    text = part.get("refusal" if kind == "refusal" else "text")
    if kind not in kinds or not isinstance(text, str):
        raise Untranslatable(f"{where}.{kind}")
    only(part, _OF_TEXTS, f"{where}.{kind}.")
    return text


def is_marked(*marked: Mapping[str, JsonValue]) -> bool:
    """Whether the conversation up to one of them is to be cached."""
    return any(each.get(mark) for each in marked for mark in MARKS)


def marked_parts(holder: Mapping[str, JsonValue], where: str) -> Iterator[tuple[dict[str, JsonValue], bool]]:
    """Each part of a message's content, with whether the conversation up to it is to be cached: a message's own mark is
    that of its last part. Raises Untranslatable."""
    parts = parts_of(holder.get("content"), where)
    for part in parts:
        yield part, is_marked(part) or (part is parts[-1] and is_marked(holder))


def image_of(url: JsonValue, name: str) -> Image:
    """Raises Untranslatable, with that name."""
    if isinstance(url, str) and url.lower().startswith(("https://", "http://")):
        return Image(url=url)
    media_type, data = _data_url(url, name)
    return Image(data=data, media_type=media_type)


def document_of(url: JsonValue, file_name: JsonValue, name: str) -> Document:
    """Of a file that stands there. Raises Untranslatable, with that name."""
    media_type, data = _data_url(url, name)
    if file_name is not None and not isinstance(file_name, str):
        raise Untranslatable(name)
    return Document(data=data, media_type=media_type, **({"name": file_name} if file_name else {}))


def _data_url(url: JsonValue, name: str) -> tuple[str, str]:
    """Media type and base64."""
    head, comma, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    media_type = head[len(_DATA) : -len(_BASE64)]
    begins, ends = head[: len(_DATA)].lower() == _DATA, head.lower().endswith(_BASE64)
    if not comma or not begins or not ends or not media_type or ";" in media_type:
        raise Untranslatable(name)
    return media_type, data


# ---------------------------------------------------------------- tools


def tool_of(function: Mapping[str, JsonValue]) -> Tool:
    """Raises Untranslatable."""
    only(function, _OF_FUNCTIONS, "tools.")
    parameters = object_or_none(function.get("parameters"), "tools.parameters")
    return a_tool(function.get("name"), function.get("description"), parameters, "tools.")


def tool_choice_of(choice: JsonValue, named: JsonValue, tools: Sequence[Tool]) -> str | None:
    """`named`: the tool that a choice of one names. Raises Untranslatable."""
    if choice is None:
        return None
    if isinstance(choice, dict):
        key = f"tool_choice.{kind_of(choice)}"
        if choice.get("type") != "function":
            raise Untranslatable(key)
        return chosen(None, named, tools, key)
    if not isinstance(choice, str) or choice not in WORDS:
        raise Untranslatable("tool_choice")
    return chosen(choice, None, tools, "tool_choice")


def tool_call_of(call_id: JsonValue, name: JsonValue, arguments: JsonValue, where: str) -> ToolCall:
    """A call with its arguments as data, or as text where they are none. Raises Untranslatable."""
    if not isinstance(call_id, str) or not isinstance(name, str) or not name:
        raise Untranslatable(where)
    if arguments is not None and not isinstance(arguments, str):
        raise Untranslatable(f"{where}.arguments")
    text = (arguments or "").strip()
    try:
        data = message_data("{}" if text in ("", "null") else text)
    except ValueError:
        data = None
    if isinstance(data, dict):
        return ToolCall(id=call_id, name=name, arguments=data)
    return ToolCall(id=call_id, name=name, invalid_arguments=arguments)


def check_arguments(texts: Iterable[JsonValue]) -> None:
    """Raises TooManyValues where those of all calls together are too many: each alone would be few enough."""
    check_values(",".join(text for text in texts if isinstance(text, str)).encode())


def written_arguments(call: ToolCall) -> str:
    """JSON; of a call whose arguments are no object, what the model wrote."""
    return json.dumps(call.arguments) if call.invalid_arguments is None else call.invalid_arguments


# ---------------------------------------------------------------- what else a call may say


def without_usual(data: Mapping[str, JsonValue], usual: Mapping[str, Collection[JsonValue]]) -> dict[str, JsonValue]:
    """The members but those at whose values they change nothing."""
    return {name: value for name, value in data.items() if value not in usual.get(name, ())}


def schema_of(kind: str, described: Mapping[str, JsonValue] | None, where: str) -> dict[str, JsonValue] | None:
    """The schema of a format of answers. Raises Untranslatable.

    Its name, its description and `strict` are let go: none of them says what an answer must be.
    """
    if kind == "text":
        return None
    described = described or {}
    schema = described.get("schema")
    if kind != "json_schema" or not isinstance(schema, dict):
        raise Untranslatable(f"{where}.{kind}")
    only(described, {"type", "name", "description", "schema", "strict"}, f"{where}.")
    return schema


# ---------------------------------------------------------------- answers


def calls_of(answer: NeutralAnswer) -> list[ToolCall]:
    """The calls of an answer, with ids that no other call has: OpenAI's SDKs keep calls apart by them."""
    found: dict[str, ToolCall] = {}
    for number, call in enumerate(answer.tool_calls):
        is_its_own = call.id and call.id not in found and not is_made(call.id)
        call_id = call.id if is_its_own else f"call_{answer.id}-{number}"
        found[call_id] = call.model_copy(update={"id": call_id})
    return list(found.values())


def whole(data: Mapping[str, JsonValue]) -> WireAnswer:
    return WireAnswer(status=200, headers={"content-type": "application/json"}, body=_json(data).encode())


def streamed(events: Iterable[str]) -> WireAnswer:
    return WireAnswer(status=200, headers={"content-type": "text/event-stream"}, body="".join(events).encode())


def event(data: Mapping[str, JsonValue], name: str | None = None) -> str:
    """A server-sent event."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {_json(data)}\n\n"


def _json(data: Mapping[str, JsonValue]) -> str:
    # Escaped: at some separators of Unicode, readers of streams end a line.
    return json.dumps(data, separators=(",", ":"))
