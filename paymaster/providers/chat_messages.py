"""Messages of chat completions: how one is sent, and what of an answer's message goes back with it later."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from paymaster.messages import ChatMessage, Document, Image, ToolCall
from paymaster.providers.answer_parts import dumped
from paymaster.providers.kept_state import Piece, WrittenPiece, kept, only
from paymaster.values.json_reading import list_of, object_of, text_of
from paymaster.wire.gemini import UNSIGNED

_THOUGHTS = ("reasoning_details", "reasoning_content", "reasoning")
"""Where a message has what its model thought. Where a server writes it in two of them, the first one has most."""
_THINKING = ("type", "thinking", "signature", "closed")
"""What goes back of a part of Mistral's content that is a thought: https://docs.mistral.ai/capabilities/reasoning/."""
_OF_THINKING = ("type", "text", "reference_ids")


def asked(message: ChatMessage, mark: Mapping[str, JsonValue]) -> JsonValue:
    """Any message but the assistant's. `mark`: what its last part has beside it where it is to be cached."""
    head: dict[str, JsonValue] = {"role": message.role}
    if message.role == "tool":
        head["tool_call_id"] = message.tool_call_id
    marked = dict(mark) if message.cache and message.content else dict[str, JsonValue]()
    if not message.images and not message.documents and not marked:
        return {**head, "content": message.content}
    images: list[JsonValue] = [
        {"type": "image_url", "image_url": {"url": image_url(image)}} for image in message.images
    ]
    files: list[JsonValue] = [
        {"type": "file", "file": {"filename": each.name, "file_data": document_url(each)}} for each in message.documents
    ]
    texts: list[JsonValue] = [{"type": "text", "text": message.content, **marked}] if message.content else []
    return {**head, "content": [*images, *files, *texts]}


def said(message: ChatMessage, pieces: Sequence[Piece], *, wants_thoughts: bool, wants_signature: bool) -> JsonValue:
    """An assistant's message. `wants_thoughts`, `wants_signature`: calls need what the service gives with its own."""
    sent: dict[str, JsonValue] = {"role": "assistant", "content": message.content or None}
    calls: list[dict[str, JsonValue]] = []
    parts: list[JsonValue] = []
    for piece in pieces:
        if (call := piece.call) is not None:
            function: JsonValue = {"name": call.name, "arguments": arguments_text(call)}
            own = only(piece.own, ("extra_content",))
            calls.append({"id": call.id, "type": "function", "function": function, **own})
        elif piece.text is not None:
            if piece.text:
                parts.append({"type": "text", "text": piece.text})
        elif piece.own.get("type") == "thinking":
            parts.append(_thinking(piece.own))
        else:
            sent |= only(piece.own, _THOUGHTS)
    if any(object_of(part).get("type") == "thinking" for part in parts):
        sent["content"] = parts
    if calls:
        if wants_thoughts:
            sent = {"reasoning_content": "", **sent}
        if wants_signature:
            calls[0] = {"extra_content": {"google": {"thought_signature": UNSIGNED}}, **calls[0]}
        sent["tool_calls"] = list[JsonValue](calls)
    return sent


def document_url(document: Document) -> str:
    """With all of its bytes."""
    return f"data:{document.media_type};base64,{document.data}"


def image_url(image: Image) -> str:
    return image.url if image.url is not None else f"data:{image.media_type};base64,{image.data}"


def arguments_text(call: ToolCall) -> str:
    return dumped(call.arguments) if call.invalid_arguments is None else call.invalid_arguments


def text_said(content: JsonValue) -> str | None:
    """A string, or Mistral's list of parts, of which only the text is said. None: nothing is, not even nothing."""
    if not isinstance(content, list):
        return text_of(content)
    texts = [text_of(part.get("text")) for part in map(object_of, content) if part.get("type") == "text"]
    return "".join(text or "" for text in texts) if texts else None


def has_thoughts(message: Mapping[str, JsonValue]) -> bool:
    """Whether the model thought, where the server says so."""
    parts = map(object_of, list_of(message.get("content")))
    return any(message.get(name) for name in _THOUGHTS) or any(part.get("type") == "thinking" for part in parts)


