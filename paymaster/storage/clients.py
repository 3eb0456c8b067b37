"""Clients of the gateway that were made at run time: rows of `clients`, with the hash of a key each."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    RowMapping,
    Table,
    Text,
    bindparam,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.values.client_key import is_key_id

_clients = Table(
    "clients",
    MetaData(),
    Column("key_id", Text),
    Column("ledger", Text),
    Column("name", Text),
    Column("key_sha256", LargeBinary),
    Column("budget", Text),
    Column("routes", ARRAY(Text)),
    Column("requests_at_once", Integer),
    Column("created_at", DateTime(timezone=True)),
    Column("created_by", Text),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    Column("revoked_by", Text),
    Column("last_used_at", DateTime(timezone=True)),
)


class ClientExists(Exception):
    """A client of this name has a key that is not revoked."""


@dataclass(frozen=True, kw_only=True)
class NewClient:
    """What is stored of a client when its key is made."""

    name: str
    key_id: str
    key_sha256: bytes
    budget: str
    routes: tuple[str, ...] | None
    """None: every route."""
    requests_at_once: int | None
    expires_at: datetime | None
    created_by: str


@dataclass(frozen=True, kw_only=True)
class StoredClient(NewClient):
    """A client as its row has it."""

    created_at: datetime
    revoked_at: datetime | None
    revoked_by: str | None
    last_used_at: datetime | None


async def insert_client(engine: AsyncEngine, ledger: str, client: NewClient) -> StoredClient:
    """Stores a client. Raises ClientExists."""
    row = {name: value for name, value in vars(client).items() if name != "routes"}
    row |= {"ledger": ledger, "routes": None if client.routes is None else list(client.routes)}
    try:
        async with engine.begin() as connection:
            return _stored(
                (await connection.execute(insert(_clients).values(row).returning(_clients))).mappings().one()
            )
    except IntegrityError:
        raise ClientExists(client.name) from None


async def all_clients(engine: AsyncEngine, ledger: str) -> list[StoredClient]:
    """In the order of their names, the newest first where one was revoked and made again."""
    query = select(_clients).where(_clients.c.ledger == ledger).order_by(_clients.c.name, _clients.c.created_at.desc())
    async with engine.connect() as connection:
        return [_stored(row) for row in (await connection.execute(query)).mappings()]


async def client_called(engine: AsyncEngine, ledger: str, name: str) -> StoredClient | None:
    """The client of this name, the newest of several, or the one whose key has this id. None: there is none."""
    query = select(_clients).where(_clients.c.ledger == ledger, _is_called(name))
    newest = query.order_by(_clients.c.revoked_at.is_not(None), _clients.c.created_at.desc()).limit(1)
    async with engine.connect() as connection:
        row = (await connection.execute(newest)).mappings().one_or_none()
    return None if row is None else _stored(row)


async def clients_by_key_id(engine: AsyncEngine, ledger: str, key_ids: Collection[str]) -> dict[str, StoredClient]:
    """Those of these keys that there are."""
    query = select(_clients).where(_clients.c.ledger == ledger, _clients.c.key_id.in_(key_ids))
    async with engine.connect() as connection:
        return {row["key_id"]: _stored(row) for row in (await connection.execute(query)).mappings()}


async def revoke_client(engine: AsyncEngine, ledger: str, name: str, who: str) -> StoredClient | None:
    """Revokes the key of the client of this name, or the key with this id. None: there is none that is not revoked."""
    change = update(_clients).where(_clients.c.ledger == ledger, _is_called(name), _clients.c.revoked_at.is_(None))
    revoked = change.values(revoked_at=func.now(), revoked_by=who).returning(_clients)
    async with engine.begin() as connection:
        row = (await connection.execute(revoked)).mappings().one_or_none()
    return None if row is None else _stored(row)


async def note_last_used(engine: AsyncEngine, ledger: str, used: Mapping[str, datetime]) -> None:
    """Writes when these keys were used last, unless a later time is there."""
    change = (
        update(_clients)
        .where(_clients.c.ledger == ledger, _clients.c.key_id == bindparam("used_key"))
        .values(last_used_at=func.greatest(_clients.c.last_used_at, bindparam("used_at")))
    )
    # In one order for all gateways, so that two of them do not wait for each other's rows for ever.
    rows = [{"used_key": key_id, "used_at": used[key_id]} for key_id in sorted(used)]
    async with engine.begin() as connection:
        await connection.execute(change, rows)


def _is_called(name: str) -> ColumnElement[bool]:
    return (_clients.c.key_id if is_key_id(name) else _clients.c.name) == name


def _stored(row: RowMapping) -> StoredClient:
    values: dict[str, Any] = {field.name: row[field.name] for field in fields(StoredClient)}
    values["routes"] = None if row["routes"] is None else tuple(row["routes"])
    return StoredClient(**values)
