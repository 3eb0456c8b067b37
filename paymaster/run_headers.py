"""What `run_budget` says, as a header of the activities and child workflows that are started within."""

from typing import Any, NoReturn

from temporalio import workflow
from temporalio.worker import (
    ActivityInboundInterceptor,
    ContinueAsNewInput,
    ExecuteActivityInput,
    Interceptor,
    StartActivityInput,
    StartChildWorkflowInput,
    StartLocalActivityInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from paymaster.messages.temporal_names import CALL_WORKFLOW
from paymaster.runs import current_scope, inherited_scope, scope_in, take_scope, with_scope


class RunHeaders(Interceptor):
    """For a worker of agents. A child workflow reads its header without it, an activity does not."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _OfActivity(super().intercept_activity(next))

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        return _OfWorkflow


def with_run_headers(outbound: WorkflowOutboundInterceptor) -> WorkflowOutboundInterceptor:
    """For an interceptor of workflows that has an outbound one of its own."""
    return _Outbound(outbound)


class _OfActivity(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        """In a task of its own, whose context the thread of a `def` activity has too."""
        if scope := scope_in(input.headers):
            take_scope(scope)
        return await super().execute_activity(input)


class _OfWorkflow(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(with_run_headers(outbound))


class _Outbound(WorkflowOutboundInterceptor):
    def start_activity(self, input: StartActivityInput) -> "workflow.ActivityHandle[Any]":
        input.headers = with_scope(input.headers, current_scope())
        return super().start_activity(input)

    def start_local_activity(self, input: StartLocalActivityInput) -> "workflow.ActivityHandle[Any]":
        input.headers = with_scope(input.headers, current_scope())
        return super().start_local_activity(input)

    async def start_child_workflow(self, input: StartChildWorkflowInput) -> "workflow.ChildWorkflowHandle[Any, Any]":
        if input.workflow != CALL_WORKFLOW.name:  # whose request has it
            input.headers = with_scope(input.headers, current_scope())
        return await super().start_child_workflow(input)

    def continue_as_new(self, input: ContinueAsNewInput) -> NoReturn:
        """With what the workflow was started with: its own `run_budget` it says again."""
        input.headers = with_scope(input.headers, inherited_scope())
        super().continue_as_new(input)
