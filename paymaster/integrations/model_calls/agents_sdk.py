"""The model activity of temporalio-openai-agents, run in the workflow: the plugin's own code, with our client."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, cast

from agents import OpenAIProvider
from temporalio.exceptions import ActivityError, ApplicationError

from paymaster.integrations.model_calls.moving import Kept, Moves
from paymaster.integrations.openai import AsyncOpenAI
from paymaster.transport import PaymasterTransport

_ACTIVITY = "invoke_model_activity"
_STREAMING = "invoke_model_activity_streaming"
_KEYS = {"input", "model_settings", "tracing"}
"""Of what the activity takes, without which it is not the plugin's."""


def moves(transport: PaymasterTransport) -> Moves:
    """What is known of the plugin, for requests over this transport."""
    invoke = _plugins_own()

    def decided(name: str, args: Sequence[Any]) -> Callable[[], Awaitable[Any]] | Kept | None:
        if name == _STREAMING:
            return Kept("the events of a stream are published by an activity")
        if name != _ACTIVITY:
            return None
        request: Any = args[0] if len(args) == 1 else None
        if invoke is None or not isinstance(request, dict) or not _KEYS.issubset(cast("dict[str, Any]", request)):
            return Kept("it is not as in temporalio-openai-agents 1.1")
        return partial(_answer, invoke, transport, request)

    return decided


def _plugins_own() -> Callable[[OpenAIProvider, Any], Awaitable[Any]] | None:
    """What the activity does but for its heartbeats. None in a version of the plugin that has other code."""
    try:
        from temporalio.openai_agents._invoke_model_activity import (
            ModelActivity,
        )
    except ImportError:
        return None
    unwrapped = getattr(ModelActivity.invoke_model_activity, "__wrapped__", None)
    return unwrapped and (lambda provider, request: unwrapped(ModelActivity(provider), request))


async def _answer(
    invoke: Callable[[OpenAIProvider, Any], Awaitable[Any]], transport: PaymasterTransport, request: Any
) -> Any:
    """Raises ActivityError, as the activity would."""
    try:
        return await invoke(OpenAIProvider(openai_client=AsyncOpenAI(transport=transport)), request)
    except ApplicationError as error:
        raise ActivityError(
            "Activity task failed",
            scheduled_event_id=0,
            started_event_id=0,
            identity="",
            activity_type=_ACTIVITY,
            activity_id="",
            retry_state=None,
        ) from error
