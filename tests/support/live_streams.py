"""A gateway's internal listener, and workers that push to it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from raw_server import SomeKeys

from paymaster.gateway.streams import Opened, Streams
from paymaster.live.pushes import Push, Pushes
from paymaster.settings.gateway_streams import GatewayStreamsSettings

CALL_ID = "call-1"


def stream_settings(**fields: Any) -> GatewayStreamsSettings:
    return GatewayStreamsSettings.model_validate({"secret_key": "a-secret", **fields})


@asynccontextmanager
async def listening(**fields: Any) -> AsyncGenerator[Streams]:
    async with Streams(stream_settings(**fields), SomeKeys()) as streams:
        yield streams


@asynccontextmanager
async def pushing(patience_s: float = 5.0, **fields: Any) -> AsyncGenerator[Pushes]:
    pushes = Pushes(stream_settings(waits_for_reader=timedelta(seconds=patience_s), **fields), SomeKeys())
    try:
        yield pushes
    finally:
        await pushes.close()


async def push_to(pushes: Pushes, opened: Opened, call_id: str = CALL_ID) -> Push:
    assert opened.stream_to is not None
    push = await pushes.to(opened.stream_to, call_id)
    assert push is not None
    return push


async def all_of(opened: Opened) -> bytes:
    async with asyncio.timeout(20):
        return b"".join([piece async for piece in opened.pieces()])
