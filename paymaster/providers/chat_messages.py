"""Messages of chat completions: how one is sent, and what of an answer's message goes back with it later."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from paymaster.messages import ChatMessage, Document, Image, ToolCall
from paymaster.providers.answer_parts import dumped
from paymaster.providers.kept_state import UNSIGNED, Piece, WrittenPiece, kept, only
from paymaster.values.json_reading import list_of, object_of, text_of

_THOUGHTS = ("reasoning_details", "reasoning_content", "reasoning")
"""Where a message has what its model thought. Where a server writes it in two of them, the first one has most."""


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
    return {**head, "content": [*images, *files, {"type": "text", "text": message.content, **marked}]}


def said(message: ChatMessage, pieces: Sequence[Piece], *, wants_thoughts: bool, wants_signature: bool) -> JsonValue:
    """An assistant's message. `wants_thoughts`, `wants_signature`: calls need what the service gives with its own."""
    sent: dict[str, JsonValue] = {"role": "assistant", "content": message.content or None}
    calls: list[dict[str, JsonValue]] = []
    for piece in pieces:
        if (call := piece.call) is not None:
            function: JsonValue = {"name": call.name, "arguments": arguments_text(call)}
            own = only(piece.own, ("extra_content",))
            calls.append({"id": call.id, "type": "function", "function": function, **own})
        elif piece.text is None:
            sent |= only(piece.own, _THOUGHTS)
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


def state_of_answer(message: dict[str, JsonValue], text: str, calls: Sequence[dict[str, JsonValue]]) -> JsonValue:
    """What the model thought, where the server says it, and what Google adds to its calls."""
    thought = next(({name: message[name]} for name in _THOUGHTS if message.get(name)), None)
    pieces = [WrittenPiece(own=thought)] if thought else []
    pieces += [WrittenPiece(text=text)] if text else []
    pieces += [WrittenPiece(call=at, own=only(call, ("extra_content",)) or None) for at, call in enumerate(calls)]
    return kept(pieces)


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
