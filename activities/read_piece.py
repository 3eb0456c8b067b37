"""read_piece: a piece of an answer that was too large for Temporal, for an agent that wants it."""

from google.protobuf.message import DecodeError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from paymaster.messages.call_steps import BodyPiece
from paymaster.messages.temporal_names import ANSWER_GONE
from paymaster.security.payloads import PLAIN, as_raw, in_plain_text, read_raw
from paymaster.security.sealed import unsealed
from paymaster.storage.call_bodies import piece_of_body


class ReadPieceActivities:
    def __init__(self, client: Client, engine: AsyncEngine) -> None:
        self._client = client
        self._engine = engine

    @activity.defn
    async def read_piece(self, message: RawValue) -> RawValue:
        """`message` is a BodyPiece, the result its compressed bytes: in plain text for whoever asks in plain text.

        Raises a non-retryable ApplicationError of type AnswerGone for what is not stored, or cannot be read.
        """
        try:
            asked = read_raw(message, BodyPiece)
            stored = await piece_of_body(self._engine, asked.body.reference, asked.body.sha256, asked.piece)
            if stored is None:
                raise _gone(
                    "the stored answer is gone: it is kept for as long as Temporal keeps the workflow of its call"
                )
            piece = await unsealed(stored, self._client.data_converter.payload_codec)
        except (ValueError, DecodeError) as error:  # of a message that is none; of what a codec cannot decode any more
            raise _gone(f"the stored answer cannot be read: {error}") from error
        return in_plain_text(piece) if PLAIN in message.payload.metadata else as_raw(piece)


def _gone(detail: str) -> ApplicationError:
    return ApplicationError(detail, type=ANSWER_GONE, non_retryable=True)
