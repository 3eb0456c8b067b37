"""recall_parked: has the calls ask again that were parked in a ledger which is lost, and no other ledger's."""

from temporalio import activity
from temporalio.client import Client

from activities.call_signals import CallSignal, has_ended, signal_calls
from paymaster.messages import CallRef
from paymaster.messages.temporal_names import CALL_WORKFLOW, LEDGER_BEGAN, PURCHASE_WORKFLOW, calls_task_queue

RUNNING_CALLS = f'WorkflowType IN ("{CALL_WORKFLOW.name}", "{PURCHASE_WORKFLOW.name}") AND ExecutionStatus = "Running"'


class RecallParkedActivities:
    def __init__(self, client: Client, ledger: str) -> None:
        self._client = client
        self._calls = f'{RUNNING_CALLS} AND TaskQueue = "{calls_task_queue(ledger)}"'

    @activity.defn
    async def recall_parked(self) -> int:
        """Signals every running call of the ledger that it restarted and returns how many.

        Calls that are not parked ignore it. Raises RPCError when a call that still runs did not get the signal.
        """
        signals = [
            CallSignal(CallRef(workflow_id=call.id, run_id=call.run_id), LEDGER_BEGAN.name)
            async for call in self._client.list_workflows(self._calls)
        ]
        for error in await signal_calls(self._client, signals):
            if error is not None and not has_ended(error):
                raise error
        return len(signals)
