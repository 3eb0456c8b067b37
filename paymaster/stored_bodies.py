"""Bodies that are too large for Temporal's histories, between their bytes and the rows of the database."""

import asyncio
from base64 import b64decode
from functools import partial
from hashlib import sha256
from typing import NamedTuple
from uuid import uuid4

from google.protobuf.message import DecodeError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.converter import PayloadCodec

from paymaster.errors import AnswerGone
from paymaster.messages import LLMRequest, StoredBody, call_workflow_id
from paymaster.messages.call_steps import BodyPiece, BodySweep
from paymaster.messages.temporal_names import (
    BODY_SWEEP_WORKFLOW,
    body_sweep_workflow_id,
    calls_task_queue,
    stored_request_name,
)
from paymaster.messages.wire import packed
from paymaster.security.payloads import as_raw
from paymaster.security.sealed import sealed, unsealed
from paymaster.storage.call_bodies import insert_body, piece_of_body
from paymaster.stored_answers import decompressed, whole
from paymaster.values.limits import BODY_PIECE_BYTES, WIRE_INLINE_BYTES_MAX


class BodyGone(Exception):
    """A body is not stored any more, or cannot be read; the text goes on "the stored answer"."""


class Pieces(NamedTuple):
    """A body that is about to be stored."""

    body: StoredBody
    pieces: list[bytes]
    """Of the compressed body."""


def in_pieces(body: bytes, prefix: str) -> Pieces:
    """Takes seconds for a large one. The name begins with `prefix` and tells bodies of other content apart."""
    data, digest = b64decode(packed(body)), sha256(body).hexdigest()
    pieces = [data[at : at + BODY_PIECE_BYTES] for at in range(0, len(data), BODY_PIECE_BYTES)]
    stored = StoredBody(reference=f"{prefix}/{digest[:16]}", pieces=len(pieces), size=len(body), sha256=digest)
    return Pieces(stored, pieces)


async def store(client: Client, engine: AsyncEngine, ledger: str, pieces: Pieces, workflow_id: str) -> None:
    """Encrypted as payloads are. `workflow_id`: of the call; when Temporal has it no more, the body is deleted.

    Raises RPCError, the driver's errors and those of the codec; then nothing is stored.
    """
    # First: who is killed between the two leaves a row that nobody would sweep.
    await client.start_workflow(
        BODY_SWEEP_WORKFLOW.name,
        as_raw(BODY_SWEEP_WORKFLOW.takes(BodySweep(ledger=ledger))),
        id=body_sweep_workflow_id(ledger),
        task_queue=calls_task_queue(ledger),
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary=f"deletes stored bodies of ledger {ledger} whose calls are gone",
    )
    codec = client.data_converter.payload_codec
    await insert_body(
        engine,
        pieces.body.reference,
        [await sealed(piece, codec) for piece in pieces.pieces],
        ledger=ledger,
        namespace=client.namespace,
        workflow_id=workflow_id,
        sha256=pieces.body.sha256,
    )


async def stored_request(client: Client, engine: AsyncEngine, ledger: str, request: LLMRequest) -> LLMRequest:
    """The request with its body in the database, where that is too large to go through Temporal; else as it is.

    It has a call id. Raises what `store` raises.
    """
    if request.wire is None or len(request.wire.body) <= WIRE_INLINE_BYTES_MAX or request.call_id is None:
        return request
    if await asyncio.to_thread(_is_carried, request.wire.body):
        return request
    name = stored_request_name(request.call_id, uuid4().hex)
    pieces = await asyncio.to_thread(in_pieces, request.wire.body, name)
    await store(client, engine, ledger, pieces, call_workflow_id(request.call_id, ledger))
    wire = request.wire.model_copy(update={"body": b"", "stored": pieces.body})
    return request.model_copy(update={"wire": wire})


def _is_carried(body: bytes) -> bool:
    return len(packed(body)) <= WIRE_INLINE_BYTES_MAX


async def stored_piece(engine: AsyncEngine, ledger: str, codec: PayloadCodec | None, asked: BodyPiece) -> bytes:
    """The piece, compressed, of a body that is stored for this ledger.

    Raises BodyGone, KeyUnavailable and the driver's errors.
    """
    try:
        stored = await piece_of_body(engine, ledger, asked.body.reference, asked.body.sha256, asked.piece)
        if stored is not None:
            return await unsealed(stored, codec)
    except (ValueError, DecodeError) as error:  # of what a codec cannot decode any more
        raise BodyGone(f"cannot be read: {error}") from error
    raise BodyGone("is gone: it is kept for as long as Temporal keeps the workflow of its call")


async def read_body(engine: AsyncEngine, ledger: str, codec: PayloadCodec | None, body: StoredBody) -> bytes:
    """The whole body, which is stored for this ledger. Raises BodyGone, KeyUnavailable and the driver's errors."""
    try:
        return await whole(decompressed(body, partial(stored_piece, engine, ledger, codec)))
    except AnswerGone as error:
        raise BodyGone("is not what it was when it was stored") from error
