"""A conversation as Converse takes it: user and assistant by turns, no blank text, documents by names of its kind."""

import re
from collections.abc import Sequence

from pydantic import JsonValue

from paymaster.messages import ChatMessage, Document, Grant, Image
from paymaster.providers.cache_marks import with_latest_cached
from paymaster.providers.call_ids import with_ids
from paymaster.providers.kept_state import only, pieces_of
from paymaster.providers.provider import UnsupportedParameter
from paymaster.settings import ServiceSettings

_CALL_ID = re.compile("[a-zA-Z0-9_-]{1,64}")
_CACHED = re.compile(
    r"anthropic\.claude-(?!v2|instant|3-haiku|3-opus|3-sonnet|3-5-sonnet-20240620)|amazon\.nova-(?!.*sonic)"
)
"""Models that take a mark of what to cache; others refuse it. Source: Bedrock's user guide, "Prompt caching"."""
_CACHE_POINT: dict[str, JsonValue] = {"cachePoint": {"type": "default"}}
_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_OFFICE = "application/vnd.openxmlformats-officedocument"
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    f"{_OFFICE}.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    f"{_OFFICE}.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_NO_NAME = re.compile(r"[^A-Za-z0-9()\[\] -]|\s(?=\s)")
"""What the name of a document may not have."""
_NAME_LENGTH_MAX = 150
"""Less than the 200 that a name may have, with room for a number."""
_NOTHING_SAID = "(no output)"
"""In the place of a tool's blank result, which is refused."""
_Blocks = list[dict[str, JsonValue]]


def has_tool_blocks(conversation: Sequence[ChatMessage]) -> bool:
    return any(message.tool_calls or message.role == "tool" for message in conversation)


def system_blocks(conversation: Sequence[ChatMessage], model: str) -> list[JsonValue]:
    """The system's texts, with the marks of what to cache."""
    blocks: list[JsonValue] = []
    for message in with_latest_cached(conversation):
        if message.role == "system" and message.content.strip():
            blocks += _marked([{"text": message.content}], message, model)
    return blocks


def turns(conversation: Sequence[ChatMessage], grant: Grant, service: ServiceSettings) -> list[JsonValue]:
    """The messages. Several of one role become one turn: the results of tools and what the user says after them.

    Raises UnsupportedParameter for images and documents that Converse does not take.
    """
    names = _DocumentNames()
    found: list[tuple[str, _Blocks]] = []
    for message in with_latest_cached(with_ids(conversation, _CALL_ID)):
        match message.role:
            case "system":
                continue
            case "tool":
                said = _result(message)
            case "assistant":
                said = _said(message, grant, service)
            case "user":
                said = _asked(message, names)
        said = _marked(said, message, grant.model) if said else []
        role = "assistant" if message.role == "assistant" else "user"
        if found and found[-1][0] == role:
            found[-1][1].extend(said)
        elif said:
            found.append((role, said))
    return [{"role": role, "content": list[JsonValue](blocks)} for role, blocks in found]


def _marked(blocks: _Blocks, message: ChatMessage, model: str) -> _Blocks:
    return [*blocks, _CACHE_POINT] if message.cache and _CACHED.search(model) else blocks


def _result(message: ChatMessage) -> _Blocks:
    content: JsonValue = [{"text": message.content if message.content.strip() else _NOTHING_SAID}]
    return [{"toolResult": {"toolUseId": message.tool_call_id, "content": content}}]


def _said(message: ChatMessage, grant: Grant, service: ServiceSettings) -> _Blocks:
    """The blocks of an assistant's turn: a text of spaces alone is refused, and a thought at the end."""
    blocks: _Blocks = []
    ends_at = 0
    for piece in pieces_of(message, grant, service):
        if (call := piece.call) is not None:
            blocks.append({"toolUse": {"toolUseId": call.id, "name": call.name, "input": call.arguments}})
            ends_at = len(blocks)
        elif piece.text is not None:
            if piece.text.strip():
                blocks.append({"text": piece.text})
                ends_at = len(blocks)
        elif own := only(piece.own, ("reasoningContent",)):
            blocks.append(own)
    return blocks[:ends_at]


class _DocumentNames:
    """Names in the form that is taken, none of them twice in a request."""

    def __init__(self) -> None:
        self._taken = set[str]()

    def of(self, document: Document) -> str:
        name = _NO_NAME.sub("-", document.name[:_NAME_LENGTH_MAX]).strip() or "document"
        number, found = 1, name
        while found.lower() in self._taken:
            number += 1
            found = f"{name} {number}"
        self._taken.add(found.lower())
        return found


def _asked(message: ChatMessage, names: _DocumentNames) -> _Blocks:
    blocks = [_image(image) for image in message.images]
    blocks += [_document(document, names) for document in message.documents]
    if message.documents and not message.content.strip():
        raise UnsupportedParameter("documents", "Converse takes a document only with a text in the message")
    return [*blocks, {"text": message.content}] if message.content.strip() or not blocks else blocks


def _image(image: Image) -> dict[str, JsonValue]:
    form = _IMAGES.get(image.media_type or "")
    if image.data is None or form is None:
        raise UnsupportedParameter("images", f"Converse takes images as data, of the kinds {', '.join(_IMAGES)}")
    return {"image": {"format": form, "source": {"bytes": image.data}}}


def _document(document: Document, names: _DocumentNames) -> dict[str, JsonValue]:
    form = _DOCUMENTS.get(document.media_type)
    if document.data is None or form is None:
        raise UnsupportedParameter(
            "documents", f"Converse takes documents as data, of the kinds {', '.join(_DOCUMENTS)}"
        )
    return {"document": {"format": form, "name": names.of(document), "source": {"bytes": document.data}}}
