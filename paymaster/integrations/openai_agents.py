"""OpenAI's Agents SDK over Paymaster: `RunConfig(model_provider=PaymasterModels(budget="acme/agents"))`."""

from agents import Model, OpenAIProvider, get_current_trace
from agents.tracing.traces import NoOpTrace
from temporalio import workflow

from paymaster.integrations.openai import AsyncOpenAI
from paymaster.transport import PaymasterTransport

__all__ = ["PaymasterModels"]


class PaymasterModels(OpenAIProvider):
    """The models of a run, each of whose requests is a call under the budget, in workflows, activities and elsewhere.

    A workflow that makes them needs a worker with `workflow_runner=paymaster.sandbox()` or PaymasterPlugin. The SDK
    does not trace what such a workflow runs: it would send it to OpenAI, from a thread.
    """

    def __init__(
        self,
        budget: str | None = None,
        *,
        route: str | None = None,
        transport: PaymasterTransport | None = None,
        use_responses: bool = True,
    ) -> None:
        """`route` None: the model that an agent names, which is a route or `service/model`. `transport`: instead of
        both, for its further terms. `use_responses` False: chat completions. Default: the Responses API, as the SDK's.
        """
        super().__init__(
            openai_client=AsyncOpenAI(budget, route=route, transport=transport),
            use_responses=use_responses,
            use_responses_websocket=False,
        )
        if workflow.in_workflow():
            NoOpTrace().start(mark_as_current=True)

    def get_model(self, model_name: str | None) -> Model:
        """Raises RuntimeError in a workflow whose run the SDK traces."""
        if workflow.in_workflow() and not isinstance(get_current_trace(), NoOpTrace):
            raise RuntimeError(
                "the SDK would trace this run from a thread, which a workflow must not start: make PaymasterModels in "
                "the workflow, or say RunConfig(tracing_disabled=True)"
            )
        return super().get_model(model_name)
