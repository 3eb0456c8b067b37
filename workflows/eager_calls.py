"""A call's request to its service is sent by the process that its workflow runs in, where that one sends requests.

Temporal hands such an activity out in its answer to the workflow task that schedules it (*eagerly*): no poll brings it,
and the server writes its start with the rest. It does so only for activities on the task queue of their workflow.
"""

from temporalio import workflow
from temporalio.worker import (
    Interceptor,
    StartActivityInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from paymaster.messages.temporal_names import CALL_SERVICE

SINCE_RULES = 2
"""Under older rules workers of 0.1.0 may run, which take activities from the task queue of calls and have none."""


class EagerCalls(Interceptor):
    """Give it to the Worker of calls, where that has the activity too, and tell it the rules of the ledger.

    A replay does not compare task queues: any worker goes on with what another one began.
    """

    def __init__(self) -> None:
        self._are_eager = False

    def follow(self, rules: int) -> None:
        """What begins from now on goes by the rules of the ledger."""
        self._are_eager = rules >= SINCE_RULES

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        eager = self

        class Outbound(WorkflowOutboundInterceptor):
            def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[object]:
                if eager._are_eager and input.activity == CALL_SERVICE.name:
                    input.task_queue = workflow.info().task_queue
                return super().start_activity(input)

        class Inbound(WorkflowInboundInterceptor):
            def init(self, outbound: WorkflowOutboundInterceptor) -> None:
                super().init(Outbound(outbound))

        return Inbound
