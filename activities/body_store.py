"""What `call_service` does with an answer that is too large for Temporal: stores its body, however long that takes."""

import asyncio
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.client import Client

from paymaster.messages.wire import WireAnswer
from paymaster.stored_bodies import Pieces, in_pieces, store

TRY_AGAIN_AFTER_S = (0.2, 5.0)
"""The first and the longest wait between two tries."""
AT_ONCE_MAX = 2
"""Bodies that one process stores at once, so that connections are left for its rows."""


class Prepared(NamedTuple):
    """An answer that is about to be stored."""

    answer: WireAnswer
    """With a reference in the place of its body."""
    pieces: Pieces


class BodyStore:
    def __init__(self, client: Client, engine: AsyncEngine, ledger: str) -> None:
        self._client = client
        self._engine = engine
        self._ledger = ledger
        self._places = asyncio.Semaphore(AT_ONCE_MAX)

    async def prepared(self, answer: WireAnswer, attempt_id: str) -> Prepared:
        """What is to be stored of the answer to this attempt. Nothing else of it need be held meanwhile."""
        # By its content too: a Temporal that was put back to an earlier time sends another request under the same id.
        pieces = await asyncio.to_thread(in_pieces, answer.body, attempt_id)
        return Prepared(answer.model_copy(update={"body": b"", "stored": pieces.body}), pieces)

    async def store(self, prepared: Prepared, workflow_id: str) -> None:
        """Returns as soon as the database has it. Raises CancelledError only."""
        wait_s, wait_max_s = TRY_AGAIN_AFTER_S
        while True:
            try:
                async with self._places:
                    await store(self._client, self._engine, self._ledger, prepared.pieces, workflow_id)
                return
            except Exception as error:  # whatever it is: the answer is paid for, and nowhere else
                size, kind = prepared.pieces.body.size, type(error).__name__
                activity.logger.error("an answer of %d bytes waits to be stored: %s: %s", size, kind, error)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, wait_max_s)
