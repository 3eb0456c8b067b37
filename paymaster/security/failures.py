"""Exceptions on their way into Temporal's history, without known keys."""

from typing import Any, cast

from google.protobuf.message import Message
from temporalio.api.failure.v1 import Failure
from temporalio.converter import DefaultFailureConverter, PayloadConverter

from paymaster.redaction import redact, redact_bytes
from paymaster.values.cut import cut
from paymaster.values.limits import FAILURE_MESSAGE_BYTES_MAX, FAILURE_TRACEBACK_BYTES_MAX


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
        _redact(failure)
        failure.message = cut(failure.message, FAILURE_MESSAGE_BYTES_MAX)
        failure.stack_trace = cut(failure.stack_trace, FAILURE_TRACEBACK_BYTES_MAX)
        if self._encoded:
            texts = {"message": failure.message, "stack_trace": failure.stack_trace}
            failure.encoded_attributes.CopyFrom(payload_converter.to_payloads([texts])[0])
            failure.message, failure.stack_trace = "Encoded failure", ""


class EncodingFailureConverter(RedactingFailureConverter):
    """A RedactingFailureConverter whose texts go into a payload; by a name, because a data converter takes a class."""

    def __init__(self) -> None:
        super().__init__(encoded=True)


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
