"""Contents of Google's generateContent as neutral messages."""

import json
from collections import defaultdict, deque
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
    waiting = _Waiting(())
    said = list[tuple[str, _Object]]()
    role: JsonValue = None
    for content in map(named, contents):
        only(content, ("role", "parts"), "contents.")
        role = content.get("role") or "user"
        parts = _data_of(content, "contents")
        match role:
            case "user" | "function":
                if said and parts:
                    turn, said = _said(said), []
                    waiting = _Waiting(call for message in turn for call in message.tool_calls)
                    found += turn
                found += _asked(parts, waiting)
            case "model":  # a turn may come in several contents, as of a stream
                said += parts
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


class _Waiting:
    """The calls of a turn that have no result yet."""

    def __init__(self, calls: Iterable[ToolCall]) -> None:
        self._calls = dict(enumerate(calls))
        self._by_id = defaultdict[str, deque[int]](deque)
        self._by_name = defaultdict[str, deque[int]](deque)
        for number, call in self._calls.items():
            self._by_id[call.id].append(number)
            self._by_name[call.name].append(number)

    def answered(self, call_id: str, name: str) -> str | None:
        """The id of the call that such a result belongs to: that of its id, or without one the first of its name."""
        numbers = self._by_id[call_id] if call_id else self._by_name[name]
        while numbers:
            call = self._calls.pop(numbers.popleft(), None)
            if call is not None:
                return call.id
        return None


def _asked(parts: Iterable[tuple[str, _Object]], waiting: _Waiting) -> list[ChatMessage]:
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


def _answered_call(response: _Object, waiting: _Waiting) -> str:
    """The id of the call whose result it is."""
    key = "contents.functionResponse."
    only(response, ("id", "name", "response"), key)
    given, name = a_text(response.get("id") or "", f"{key}id"), a_text(response.get("name"), f"{key}name")
    call_id = waiting.answered(given, name)
    if call_id is None:
        raise Untranslatable(f"{key}{'id' if given else 'name'}")
    return call_id


def _result(response: _Object) -> str:
    """A text that is all of the result; JSON otherwise."""
    given = an_object(response.get("response"), "contents.functionResponse.response")
    match list(given.items()):
        case [("result" | "output", str(text))]:
            return text
        case _:
            return json.dumps(given, ensure_ascii=False)


# ---------------------------------------------------------------- the model's


def _said(parts: Iterable[tuple[str, _Object]]) -> list[ChatMessage]:
    """What the model said in its turn, as one message; none for nothing."""
    texts, calls = list[str](), list[ToolCall]()
    for name, part in parts:
        match name:
            case "text":
                texts.append(a_text(part["text"], "contents.text"))
            case "functionCall":
                calls.append(_call(named(an_object(part[name], f"contents.{name}")), len(calls) + 1))
            case _:
                raise Untranslatable(f"contents.{name}")
    text = "".join(texts)
    return [ChatMessage(role="assistant", content=text, tool_calls=tuple(calls))] if text or calls else []


def _call(function: _Object, number: int) -> ToolCall:
    key = "contents.functionCall."
    only(function, ("id", "name", "args"), key)
    call_id = a_text(function.get("id") or made_id(number), f"{key}id")
    name, arguments = a_text(function.get("name"), f"{key}name"), an_object(function.get("args"), f"{key}args")
    return ToolCall(id=call_id, name=name, arguments=arguments)
