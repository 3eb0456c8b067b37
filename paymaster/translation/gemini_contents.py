"""Contents of Google's generateContent as neutral messages."""

import json
from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from paymaster.messages import ChatMessage, Document, Image, ToolCall
from paymaster.translation.neutral import Untranslatable, only
from paymaster.translation.reading import a_text, an_object
from paymaster.translation.user_turns import UserTurns
from paymaster.values.made_ids import made_id
from paymaster.wire.google_json import named, parts_of

_DATA = ("text", "inlineData", "fileData", "functionCall", "functionResponse")
"""Of which a part has one."""
_GOOGLES_FILES = "generativelanguage.googleapis.com"
"""Where files are that nobody reads without a key of Google's."""
_STANDARD = str.maketrans("-_", "+/")
"""To base64's usual alphabet from the one for URLs, which Google's SDK writes and few services read."""
_Object = dict[str, JsonValue]


def system(content: _Object) -> list[ChatMessage]:
    """A message for each part."""
    content, found = named(content), list[ChatMessage]()
    only(content, ("role", "parts"), "systemInstruction.")
    for name, part in _data_of(content, "systemInstruction"):
        if name != "text":
            raise Untranslatable(f"systemInstruction.{name}")
        found.append(ChatMessage(role="system", content=a_text(part[name], "systemInstruction.text")))
    return found


def conversation(contents: Iterable[_Object]) -> list[ChatMessage]:
    """Raises Untranslatable, and BadBody for a content that is none."""
    found: list[ChatMessage] = []
    waiting: list[ToolCall] = []
    role: JsonValue = None
    for content in map(named, contents):
        only(content, ("role", "parts"), "contents.")
        role = content.get("role") or "user"
        parts = _data_of(content, "contents")
        match role:
            case "user" | "function":
                found += _asked(parts, waiting)
            case "model":
                waiting = _said(parts, found)
            case _:
                raise Untranslatable("contents.role")
    if role == "model":
        raise Untranslatable("contents.prefill")  # other services begin a turn of their own
    return found


def _data_of(content: Mapping[str, JsonValue], key: str) -> list[tuple[str, _Object]]:
    """The parts with what each is, without thoughts, which nobody but their provider can read."""
    found: list[tuple[str, _Object]] = []
    for part in parts_of(content):
        only(part, (*_DATA, "thought", "thoughtSignature"), f"{key}.")
        names = [name for name in _DATA if part.get(name) is not None]
        if len(names) > 1:
            raise Untranslatable(f"{key}.{names[1]}")
        if names and part.get("thought") is not True:
            found.append((names[0], part))
    return found


# ---------------------------------------------------------------- the user's


def _asked(parts: Iterable[tuple[str, _Object]], waiting: list[ToolCall]) -> list[ChatMessage]:
    turns = UserTurns()
    for name, part in parts:
        match name:
            case "text":
                turns.add_text(a_text(part["text"], "contents.text"))
            case "inlineData" | "fileData":
                _add_media(turns, name, named(an_object(part[name], f"contents.{name}")))
            case "functionResponse":
                response = named(an_object(part[name], f"contents.{name}"))
                turns.add_result(_answered_call(response, waiting), _result(response))
            case _:
                raise Untranslatable(f"contents.{name}")
    return turns.messages()


def _add_media(turns: UserTurns, name: str, media: _Object) -> None:
    key = f"contents.{name}."
    only(media, ("mimeType", "data" if name == "inlineData" else "fileUri", "displayName"), key)
    mime_type = a_text(media.get("mimeType"), f"{key}mimeType")
    where: _Object = {"data": _data(media)} if name == "inlineData" else {"url": _url(media)}
    where["media_type"] = mime_type
    if mime_type.startswith("image/"):
        turns.add_image(Image.model_validate(where))
    elif mime_type == "application/pdf" or mime_type.startswith("text/"):
        usual = "document.pdf" if mime_type == "application/pdf" else "document.txt"
        title = a_text(media.get("displayName") or usual, f"{key}displayName")
        turns.add_document(Document.model_validate(where | {"name": title}))
    else:
        raise Untranslatable(f"contents.{mime_type.partition('/')[0]}")


def _data(media: _Object) -> str:
    return a_text(media.get("data"), "contents.inlineData.data").translate(_STANDARD)


def _url(media: _Object) -> str:
    """Raises Untranslatable for what only Google can read."""
    url = a_text(media.get("fileUri"), "contents.fileData.fileUri")
    scheme, _, where = url.partition("://")
    if scheme not in ("http", "https") or where.partition("/")[0].lower() == _GOOGLES_FILES:
        raise Untranslatable("contents.fileData.fileUri")
    return url


def _answered_call(response: _Object, waiting: list[ToolCall]) -> str:
    """The id of the call whose result it is: that of its id, or else the first one of its name."""
    key = "contents.functionResponse."
    only(response, ("id", "name", "response"), key)
    call_id, name = response.get("id"), a_text(response.get("name"), f"{key}name")
    for at, call in enumerate(waiting):
        if call.id == call_id if call_id else call.name == name:
            return waiting.pop(at).id
    raise Untranslatable(f"{key}{'id' if call_id else 'name'}")


def _result(response: _Object) -> str:
    """A text that is all of the result; JSON otherwise."""
    given = an_object(response.get("response"), "contents.functionResponse.response")
    match list(given.items()):
        case [("result" | "output", str(text))]:
            return text
        case _:
            return json.dumps(given, ensure_ascii=False)


# ---------------------------------------------------------------- the model's


def _said(parts: Iterable[tuple[str, _Object]], found: list[ChatMessage]) -> list[ToolCall]:
    """Adds what the model said to its turn, which may come in several contents, as of a stream. Its calls so far."""
    earlier = found.pop() if found and found[-1].role == "assistant" else None
    texts = [] if earlier is None else [earlier.content]
    calls = [] if earlier is None else list(earlier.tool_calls)
    for name, part in parts:
        match name:
            case "text":
                texts.append(a_text(part["text"], "contents.text"))
            case "functionCall":
                calls.append(_call(named(an_object(part[name], f"contents.{name}")), len(calls) + 1))
            case _:
                raise Untranslatable(f"contents.{name}")
    text = "".join(texts)
    if text or calls:
        found.append(ChatMessage(role="assistant", content=text, tool_calls=tuple(calls)))
    return calls


def _call(function: _Object, number: int) -> ToolCall:
    key = "contents.functionCall."
    only(function, ("id", "name", "args"), key)
    call_id = a_text(function.get("id") or made_id(number), f"{key}id")
    name, arguments = a_text(function.get("name"), f"{key}name"), an_object(function.get("args"), f"{key}args")
    return ToolCall(id=call_id, name=name, arguments=arguments)
