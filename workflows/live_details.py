"""Current details that are made when somebody looks at a workflow, and at no other time.

The Temporal UI asks for them by the query `__temporal_workflow_metadata`. Setting them at each change, as
`workflow.set_current_details` would, is work that nobody sees most of the time; a query costs no event.
"""

from typing import Any, Protocol, runtime_checkable

from temporalio import workflow
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.worker import (
    HandleQueryInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)


@runtime_checkable
class HasLiveDetails(Protocol):
    def live_details(self) -> str:
        """How it stands now, in Markdown. Changes nothing."""
        ...


class LiveDetails(Interceptor):
    """Give it to the Worker whose workflows have `live_details`."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        return _AnswersWithLiveDetails


class _AnswersWithLiveDetails(WorkflowInboundInterceptor):
    async def handle_query(self, input: HandleQueryInput) -> Any:
        answer = await super().handle_query(input)
        shown = workflow.instance()
        if isinstance(answer, WorkflowMetadata) and isinstance(shown, HasLiveDetails):
            answer.current_details = shown.live_details()
        return answer
