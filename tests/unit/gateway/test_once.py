"""Which call a request is, beside a real PostgreSQL and without Temporal."""

import json
import random
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from paymaster.gateway.asked import asked_call
from paymaster.gateway.once import Once
from paymaster.gateway.terms import ClientTerms
from paymaster.storage.engine import create_engine
from paymaster.storage.left_requests import note_left, take_left
from paymaster.values.limits import WIRE_INLINE_BYTES_MAX
from paymaster.wire_requests import TemporalUnreachable


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


async def test_a_retry_that_is_not_begun_takes_nothing_from_the_next(engine: AsyncEngine) -> None:
    """Of a large request, whose body cannot be stored now: the call that its first sender left would be paid twice."""
    client = ClientTerms("notebooks", "acme")
    image = random.Random(0).randbytes(2 * WIRE_INLINE_BYTES_MAX).hex()
    body = json.dumps({"model": "writer", "messages": [{"role": "user", "content": image}]}).encode()
    headers = {"x-stainless-retry-count": "1"}
    asked = asked_call("/v1/chat/completions", headers, body, client, timedelta(seconds=50))
    await note_left(engine, "l", client.name, asked.request.digest(), "gw-sent")
    once = Once(await Client.connect("127.0.0.1:1", lazy=True), engine, "l")
    with pytest.raises(TemporalUnreachable):
        async with once.call(asked, client):
            pass
    assert await take_left(engine, "l", client.name, asked.request.digest()) == "gw-sent"
