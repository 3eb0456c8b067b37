"""A call in a provider's own format, which is passed on as it came."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from paymaster.messages.base import Message, added
from paymaster.values.limits import WIRE_BYTES_MAX
from paymaster.values.packed import pack, unpack

Dialect = Literal["openai", "openai-responses", "openai-embeddings", "anthropic", "gemini"]
"""A provider's format: "openai" is chat completions, as OpenAI and the many compatible servers speak it; "anthropic" is
the Messages API; "gemini" is what Google's models have below `models/NAME:`."""


def _unpacked(value: object) -> object:
    return unpack(value, WIRE_BYTES_MAX) if isinstance(value, str) else value


def _body(value: object) -> object:
    """Base64 has no bracket in it, so JSON that is written as it is cannot be taken for packed bytes."""
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return _unpacked(value)
    body = value.encode()
    if len(body) > WIRE_BYTES_MAX:
        raise ValueError(f"a body of {len(body):,} bytes, and it may have {WIRE_BYTES_MAX:,}")
    return body


_packed = PlainSerializer(pack, return_type=str, when_used="json")
Packed = Annotated[bytes, BeforeValidator(_unpacked), _packed]
"""Bytes that travel as compressed text, whatever they are."""


class Wire(Message):
    """A request as a provider's own SDK writes it."""

    dialect: Dialect
    body: Annotated[bytes, BeforeValidator(_body), _packed] = Field(repr=False)
    """JSON. A service gets it with the candidate's model in the place of its own. In a message it is text: bytes
    compressed by zlib (RFC 1950) and written in base64 (RFC 4648, with padding), or simply the JSON as it is."""
    headers: dict[str, str] = {}
    """Beside the usual ones; only those that the dialect knows are sent, and never a key."""
    path: str | None = added(None)
    """Of the caller's URL, where it says what the body does not: `models/NAME:streamGenerateContent?alt=sse` of the
    dialect "gemini". None, the default: the body says all."""


class WireAnswer(Message):
    """An answer as a provider wrote it, without known keys."""

    status: int
    headers: dict[str, str] = {}
    """Those that say something to a caller, by their names in lower case."""
    body: Packed = Field(repr=False)
    """Decompressed; of a stream, all events as they came. In a message it is text: the bytes compressed by zlib (RFC
    1950) and written in base64 (RFC 4648, with padding)."""
