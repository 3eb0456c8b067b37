"""Clients of the gateway in a real PostgreSQL: what is stored comes back, names are free again, and no key is there."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.storage.clients import (
    ClientExists,
    NewClient,
    all_clients,
    client_called,
    clients_by_key_id,
    insert_client,
    note_last_used,
    revoke_client,
)
from paymaster.storage.engine import create_engine
from paymaster.values.client_key import NewKey, key_digest, new_client_key

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


def made(name: str, key: NewKey | None = None, routes: tuple[str, ...] | None = None) -> NewClient:
    key = key or new_client_key()
    return NewClient(
        name=name,
        key_id=key.id,
        key_sha256=key_digest(key.text),
        budget="acme/content",
        routes=routes,
        requests_at_once=3,
        expires_at=NOON,
        created_by="ada@host",
    )


@pytest.mark.parametrize("routes", [None, (), ("a", "b")])
async def test_a_stored_client_comes_back_as_it_was(engine: AsyncEngine, routes: tuple[str, ...] | None) -> None:
    """No route at all is not every route."""
    client = made("bot", routes=routes)
    stored = await insert_client(engine, "l", client)
    assert {name: getattr(stored, name) for name in vars(client)} == vars(client)
    assert (stored.revoked_at, stored.revoked_by, stored.last_used_at) == (None, None, None)
    assert abs(stored.created_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert await all_clients(engine, "l") == [stored]
    assert await clients_by_key_id(engine, "l", [client.key_id, "pmk_000000000000"]) == {client.key_id: stored}
    assert await client_called(engine, "l", "bot") == await client_called(engine, "l", client.key_id) == stored


async def test_clients_of_another_ledger_are_not_there(engine: AsyncEngine) -> None:
    client = await insert_client(engine, "theirs", made("bot"))
    assert await all_clients(engine, "l") == []
    assert await clients_by_key_id(engine, "l", [client.key_id]) == {}
    assert await client_called(engine, "l", "bot") is None
    assert await client_called(engine, "l", client.key_id) is None
    assert await revoke_client(engine, "l", "bot", "eve") is None
    assert await revoke_client(engine, "l", client.key_id, "eve") is None


async def test_a_name_has_one_key_until_that_is_revoked(engine: AsyncEngine) -> None:
    """Also where several make it at once."""
    answers = await asyncio.gather(*(insert_client(engine, "l", made("bot")) for _ in range(5)), return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["ClientExists"] * 4 + ["StoredClient"]
    revoked = await revoke_client(engine, "l", "bot", "ada")
    assert revoked is not None
    assert (revoked.revoked_by, revoked.revoked_at is not None) == ("ada", True)
    assert await revoke_client(engine, "l", "bot", "bob") is None
    assert await revoke_client(engine, "l", revoked.key_id, "bob") is None
    again = await insert_client(engine, "l", made("bot"))
    assert await client_called(engine, "l", "bot") == again
    assert await client_called(engine, "l", revoked.key_id) == revoked
    assert await all_clients(engine, "l") == [again, revoked]
    with pytest.raises(ClientExists, match="bot"):
        await insert_client(engine, "l", made("bot"))


async def test_a_leaked_key_is_revoked_by_its_id(engine: AsyncEngine) -> None:
    kept, leaked = [await insert_client(engine, "l", made(name)) for name in ("kept", "leaked")]
    revoked = await revoke_client(engine, "l", leaked.key_id, "ada")
    assert revoked is not None
    assert revoked.name == "leaked"
    assert await client_called(engine, "l", "kept") == kept


async def test_the_latest_use_of_several_gateways_stays(engine: AsyncEngine) -> None:
    first, second = [await insert_client(engine, "l", made(name)) for name in ("a", "b")]
    await note_last_used(engine, "l", {first.key_id: NOON, second.key_id: NOON})
    earlier = NOON - timedelta(minutes=1)
    await note_last_used(engine, "l", {second.key_id: earlier, first.key_id: NOON + timedelta(minutes=1)})
    assert [client.last_used_at for client in await all_clients(engine, "l")] == [NOON + timedelta(minutes=1), NOON]
    await note_last_used(engine, "l", {"pmk_000000000000": NOON})


async def test_no_row_has_the_key(engine: AsyncEngine) -> None:
    key = new_client_key()
    await insert_client(engine, "l", made("bot", key))
    async with engine.connect() as connection:
        row = (await connection.execute(text("SELECT to_jsonb(clients)::text FROM clients"))).scalar_one()
    assert key.id in row
    assert key_digest(key.text).hex() in row
    assert key.text[-43:][:12] not in row
