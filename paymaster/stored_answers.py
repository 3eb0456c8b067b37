"""Reading an answer that was too large for Temporal's histories: in pieces, through the workers that stored it."""

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256

from paymaster.errors import AnswerGone
from paymaster.messages import LLMResult, StoredBody
from paymaster.messages.call_steps import BodyPiece

PIECE_BYTES_MAX = 1024 * 1024
"""Of a stored body, which may be a thousand times as large as what is stored of it."""
ReadPiece = Callable[[BodyPiece], Awaitable[bytes]]
"""Gives a piece as it is stored, compressed. Raises AnswerGone."""


async def pieces_of(result: LLMResult, read: ReadPiece) -> AsyncIterator[bytes]:
    """The bytes of a call's answer as the provider wrote it, in their order.

    Raises AnswerGone, also after some pieces, and ValueError for a result that has no such bytes.
    """
    if result.wire is None:
        raise ValueError("this result has no bytes of a provider: only wire calls, and answers that are too large, do")
    if result.wire.stored is None:
        yield result.wire.body
        return
    async for piece in decompressed(result.wire.stored, read):
        yield piece


async def decompressed(body: StoredBody, read: ReadPiece) -> AsyncIterator[bytes]:
    """The bytes of a stored body in their order. Raises AnswerGone, also after some pieces, and what `read` raises."""
    unpacker, digest, size = zlib.decompressobj(), sha256(), 0
    for number in range(body.pieces):
        data = await read(BodyPiece(body=body, piece=number))
        more = True
        while more:
            try:
                piece = unpacker.decompress(data, PIECE_BYTES_MAX)
            except zlib.error as error:
                raise _changed(body) from error
            data = unpacker.unconsumed_tail
            more = bool(data) or len(piece) == PIECE_BYTES_MAX  # it may have more to give of what it has taken
            size += len(piece)
            digest.update(piece)
            if size > body.size:
                raise _changed(body)
            yield piece
    if digest.hexdigest() != body.sha256:
        raise _changed(body)


async def whole(pieces: AsyncIterator[bytes]) -> bytes:
    """All of them as one."""
    return b"".join([piece async for piece in pieces])


def _changed(body: StoredBody) -> AnswerGone:
    return AnswerGone(f"the stored answer {body.reference} is not what it was when it was stored")
