"""Who may ask and cancel what through an endpoint: what Temporal and its tokens do is tests/e2e/test_nexus.py's."""

import pytest
from nexus_tasks import NeverCancelled
from nexusrpc import HandlerError, HandlerErrorType
from temporalio import nexus

from operations.endpoints import asked_through
from operations.generate import GenerateOperation
from paymaster.settings.tables import EndpointSettings


async def test_a_request_without_an_endpoint_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Straight to the task queue, or from a server before 1.30, which does not name it."""
    monkeypatch.setattr(nexus, "info", lambda: nexus.Info(endpoint="", namespace="p", task_queue="paymaster-nexus"))
    with pytest.raises(HandlerError, match=r"Temporal Server 1\.30 or newer") as refused:
        asked_through({"content": EndpointSettings(budget="acme")})
    assert (refused.value.type, refused.value.retryable) == (HandlerErrorType.UNAUTHORIZED, False)


@pytest.mark.parametrize(
    ("task_queue", "workflow_id"),
    [
        *(("paymaster-nexus", each) for each in ("budget/default", "call/other/1", "call/contents/1", "content/1")),
        ("paymaster-nexus", "call@acme/content/1"),
        ("paymaster-nexus@acme", "call/content/1"),
        ("paymaster-nexus@acme", "call@zoo/content/1"),
    ],
)
async def test_a_forged_token_cancels_nothing(
    monkeypatch: pytest.MonkeyPatch, task_queue: str, workflow_id: str
) -> None:
    """Not the ledger, and no call of another endpoint or of another ledger."""
    info = nexus.Info(endpoint="content", namespace="paymaster", task_queue=task_queue)
    monkeypatch.setattr(nexus, "info", lambda: info)
    context = nexus.TemporalCancelOperationContext(
        service="paymaster", operation="generate", headers={}, task_cancellation=NeverCancelled()
    )
    with pytest.raises(HandlerError) as refused:
        await GenerateOperation({}).cancel_workflow_run(context, nexus.CancelWorkflowRunOptions(workflow_id))
    assert (refused.value.type, refused.value.retryable) == (HandlerErrorType.NOT_FOUND, False)
