"""Paymaster's messages as payloads: written and read here, so that the data converter of a client does not matter.

They cross a client as `RawValue`, which every payload converter hands on untouched; only its codec sees them.
"""

import zlib
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue
from temporalio.contrib.pydantic import PydanticJSONPlainPayloadConverter, PydanticPayloadConverter
from temporalio.converter import CompositePayloadConverter, EncodingPayloadConverter

from paymaster.keys.api_key import KeyUnavailable
from paymaster.messages import ENCRYPTED, Asker, Configure
from paymaster.messages.bounds import check_text, may_come_from_anybody
from paymaster.messages.config_reading import read_configure
from paymaster.values.json_reading import check_levels, check_values
from paymaster.values.limits import ERRORS_TOLD_MAX, TEMPORAL_PAYLOAD_BYTES
from paymaster.values.packed import decompressed

_COMPRESSED = b"json/zlib"
REASON = "paymaster-unreadable"
"""Metadata of what takes the place of a payload that cannot be decoded, and says why."""
_MISSING_KEY = b"missing key"
PLAIN = "paymaster-plain"
"""Metadata of what came in plain text to a worker that encrypts, and of what it answers in plain text: whoever asks so
could read nothing else."""
STORAGE = "paymaster-storage"
"""Metadata of a request: the names of the external storages from which whoever asks reads an answer, with commas
between them. Of its result likewise."""
ASKER = "paymaster-asker"
"""Metadata of a request: who asks. A worker that does not know it leaves it alone."""
_ASKER_BYTES_MAX = 4_096
_COMPRESSED_FROM = 4_096
"""Bytes of JSON. What is shorter stays readable in the Temporal UI, and costs Temporal little."""
_FASTEST = 1
"""zlib's level: two hundred commands in a third of a millisecond. At 6 they take twice that, to be a tenth shorter."""
_LONG = 64 * 1024
"""Bytes of JSON from which on its data is made before it is validated. While Pydantic reads JSON itself, each error has
a copy made of the whole input, and a large object that lacks ten fields has ten errors."""

ValueT = TypeVar("ValueT")


class PayloadUnreadable(ValueError):
    """A payload was changed on its way, or is encoded by another key or codec than those that are at hand."""


def unreadable(reason: str, *, missing_key: bool = False) -> Payload:
    """What takes the place of a payload that cannot be decoded: the reason is raised by whoever reads it.

    `missing_key`: as KeyUnavailable, so that a workflow waits for a worker that has the key. Default: as
    PayloadUnreadable.
    """
    kind = _MISSING_KEY if missing_key else b""
    return Payload(metadata={"encoding": ENCRYPTED, REASON: kind}, data=reason.encode())


class _Unreadable(EncodingPayloadConverter):
    """Says, in the place of its content, why a payload could not be decrypted."""

    @property
    def encoding(self) -> str:
        return ENCRYPTED.decode()

    def to_payload(self, value: Any) -> Payload | None:
        return None

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        if REASON not in payload.metadata:
            raise _encoded_elsewhere(payload)
        reason = payload.data.decode(errors="replace")
        raise KeyUnavailable(reason) if payload.metadata[REASON] == _MISSING_KEY else PayloadUnreadable(reason)


class _BoundedJSON(PydanticJSONPlainPayloadConverter):
    """JSON, of which Paymaster's own messages have no more values, levels and errors than they may.

    What anybody can send to a workflow is read on a thread during which no other runs; 2 MB can hold a million values,
    each with an error of its own. What other libraries and agents send is theirs.
    """

    def from_payload(self, payload: Payload, type_hint: type[Any] | None = None) -> Any:
        """Raises ValueError, as for everything that is not the message."""
        if isinstance(type_hint, type) and issubclass(type_hint, BaseModel):
            if issubclass(type_hint, Configure):
                return read_configure(payload.data)
            check_text(payload.data, type_hint)
            if may_come_from_anybody(type_hint):
                return _message(payload.data, type_hint)
        return super().from_payload(payload, type_hint)


class _AllBoundedJSON(_BoundedJSON):
    """JSON, which has no more values and levels than may pass through also where it is no message.

    The SDK reads what nobody asked for as anything: the arguments of a query that takes none, or the second of an
    update that takes one. What has too much in it is left as it came.
    """

    def from_payload(self, payload: Payload, type_hint: type[Any] | None = None) -> Any:
        """Raises ValueError, as for everything that is not of that type."""
        if not isinstance(type_hint, type) or not issubclass(type_hint, BaseModel):
            try:
                check_values(payload.data)
                check_levels(payload.data)
            except ValueError:
                if type_hint is None:
                    return RawValue(payload)
                raise
        return super().from_payload(payload, type_hint)


class _CompressedJSON(EncodingPayloadConverter):
    """JSON compressed by zlib, which is written only to who has said that it reads it (`compressed`)."""

    def __init__(self, json: EncodingPayloadConverter) -> None:
        self._json = json

    @property
    def encoding(self) -> str:
        return _COMPRESSED.decode()

    def to_payload(self, value: Any) -> Payload | None:
        return None

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        """Raises ValueError, also for what is longer than it could have been sent as it is."""
        return self._json.from_payload(without_compression(payload), type_hint)


