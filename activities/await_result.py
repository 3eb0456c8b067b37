"""await_result: the result of a call that somebody else started under the same call id."""

import asyncio

from temporalio import activity
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from paymaster.generations import newest_result
from paymaster.security.payloads import PLAIN, STORAGE, PayloadUnreadable, read_raw, storages_of
from paymaster.values.limits import INLINE_BYTES_MAX

HEARTBEAT_EVERY_S = 10.0


class AwaitResultActivities:
    def __init__(self, client: Client) -> None:
        self._client = client

    @activity.defn
    async def await_result(self, message: RawValue) -> RawValue:
        """Waits for as long as that call's newest generation takes. `message` is the call's id, or that of a later
        generation that exists; the result an LLMResult.

        Raises a non-retryable ApplicationError when the call failed, or was cancelled when it had been sent, and for an
        id that a codec has encoded which this worker lacks.
        """
        try:
            call_id = read_raw(message, str)
        except PayloadUnreadable as error:
            raise ApplicationError(str(error), type="PayloadUnreadable", non_retryable=True) from error
        result = asyncio.ensure_future(newest_result(self._client, call_id, plain=PLAIN in message.payload.metadata))
        try:
            while not result.done():
                activity.heartbeat()
                await asyncio.wait([result], timeout=HEARTBEAT_EVERY_S)
            return _for_asker(result.result(), storages_of(message))
        finally:
            result.cancel()


def _for_asker(result: RawValue, storages: str) -> RawValue:
    """The result, which goes through external storage only where whoever asks now reads that."""
    result.payload.metadata.pop(STORAGE, None)
    if storages:
        result.payload.metadata[STORAGE] = storages.encode()
    elif result.payload.ByteSize() > INLINE_BYTES_MAX:
        detail = "the result is too large for a client without the external storage that its first caller has"
        raise ApplicationError(detail, type="ResultTooLarge", non_retryable=True)
    return result