def state_of_answer(message: dict[str, JsonValue], text: str, calls: Sequence[dict[str, JsonValue]]) -> JsonValue:
    """What the model thought, where the server says it, and what Google adds to its calls."""
    thought = next(({name: message[name]} for name in _THOUGHTS if message.get(name)), None)
    pieces = [WrittenPiece(own=thought)] if thought else []
    if isinstance(message.get("content"), list):
        pieces += _content_pieces(list_of(message["content"]))
    else:
        pieces += [WrittenPiece(text=text)] if text else []
    pieces += [WrittenPiece(call=at, own=only(call, ("extra_content",)) or None) for at, call in enumerate(calls)]
    return kept(pieces)


def _content_pieces(content: list[JsonValue]) -> list[WrittenPiece]:
    pieces: list[WrittenPiece] = []
    for part in map(object_of, content):
        if part.get("type") == "thinking":
            pieces.append(WrittenPiece(own=_thinking(part)))
        elif part.get("type") == "text":
            pieces.append(WrittenPiece(text=text_of(part.get("text")) or ""))
    return pieces


def _thinking(part: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    thoughts: list[JsonValue] = [
        only(thought, _OF_THINKING)
        for thought in map(object_of, list_of(part.get("thinking")))
        if thought.get("type") in ("text", "reference")
    ]
    return {**only(part, _THINKING), "thinking": thoughts}


class StreamedContent:
    """What a model says, in strings or in Mistral's parts, of which thoughts and texts come in pieces."""

    def __init__(self) -> None:
        self._parts: list[dict[str, JsonValue]] = []
        self._texts: list[list[str]] = []
        self._came = False

    def add(self, content: JsonValue) -> None:
        if isinstance(content, str):
            self._came = True
            self._add({"type": "text"}, content)
        for part in map(object_of, list_of(content)):
            if part.get("type") == "text":
                self._came = True
                self._add({"type": "text"}, text_of(part.get("text")) or "")
            elif part.get("type") == "thinking":
                thoughts = map(object_of, list_of(part.get("thinking")))
                self._add(only(part, _THINKING), "".join(text_of(each.get("text")) or "" for each in thoughts))

    def _add(self, part: dict[str, JsonValue], text: str) -> None:
        if not self._parts or self._parts[-1]["type"] != part["type"]:
            self._parts.append({})
            self._texts.append([])
        self._parts[-1] |= part
        self._texts[-1].append(text)

    def whole(self) -> JsonValue:
        """The content of the message that would have come without streaming. None: nothing came."""
        texts = ["".join(pieces) for pieces in self._texts]
        if all(part["type"] == "text" for part in self._parts):
            return "".join(texts) if self._came else None
        whole: list[JsonValue] = []
        for part, text in zip(self._parts, texts, strict=True):
            thoughts: list[JsonValue] = [{"type": "text", "text": text}]
            if part["type"] == "thinking":
                whole.append({**part, "thinking": thoughts})
            elif text:
                whole.append({**part, "text": text})
        return whole


class StreamedThoughts:
    """What a model thought, in pieces."""

    def __init__(self) -> None:
        self._texts = {name: list[str]() for name in _THOUGHTS}
        self._details: list[dict[str, JsonValue]] = []
        self._texts_of: list[list[str]] = []

    def add(self, delta: dict[str, JsonValue]) -> None:
        for name, pieces in self._texts.items():
            pieces.append(text_of(delta.get(name)) or "")
        for piece in map(object_of, list_of(delta.get("reasoning_details"))):
            same = {name: piece.get(name) for name in ("type", "index")}
            last = self._details[-1] if self._details else {}
            if same != {name: last.get(name) for name in same}:
                self._details.append({})
                self._texts_of.append([])
            self._details[-1] |= {name: value for name, value in piece.items() if value is not None}
            self._texts_of[-1].append(text_of(piece.get("text")) or "")

    def whole(self) -> dict[str, JsonValue]:
        """By the names of the fields; those that were not there are missing."""
        found: dict[str, JsonValue] = {name: "".join(pieces) for name, pieces in self._texts.items() if any(pieces)}
        for detail, texts in zip(self._details, self._texts_of, strict=True):
            if any(texts):
                detail["text"] = "".join(texts)
        if self._details:
            found["reasoning_details"] = list[JsonValue](self._details)
        return found
