"""Signals that a workflow must not lose: the SDK drops one that it cannot decode."""

from typing import TypeVar

from pydantic import BaseModel
from temporalio import workflow
from temporalio.common import RawValue

MessageT = TypeVar("MessageT", bound=BaseModel)


def message_of(signal: RawValue, kind: type[MessageT]) -> MessageT | None:
    """The message; None, with a line in the log, when it is none or was broken on its way.

    Raises KeyUnavailable when this worker has no key for it: the workflow's task then fails and is tried again until a
    worker has the key.
    """
    try:
        return workflow.payload_converter().from_payload(signal.payload, kind)
    except ValueError as error:
        workflow.logger.error("a signal that is no %s is dropped: %s", kind.__name__, error)
        return None
