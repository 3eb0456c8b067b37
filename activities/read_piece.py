"""read_piece: a piece of an answer that was too large for Temporal, for an agent that wants it."""

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from paymaster.messages.call_steps import BodyPiece
from paymaster.messages.temporal_names import ANSWER_GONE
from paymaster.security.payloads import PLAIN, as_raw, in_plain_text, read_raw
from paymaster.stored_bodies import BodyGone, stored_piece


class ReadPieceActivities:
    def __init__(self, client: Client, engine: AsyncEngine, ledger: str) -> None:
        self._client = client
        self._engine = engine
        self._ledger = ledger

    @activity.defn
    async def read_piece(self, message: RawValue) -> RawValue:
        """`message` is a BodyPiece, the result its compressed bytes: in plain text for whoever asks in plain text.

        Raises a non-retryable ApplicationError of type AnswerGone for what is not stored, or cannot be read.
        """
        try:
            asked = read_raw(message, BodyPiece)
            codec = self._client.data_converter.payload_codec
            piece = await stored_piece(self._engine, self._ledger, codec, asked)
        except (BodyGone, ValueError) as error:  # of a message that is none
            reason = error if isinstance(error, BodyGone) else f"cannot be read: {error}"
            raise ApplicationError(f"the stored answer {reason}", type=ANSWER_GONE, non_retryable=True) from error
        return in_plain_text(piece) if PLAIN in message.payload.metadata else as_raw(piece)
