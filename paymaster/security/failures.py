"""Exceptions on their way into Temporal's history, without known keys."""

from typing import Any, cast

from google.protobuf.message import Message
from temporalio.api.failure.v1 import Failure
from temporalio.converter import DefaultFailureConverter, PayloadConverter

from paymaster.security.redaction import redact, redact_bytes


class RedactingFailureConverter(DefaultFailureConverter):
    """What Temporal keeps of an exception: its message, its traceback, its details and its causes, without known keys.

    Part of the plugin's data converter, so that every worker and client with the plugin has it.
    """

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        """Fills in the failure as Temporal's own converter does, and then looks at every text in it."""
        super().to_failure(exception, payload_converter, failure)
        _redact(failure)


class EncodingFailureConverter(RedactingFailureConverter):
    """The same with message and traceback in a payload, which the codec then encrypts."""

    def __init__(self) -> None:
        super().__init__(encode_common_attributes=True)


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
