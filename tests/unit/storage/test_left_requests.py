"""Requests whose callers left, in a real PostgreSQL: each is found once, by its own client's retry, for a while."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.storage.engine import create_engine
from paymaster.storage.left_requests import note_left, take_left


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


async def test_a_retry_finds_what_its_own_client_left(engine: AsyncEngine) -> None:
    await note_left(engine, "l", "anna", "body", "first")
    await note_left(engine, "l", "anna", "body", "second")
    for ledger, client, digest in (("other", "anna", "body"), ("l", "bert", "body"), ("l", "anna", "other")):
        assert await take_left(engine, ledger, client, digest) is None
    found = [await take_left(engine, "l", "anna", "body") for _ in range(3)]
    assert found == ["first", "second", None]


async def test_of_retries_at_once_each_finds_another_call(engine: AsyncEngine) -> None:
    for number in range(5):
        await note_left(engine, "l", "anna", "body", str(number))
    found = await asyncio.gather(*(take_left(engine, "l", "anna", "body") for _ in range(9)))
    assert sorted(filter(None, found)) == ["0", "1", "2", "3", "4"]


async def test_what_was_left_long_ago_is_not_found_and_goes(engine: AsyncEngine) -> None:
    await note_left(engine, "l", "anna", "body", "old")
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE left_requests SET left_at = now() - interval '6 minutes'"))
    assert await take_left(engine, "l", "anna", "body") is None
    await note_left(engine, "l", "anna", "other", "new")
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT call_id FROM left_requests"))).scalars().all() == ["new"]
