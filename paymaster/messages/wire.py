"""A call in a provider's own format, which is passed on as it came."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from paymaster.messages.base import Message, added
from paymaster.values.limits import (
    ANSWER_BODY_BYTES_MAX,
    BODY_PIECES_MAX,
    NAME_CHARACTERS_MAX,
    STORED_WIRE_BYTES_MAX,
    WIRE_BYTES_MAX,
)
from paymaster.values.packed import pack, unpack

Dialect = Literal["openai", "openai-responses", "openai-embeddings", "anthropic", "gemini"]
"""A provider's format: "openai" is chat completions, as OpenAI and the many compatible servers speak it; "anthropic" is
the Messages API; "gemini" is what Google's models have below `models/NAME:`."""


class Body(bytes):
    """Bytes that are compressed once, however often the message that has them is written."""

    _text: str | None = None

    @classmethod
    def unpacked(cls, text: str, bytes_max: int) -> "Body":
        """Raises NotPacked."""
        body = cls(unpack(text, bytes_max))
        body._text = text
        return body

    def packed(self) -> str:
        """The compressed text. Takes a while for a long body that was not asked before."""
        if self._text is None:
            self._text = pack(self)
        return self._text


def _request_body(value: object) -> object:
    """Base64 has no bracket in it, so JSON that is written as it is cannot be taken for packed bytes."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        body = Body(value.encode())
        if len(body) > WIRE_BYTES_MAX:
            raise ValueError(f"a body of {len(body):,} bytes, and it may have {WIRE_BYTES_MAX:,}")
        return body
    return _body(value, WIRE_BYTES_MAX)


def _answer_body(value: object) -> object:
    return _body(value, ANSWER_BODY_BYTES_MAX)


def _body(value: object, bytes_max: int) -> object:
    if isinstance(value, str):
        return Body.unpacked(value, bytes_max)
    return Body(value) if type(value) is bytes else value


def packed(body: bytes) -> str:
    """A body of a message as compressed text."""
    return body.packed() if isinstance(body, Body) else pack(body)


def _header_value(value: str) -> str:
    """What HTTP carries. Anything else costs the connection, and whether the request was billed nobody knows then."""
    stripped = value.strip(" \t")
    if not stripped.isascii() or not stripped.replace("\t", " ").isprintable():
        raise ValueError("a header has something in it that is no printable ASCII character")
    return stripped


_AS_TEXT = PlainSerializer(packed, return_type=str, when_used="json")


class StoredBody(Message):
    """A body that is too large for Temporal's histories, and where it is."""

    reference: str = Field(min_length=1, max_length=NAME_CHARACTERS_MAX)
    """Its name in the database of the workers."""
    pieces: int = Field(ge=1, le=BODY_PIECES_MAX)
    """In how many pieces it is stored."""
    size: int = Field(ge=0, le=ANSWER_BODY_BYTES_MAX)
    """Bytes of the body, decompressed."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of these bytes, in hexadecimal. Only who knows it gets the body."""


class Wire(Message):
    """A request as a provider's own SDK writes it."""

    dialect: Dialect
    body: Annotated[bytes, BeforeValidator(_request_body), _AS_TEXT] = Field(repr=False)
    """JSON. A service gets it with the candidate's model in the place of its own. In a message it is text: bytes
    compressed by zlib (RFC 1950) and written in base64 (RFC 4648, with padding), or simply the JSON as it is."""
    headers: dict[str, Annotated[str, AfterValidator(_header_value)]] = {}
    """Beside the usual ones; only those that the dialect knows are sent, and never a key."""
    path: str | None = added(None)
    """Of the caller's URL, where it says what the body does not: `models/NAME:streamGenerateContent?alt=sse` of the
    dialect "gemini", `deployments/NAME` of Azure's URLs. None, the default: the body says all."""
    stored: StoredBody | None = added(None)
    """Where the body is that is too large to be here, which is empty then. None: it is here."""

    @model_validator(mode="after")
    def _has_one_body(self) -> Self:
        if self.stored is None:
            return self
        if self.body:
            raise ValueError("a body that is stored is not in the request too")
        if self.stored.size > STORED_WIRE_BYTES_MAX:
            raise ValueError(f"a stored body of {self.stored.size:,} bytes, and it may have {STORED_WIRE_BYTES_MAX:,}")
        return self


class WireAnswer(Message):
    """An answer as a provider wrote it, without known keys."""

    status: int
    headers: dict[str, str] = {}
    """Those that say something to a caller, by their names in lower case."""
    body: Annotated[bytes, BeforeValidator(_answer_body), _AS_TEXT] = Field(repr=False)
    """Decompressed; of a stream, all events as they came. Empty when it is stored. In a message it is text: the bytes
    compressed by zlib (RFC 1950) and written in base64 (RFC 4648, with padding)."""
    stored: StoredBody | None = added(None)
    """Where the body is that is too large to be here: `paymaster.read_answer(result)` brings it. None: it is here."""
