"""Who may cancel what through an endpoint: what Temporal and its tokens do is tests/e2e/test_nexus.py's."""

import pytest
from nexusrpc import HandlerError, HandlerErrorType
from nexusrpc.handler import OperationTaskCancellation
from temporalio import nexus

from operations.generate import GenerateOperation


class _Never(OperationTaskCancellation):
    def is_cancelled(self) -> bool:
        return False

    def cancellation_reason(self) -> str | None:
        return None

    def wait_until_cancelled_sync(self, timeout: float | None = None) -> bool:
        return False

    async def wait_until_cancelled(self) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("workflow_id", ["budget/default", "call/other/1", "call/contents/1", "content/1"])
async def test_a_forged_token_cancels_nothing(monkeypatch: pytest.MonkeyPatch, workflow_id: str) -> None:
    """Not the ledger, and no call of another endpoint."""
    info = nexus.Info(endpoint="content", namespace="paymaster", task_queue="paymaster-nexus")
    monkeypatch.setattr(nexus, "info", lambda: info)
    context = nexus.TemporalCancelOperationContext(
        service="paymaster", operation="generate", headers={}, task_cancellation=_Never()
    )
    with pytest.raises(HandlerError) as refused:
        await GenerateOperation({}).cancel_workflow_run(context, nexus.CancelWorkflowRunOptions(workflow_id))
    assert (refused.value.type, refused.value.retryable) == (HandlerErrorType.NOT_FOUND, False)
