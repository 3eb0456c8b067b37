"""The model calls of agents under Temporal's own plugins, as calls of Paymaster: no activity waits while one is parked.

`Worker(…, interceptors=[ModelCalls("acme/agents")], workflow_runner=paymaster.sandbox())`, beside `OpenAIAgentsPlugin`
or pydantic-ai's `PydanticAIPlugin`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from importlib import import_module
from typing import Any, Literal, cast

from temporalio import workflow
from temporalio.worker import (
    StartActivityInput,
    StartLocalActivityInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from paymaster.integrations.model_calls.moving import Kept, Moves
from paymaster.run_headers import RunHeaders, with_run_headers
from paymaster.transport import PaymasterTransport

__all__ = ["ModelCalls"]

_PATCH = "paymaster-model-calls"
_PLUGINS: Mapping[str, str] = {
    "temporalio.openai_agents": "paymaster.integrations.model_calls.agents_sdk",
    "pydantic_ai.durable_exec.temporal": "paymaster.integrations.model_calls.pydantic_ai_models",
}
"""By plugin, the module that knows its model activity."""


class ModelCalls(RunHeaders):
    """For a worker, and for its Replayer: a plugin's model activity becomes a child workflow under the budget.

    The plugin's model runs in the workflow, over PaymasterTransport. Agents that were under way before go on with
    activities. What stays an activity, such as a stream, is said in the log once; `run_budget` reaches it as a header.
    """

    def __init__(
        self,
        budget: str,
        *,
        route: str | None = None,
        priority: int = 0,
        on_exhausted: Literal["wait", "fail"] | None = None,
        wait_at_most: timedelta | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """The arguments of PaymasterTransport. `route` None: the model that a request names."""
        transport = PaymasterTransport(
            budget,
            route=route,
            priority=priority,
            on_exhausted=on_exhausted,
            wait_at_most=wait_at_most,
            metadata=metadata,
        )
        self._moves = [moves(transport) for moves in _known()]
        self._said: set[str] = set()

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        decide = self._decided

        class Outbound(WorkflowOutboundInterceptor):
            def start_activity(self, input: StartActivityInput) -> "workflow.ActivityHandle[Any]":
                answer = decide(input.activity, input.args)
                return super().start_activity(input) if answer is None else _handle(answer)

            def start_local_activity(self, input: StartLocalActivityInput) -> "workflow.ActivityHandle[Any]":
                answer = decide(input.activity, input.args)
                return super().start_local_activity(input) if answer is None else _handle(answer)

        class Inbound(WorkflowInboundInterceptor):
            def init(self, outbound: WorkflowOutboundInterceptor) -> None:
                super().init(Outbound(with_run_headers(outbound)))

        return Inbound

    def _decided(self, name: str, args: Sequence[Any]) -> Callable[[], Awaitable[Any]] | None:
        """What answers instead of the activity of this name. None: it runs as it is."""
        for moves in self._moves:
            answer = moves(name, args)
            if isinstance(answer, Kept):
                self._say(f"the activity {name} stays one, under whatever budget its client has: {answer.why}")
                return None
            if answer is not None:
                return answer if workflow.patched(_PATCH) else None
        return None

    def _say(self, what: str) -> None:
        if what not in self._said and not workflow.unsafe.is_replaying():
            self._said.add(what)
            workflow.logger.warning(what)


def _handle(answer: Callable[[], Awaitable[Any]]) -> "workflow.ActivityHandle[Any]":
    async def answered() -> Any:
        return await answer()

    return cast("workflow.ActivityHandle[Any]", asyncio.create_task(answered()))


def _known() -> list[Callable[[PaymasterTransport], Moves]]:
    """Of the plugins that are installed, imported here: in a workflow it would take too long."""
    found: list[Callable[[PaymasterTransport], Moves]] = []
    for plugin, module in _PLUGINS.items():
        try:
            import_module(plugin)
        except ImportError:
            continue
        found.append(import_module(module).moves)
    return found
