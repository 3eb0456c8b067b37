"""answer_calls: the ledger's messages to calls: the end of a parking, or a grant taken back."""

from temporalio import activity
from temporalio.client import Client

from activities.call_signals import CallSignal, has_ended, signal_calls
from paymaster.messages import CallMessage, CallMessages, Delivery, ParkedAnswer
from paymaster.messages.temporal_names import BUDGET_ANSWER, BUDGET_WITHDRAWN


class AnswerCallsActivities:
    def __init__(self, client: Client) -> None:
        self._client = client

    @activity.defn
    async def answer_calls(self, batch: CallMessages) -> Delivery:
        """What arrived, and for whom it came too late. The rest is sent again with the next batch."""
        delivered: list[int] = []
        gone: list[int] = []
        signals = [_signal(message) for message in batch.messages]
        errors = await signal_calls(self._client, signals)
        for message, signal, error in zip(batch.messages, signals, errors, strict=True):
            if error is None:
                delivered.append(message.sequence)
            elif has_ended(error):
                gone.append(message.sequence)
            else:
                activity.logger.warning("%s to %s not delivered: %s", signal.name, signal.call.workflow_id, error)
        return Delivery(delivered=tuple(delivered), gone=tuple(gone))


def _signal(message: CallMessage) -> CallSignal:
    name = BUDGET_ANSWER.name if isinstance(message, ParkedAnswer) else BUDGET_WITHDRAWN.name
    return CallSignal(message.call, name, message)
