"""Pieces of stored answers for callers of other namespaces: what goes wrong is said, and tried again where it helps."""

import pytest
from nexus_tasks import NeverCancelled
from nexusrpc import HandlerError, HandlerErrorType
from nexusrpc.handler import StartOperationContext
from sqlalchemy.exc import InterfaceError
from temporalio import nexus
from temporalio.common import RawValue

from activities.read_piece import ReadPieceActivities
from operations.service import PaymasterServiceHandler
from paymaster.messages import BodyPiece, StoredBody
from paymaster.security.payloads import as_raw
from paymaster.settings.tables import EndpointSettings


class _DatabaseIsAway(ReadPieceActivities):
    def __init__(self) -> None:
        """Without a client and an engine."""

    async def read_piece(self, message: RawValue) -> RawValue:
        raise InterfaceError("SELECT …", {}, OSError("cannot connect to db.internal"))


async def test_a_piece_waits_for_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the caller learns nothing of it."""
    info = nexus.Info(endpoint="content", namespace="paymaster", task_queue="paymaster-nexus")
    monkeypatch.setattr(nexus, "info", lambda: info)
    handler = PaymasterServiceHandler({"content": EndpointSettings(budget="acme")}, _DatabaseIsAway())
    piece = BodyPiece(body=StoredBody(reference="r", pieces=1, size=1, sha256="0" * 64), piece=0)
    context = StartOperationContext(
        service="paymaster", operation="read_piece", headers={}, request_id="1", task_cancellation=NeverCancelled()
    )
    with pytest.raises(HandlerError) as failed:
        await handler.read_piece(context, as_raw(piece))
    assert (failed.value.type, failed.value.retryable) == (HandlerErrorType.UNAVAILABLE, True)
    assert failed.value.__suppress_context__
    assert "db.internal" not in failed.value.message
