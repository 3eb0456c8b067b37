"""Signals as anybody may send them, also by hand: the SDK drops what it cannot decode, and an error of Python in a
handler would fail the workflow's task again and again."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from pydantic import BaseModel
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue

from paymaster.keys.api_key import KeyUnavailable

MessageT = TypeVar("MessageT", bound=BaseModel)
WorkflowT = TypeVar("WorkflowT")


def tolerate_any_payload_count(handler: Callable[[WorkflowT, RawValue], None]) -> Callable[[WorkflowT, RawValue], None]:
    """Calls the handler even if the signal has no payload or several; it then gets an empty one."""

    @wraps(handler)  # also the signature, by which the SDK knows that it must not decode
    def handle(self: WorkflowT, *messages: RawValue) -> None:
        handler(self, messages[0] if len(messages) == 1 else RawValue(Payload()))

    return handle


def message_of(signal: RawValue, kind: type[MessageT]) -> MessageT | None:
    """The message; None, with a line in the log, when it is none or was broken on its way.

    Raises KeyUnavailable when this worker has no key for it: the workflow's task then fails and is tried again until a
    worker has the key.
    """
    try:
        return decoded(signal, kind)
    except KeyUnavailable:
        raise
    except Exception as error:  # converters raise whatever they like: KeyError for an encoding that they do not know
        workflow.logger.error("a signal that is no %s is dropped: %s", kind.__name__, error)
        return None


def text_of(signal: RawValue, kind: type[MessageT]) -> bytes | None:
    """The JSON of a message that is read later; None, with a line in the log, when it is none.

    Raises KeyUnavailable when this worker has no key for it.
    """
    if signal.payload.metadata.get("encoding") == b"json/plain":
        return signal.payload.data
    message_of(signal, kind)  # which says what is the matter
    return None


def decoded(message: RawValue, kind: type[MessageT]) -> MessageT:
    """The message. Raises whatever the converter does, and TypeError for what is not JSON, such as bytes."""
    found = workflow.payload_converter().from_payload(message.payload, kind)
    if not isinstance(found, kind):
        raise TypeError(f"{type(found).__name__} instead of JSON")
    return found
