"""Updates as anybody may send them, also by hand: what is none is refused, and fails no workflow task."""

from collections.abc import Awaitable, Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import TypeVar, cast, get_type_hints

from pydantic import BaseModel
from temporalio.exceptions import ApplicationError

AnswerT = TypeVar("AnswerT")
MessageT = TypeVar("MessageT", bound=BaseModel)
WorkflowT = TypeVar("WorkflowT")


def with_one_message(handler: Callable[[WorkflowT, MessageT], AnswerT]) -> Callable[[WorkflowT, MessageT], AnswerT]:
    """Refuses an update without exactly one message of the handler's type, instead of failing the workflow's task.

    The SDK hands over what it could not decode as JSON as it is: bytes, say, or None.
    """
    wanted = next(kind for name, kind in get_type_hints(handler).items() if name != "return")

    @wraps(handler)
    def handle(self: WorkflowT, *messages: MessageT) -> AnswerT:
        return handler(self, _one(messages, wanted))

    @wraps(handler)
    async def handle_and_wait(self: WorkflowT, *messages: MessageT) -> object:
        return await cast("Awaitable[object]", handle(self, *messages))

    is_waiting = iscoroutinefunction(handler)  # the SDK looks whether it is one
    return cast("Callable[[WorkflowT, MessageT], AnswerT]", handle_and_wait) if is_waiting else handle


def _one(messages: tuple[MessageT, ...], wanted: type[MessageT]) -> MessageT:
    if len(messages) != 1 or not isinstance(messages[0], wanted):
        kinds = ", ".join(type(message).__name__ for message in messages) or "nothing"
        text = f"an update needs one {wanted.__name__} as JSON, not: {kinds}"
        raise ApplicationError(text, type="Refused", non_retryable=True)
    return messages[0]
