"""What `call_service` does with an answer that is too large for Temporal: stores its body, however long that takes."""

import asyncio
from base64 import b64decode
from hashlib import sha256
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy

from paymaster.messages import CALLS_TASK_QUEUE, StoredBody
from paymaster.messages.call_steps import BodySweep
from paymaster.messages.temporal_names import BODY_SWEEP_WORKFLOW, body_sweep_workflow_id
from paymaster.messages.wire import WireAnswer, packed
from paymaster.security.payloads import as_raw
from paymaster.security.sealed import sealed
from paymaster.storage.call_bodies import insert_body
from paymaster.values.limits import BODY_PIECE_BYTES

TRY_AGAIN_AFTER_S = (0.2, 5.0)
"""The first and the longest wait between two tries."""
AT_ONCE_MAX = 2
"""Bodies that one process stores at once, so that connections are left for its rows."""


class Prepared(NamedTuple):
    """An answer that is about to be stored."""

    answer: WireAnswer
    """With a reference in the place of its body."""
    body: StoredBody
    pieces: list[bytes]
    """Of the compressed body."""


class BodyStore:
    def __init__(self, client: Client, engine: AsyncEngine, ledger: str) -> None:
        self._client = client
        self._engine = engine
        self._ledger = ledger
        self._places = asyncio.Semaphore(AT_ONCE_MAX)

    async def prepared(self, answer: WireAnswer, attempt_id: str) -> Prepared:
        """What is to be stored of the answer to this attempt. Nothing else of it need be held meanwhile."""
        pieces, digest = await asyncio.to_thread(_pieces, answer.body)
        # With the digest: a Temporal that was put back to an earlier time sends another request under the same id.
        body = StoredBody(
            reference=f"{attempt_id}/{digest[:16]}", pieces=len(pieces), size=len(answer.body), sha256=digest
        )
        return Prepared(answer.model_copy(update={"body": b"", "stored": body}), body, pieces)

    async def store(self, prepared: Prepared, workflow_id: str) -> None:
        """Returns as soon as the database has it. Raises CancelledError only."""
        wait_s, wait_max_s = TRY_AGAIN_AFTER_S
        while True:
            try:
                async with self._places:
                    await self._store(prepared.body, prepared.pieces, workflow_id)
                return
            except Exception as error:  # whatever it is: the answer is paid for, and nowhere else
                activity.logger.error(
                    "an answer of %d bytes waits to be stored: %s: %s", prepared.body.size, type(error).__name__, error
                )
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, wait_max_s)

    async def _store(self, body: StoredBody, pieces: list[bytes], workflow_id: str) -> None:
        # First: who is killed between the two leaves a row that nobody would sweep.
        await self._client.start_workflow(
            BODY_SWEEP_WORKFLOW.name,
            as_raw(BODY_SWEEP_WORKFLOW.takes(BodySweep(ledger=self._ledger))),
            id=body_sweep_workflow_id(self._ledger),
            task_queue=CALLS_TASK_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            static_summary=f"deletes stored answers of ledger {self._ledger} whose calls are gone",
        )
        codec = self._client.data_converter.payload_codec
        await insert_body(
            self._engine,
            body.reference,
            [await sealed(piece, codec) for piece in pieces],
            ledger=self._ledger,
            namespace=self._client.namespace,
            workflow_id=workflow_id,
            sha256=body.sha256,
        )


def _pieces(body: bytes) -> tuple[list[bytes], str]:
    """The pieces of the compressed body, and the digest of the body."""
    data = b64decode(packed(body))
    return [data[at : at + BODY_PIECE_BYTES] for at in range(0, len(data), BODY_PIECE_BYTES)], sha256(body).hexdigest()
