"""How large a request is, for the bound of its cost."""

import json
import unicodedata

from paymaster.messages import LLMRequest
from paymaster.providers.call_ids import MADE_ID_BYTES

_PIECE = 128
"""Characters that are normalised together: Python sorts a run of combining marks in a time that grows with the square
of its length."""
FILLED_IN_BYTES = 100
"""What a message with calls of another model gets beside them, where a service refuses it without: a word in place of
a signature, an empty thought."""
_MARKS_USUAL = 8
"""In a row; more than these are taken for a text that is none."""


def input_bytes(request: LLMRequest) -> int:
    """The size of everything that a tokenizer will see: messages, tools and schema as JSON, in UTF-8; without images
    and documents.

    With all states, whoever gave them, and with room for the ids that calls of tools, and their results, may get
    instead of their own, for what is filled in beside them, and for a schema in the words of a service, which is at
    most twice as long (`schemas`).

    Byte-level tokenizers never make more tokens than bytes. Those that normalise first can (U+FDFA is 3 bytes and 18
    letters), so the larger of the text and its NFKC form counts.
    """
    seen: dict[str, object] = {
        "messages": [
            message.model_dump(
                exclude={"images": True, "documents": {"__all__": {"url", "data"}}}, exclude_defaults=True
            )
            for message in request.conversation()
        ],
        "json_schema": request.json_schema,
    }
    if request.tools:
        seen["tools"] = [tool.model_dump() for tool in request.tools]
    text = json.dumps(seen, ensure_ascii=False)
    calls = sum(len(message.tool_calls) for message in request.messages)
    rewritten = 0 if request.json_schema is None else _utf8_length(json.dumps(request.json_schema, ensure_ascii=False))
    return (FILLED_IN_BYTES + 2 * MADE_ID_BYTES) * calls + rewritten + max(_utf8_length(text), normalised_bytes(text))


def normalised_bytes(text: str) -> int:
    """The bytes of a text's NFKC form; a little more for marks in unusual places, never less.

    Takes a fraction of a second for two megabytes of whatever characters.
    """
    if text.isascii():
        return len(text)
    grown = 0
    for character in set(text):  # many that grow much are counted: to write them out takes a second
        if unicodedata.decomposition(character) and len(unicodedata.normalize("NFKC", character)) > 2:
            times = text.count(character)
            if times > 1_000:
                grown += times * (_utf8_length(unicodedata.normalize("NFKD", character)) - 1)
                text = text.replace(character, " ")
    begin, follows = 0, True
    while begin < len(text):
        end = _end_of_piece(text, begin)
        whole = end == len(text) or not _joins(text[end])
        # What is joined is never longer than its parts; only a piece between two characters that join nothing with
        # their neighbours is as long by itself as it is within the text.
        form = "NFKC" if follows and whole else "NFKD"
        grown += _utf8_length(unicodedata.normalize(form, text[begin:end]))
        begin, follows = end, whole
    return grown


def _end_of_piece(text: str, begin: int) -> int:
    """Where nothing is joined across, if there is such a place."""
    latest = min(begin + _PIECE, len(text))
    if latest == len(text):
        return latest
    return next((end for end in range(latest, latest - _MARKS_USUAL, -1) if not _joins(text[end])), latest)


def _joins(character: str) -> bool:
    """Whether it is, or begins with, a mark that belongs to the character before it."""
    return unicodedata.combining(unicodedata.normalize("NFKD", character)[0]) != 0


def _utf8_length(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
