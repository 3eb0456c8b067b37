"""Bytes that are stored outside of Temporal, encrypted as its payloads are."""

from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue
from temporalio.converter import PayloadCodec

from paymaster.security.payloads import as_raw, read_raw


async def sealed(data: bytes, codec: PayloadCodec | None) -> bytes:
    """The bytes as the codec hides them. Raises what the codec raises."""
    payload = as_raw(data).payload
    if codec is not None:
        (payload,) = await codec.encode([payload])
    return payload.SerializeToString()


async def unsealed(stored: bytes, codec: PayloadCodec | None) -> bytes:
    """What was sealed. Raises KeyUnavailable, PayloadUnreadable, and ValueError for what nobody sealed."""
    payload = Payload.FromString(stored)
    if codec is not None:
        (payload,) = await codec.decode([payload])
    return read_raw(RawValue(payload), bytes)