def compressed(message: object) -> RawValue:
    """A message for a reader who takes it compressed: many commands or answers, which say nearly the same."""
    plain = as_raw(message)
    if len(plain.payload.data) < _COMPRESSED_FROM:
        return plain
    return RawValue(Payload(metadata={"encoding": _COMPRESSED}, data=zlib.compress(plain.payload.data, _FASTEST)))


def without_compression(payload: Payload) -> Payload:
    """The payload as JSON. Raises ValueError."""
    if payload.metadata.get("encoding") != _COMPRESSED:
        return payload
    data = decompressed(payload.data, TEMPORAL_PAYLOAD_BYTES)
    return Payload(metadata={**payload.metadata, "encoding": b"json/plain"}, data=data)


def _message(text: bytes, kind: type[BaseModel]) -> BaseModel:
    try:
        return kind.model_validate(from_json(text)) if len(text) > _LONG else kind.model_validate_json(text)
    except ValidationError as error:
        if error.error_count() <= ERRORS_TOLD_MAX:
            raise
        problem = f"not a {kind.__name__}: {error.error_count():,} of its values are wrong"
    raise ValueError(problem)


def _converters(json: EncodingPayloadConverter) -> tuple[EncodingPayloadConverter, ...]:
    """Pydantic's, with this one for JSON."""
    others = [each for each in PydanticPayloadConverter().converters.values() if each.encoding != json.encoding]
    return (*others, json, _CompressedJSON(json), _Unreadable())  # JSON takes everything to write: others come first


# The SDK makes a converter for each run of a workflow; its parts keep what they know of types, which all share.
_CONVERTERS = _converters(_BoundedJSON())
_OWN_CONVERTERS = _converters(_AllBoundedJSON())


class PaymasterPayloadConverter(PydanticPayloadConverter):
    """Pydantic's, which also bounds Paymaster's messages, and says in words what it cannot read."""

    def __init__(self) -> None:
        CompositePayloadConverter.__init__(self, *_CONVERTERS)

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """Raises PayloadUnreadable for what a codec has encoded that is not at hand, KeyUnavailable without its key."""
        for payload, hint in zip_longest(payloads, type_hints or []):
            if hint is not RawValue and payload.metadata.get("encoding", b"") not in self.converters:
                raise _encoded_elsewhere(payload)
        return super().from_payloads(payloads, type_hints)


class OwnWorkflowsPayloadConverter(PaymasterPayloadConverter):
    """What Paymaster's own workflows read by: bounds everything that anybody can send them."""

    def __init__(self) -> None:
        CompositePayloadConverter.__init__(self, *_OWN_CONVERTERS)


def _encoded_elsewhere(payload: Payload) -> PayloadUnreadable:
    encoding = payload.metadata.get("encoding", b"").decode(errors="replace")[:100]
    return PayloadUnreadable(
        f"this is encoded as {encoding!r} by a codec that is not at hand here; a worker and a command are given it by "
        '[encryption] codec = "module:object", an agent by the data converter of its client'
    )


_MESSAGES = PaymasterPayloadConverter()


def as_raw(message: object) -> RawValue:
    """A message, or an argument of a plain type, as it crosses any client."""
    return RawValue(_MESSAGES.to_payload(message))


def for_reader(message: object, storages: str) -> RawValue:
    """A message with the external storages that its sender reads, or its receiver. Empty: none."""
    raw = as_raw(message)
    if storages:
        raw.payload.metadata[STORAGE] = storages.encode()
    return raw


def storages_of(message: RawValue) -> str:
    """The external storages from which whoever sent this reads, with commas between them. Empty: none."""
    return message.payload.metadata.get(STORAGE, b"").decode(errors="replace")


def from_asker(request: object, storages: str, asker: Asker) -> RawValue:
    """A request with who asks, and the external storages that it reads."""
    raw = for_reader(request, storages)
    if asker != Asker():
        raw.payload.metadata[ASKER] = asker.model_dump_json(exclude_defaults=True).encode()
    return raw


def asker_of(message: RawValue) -> Asker:
    """Who sent this request, as far as it says so."""
    said = message.payload.metadata.get(ASKER, b"{}")
    try:
        return Asker.model_validate_json(said if len(said) <= _ASKER_BYTES_MAX else b"")
    except ValueError:
        return Asker()


def in_plain_text(message: object, storages: str = "", asker: Asker | None = None) -> RawValue:
    """A message that is not encoded, also where everything else is. `storages`: those that its receiver reads."""
    raw = from_asker(message, storages, asker or Asker())
    raw.payload.metadata[PLAIN] = b"1"
    return raw


def read_raw(value: RawValue, kind: type[ValueT]) -> ValueT:
    """The message that crossed a client.

    Raises KeyUnavailable and PayloadUnreadable for what this client's codec did not decode, and ValueError for what is
    not such a message.
    """
    return _MESSAGES.from_payload(value.payload, kind)
