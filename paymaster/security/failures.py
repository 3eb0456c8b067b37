"""Exceptions on their way into Temporal's history, without known keys."""

from functools import cache
from typing import Any, ClassVar, cast

from google.protobuf.message import Message
from temporalio.api.failure.v1 import Failure
from temporalio.converter import DefaultFailureConverter, FailureConverter, PayloadConverter

from paymaster.redaction import redact, redact_bytes
from paymaster.values.cut import cut
from paymaster.values.limits import FAILURE_MESSAGE_BYTES_MAX, FAILURE_TRACEBACK_BYTES_MAX

_ENCODED = "Encoded failure"
"""The SDK's words for a failure whose texts are in a payload."""


class RedactingFailureConverter(DefaultFailureConverter):
    """What Temporal keeps of an exception: its message, its traceback, its details and its causes, without known keys.

    Part of the plugin's data converter, so that every worker and client with the plugin has it. Texts are cut to
    length: what is wrong with a message of 20,000 fields is 4 MB of words, and the refusal of an update has 2 MiB.
    `encoded` puts message and traceback into a payload, which the codec then encrypts. Default: they stay readable.
    """

    def __init__(self, *, encoded: bool = False) -> None:
        super().__init__()
        self._encoded = encoded

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        """Fills in the failure as Temporal's own converter does, and then looks at every text in it."""
        super().to_failure(exception, payload_converter, failure)
        _hide(failure, payload_converter, encoded=self._encoded)


class EncodingFailureConverter(RedactingFailureConverter):
    """A RedactingFailureConverter whose texts go into a payload; by a name, because a data converter takes a class."""

    def __init__(self) -> None:
        super().__init__(encoded=True)


class _OnTop(FailureConverter):
    """What Paymaster adds to the failure converter of a client, which is the next class."""

    encoded: ClassVar[bool]

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        super().to_failure(exception, payload_converter, failure)  # pyright: ignore[reportAbstractUsage]
        _hide(failure, payload_converter, encoded=self.encoded)

    def from_failure(self, failure: Failure, payload_converter: PayloadConverter) -> BaseException:
        shown = _shown(failure, payload_converter)
        return super().from_failure(shown, payload_converter)  # pyright: ignore[reportAbstractUsage]


@cache
def redacting(kind: type[FailureConverter], *, encoded: bool) -> type[FailureConverter]:
    """A failure converter of that kind which redacts, and with `encoded` has its texts encrypted."""
    if kind is DefaultFailureConverter:
        return EncodingFailureConverter if encoded else RedactingFailureConverter
    if issubclass(kind, RedactingFailureConverter | _OnTop):
        return kind
    return cast(type[FailureConverter], type(f"Redacting{kind.__name__}", (_OnTop, kind), {"encoded": encoded}))


def _hide(failure: Failure, payload_converter: PayloadConverter, *, encoded: bool) -> None:
    _redact(failure)
    failure.message = cut(failure.message, FAILURE_MESSAGE_BYTES_MAX)
    failure.stack_trace = cut(failure.stack_trace, FAILURE_TRACEBACK_BYTES_MAX)
    is_encoded = failure.HasField("encoded_attributes") and failure.message == _ENCODED
    if encoded and not is_encoded:
        texts = {"message": failure.message, "stack_trace": failure.stack_trace}
        failure.encoded_attributes.CopyFrom(payload_converter.to_payloads([texts])[0])
        failure.message, failure.stack_trace = _ENCODED, ""


def _shown(failure: Failure, payload_converter: PayloadConverter) -> Failure:
    """With the texts that are in its payload, for a converter that does not look there; itself where there are none."""
    if not failure.HasField("encoded_attributes"):
        return failure
    try:
        (texts,) = payload_converter.from_payloads([failure.encoded_attributes])
    except Exception:  # encrypted by a key that is not here: what stands in the failure says so
        return failure
    if not isinstance(texts, dict):
        return failure
    found = cast(dict[str, Any], texts)
    shown = Failure()
    shown.CopyFrom(failure)
    shown.message, shown.stack_trace = str(found.get("message", "")), str(found.get("stack_trace", ""))
    return shown


def _redact(message: Message) -> None:
    """Every text and all bytes in a message and in those below it; not the names in maps, which are Temporal's."""
    for field, value in cast(list[tuple[Any, Any]], message.ListFields()):
        match value:
            case str():
                setattr(message, field.name, redact(value))
            case bytes():
                setattr(message, field.name, redact_bytes(value))
            case Message():
                _redact(value)
            case bool() | int() | float():
                pass
            case _:  # a list or a map of messages
                for below in value:
                    if isinstance(below, Message):
                        _redact(below)
