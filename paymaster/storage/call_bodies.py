"""Bodies of requests and answers that are too large for Temporal's histories: rows of `call_bodies`, a piece each."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import (
    Column,
    DateTime,
    FetchedValue,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    delete,
    exists,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages import StoredBody

LOOK_AGAIN_AFTER = timedelta(days=1)
"""How long after a body was stored, or its workflow was found, Temporal is asked again whether it has the workflow. It
keeps those that have ended for a day at least."""
_bodies = Table(
    "call_bodies",
    MetaData(),
    Column("reference", Text),
    Column("piece", Integer),
    Column("ledger", Text),
    Column("namespace", Text),
    Column("workflow_id", Text),
    Column("sha256", Text),
    Column("data", LargeBinary),
    Column("look_at", DateTime(timezone=True), server_default=FetchedValue()),
)


async def insert_body(
    engine: AsyncEngine,
    reference: str,
    pieces: Sequence[bytes],
    *,
    ledger: str,
    namespace: str,
    workflow_id: str,
    sha256: str,
) -> None:
    """Stores all pieces or none; a body that is there already stays as it is."""
    named = {"reference": reference, "ledger": ledger, "namespace": namespace}
    named |= {"workflow_id": workflow_id, "sha256": sha256}
    async with engine.begin() as connection:
        for number, data in enumerate(pieces):  # one at a time: all of them would be one large message
            row = {**named, "piece": number, "data": data, "look_at": func.now() + LOOK_AGAIN_AFTER}
            await connection.execute(insert(_bodies).values(row).on_conflict_do_nothing())


async def piece_of_body(engine: AsyncEngine, ledger: str, reference: str, sha256: str, piece: int) -> bytes | None:
    """One piece. None: no body of this name and content is stored for this ledger."""
    query = select(_bodies.c.data).where(
        _bodies.c.reference == reference,
        _bodies.c.sha256 == sha256,
        _bodies.c.piece == piece,
        _bodies.c.ledger == ledger,
    )
    async with engine.connect() as connection:
        return await connection.scalar(query)


async def give_body_to(engine: AsyncEngine, ledger: str, body: StoredBody, workflow_id: str) -> None:
    """Has the body, which is stored for this ledger, belong to this workflow from now on."""
    named = (
        _bodies.c.reference == body.reference,
        _bodies.c.sha256 == body.sha256,
        _bodies.c.piece == 0,
        _bodies.c.ledger == ledger,
    )
    async with engine.begin() as connection:
        await connection.execute(update(_bodies).where(*named).values(workflow_id=workflow_id))


async def bodies_to_look_at(engine: AsyncEngine, ledger: str, namespace: str, most: int) -> dict[str, str]:
    """The ids of the workflows that Temporal is to be asked for, by the bodies' references."""
    query = (
        select(_bodies.c.reference, _bodies.c.workflow_id)
        .where(
            _bodies.c.ledger == ledger,
            _bodies.c.namespace == namespace,
            _bodies.c.piece == 0,
            _bodies.c.look_at <= func.now(),
        )
        .order_by(_bodies.c.look_at)
        .limit(most)
    )
    async with engine.connect() as connection:
        return {row.reference: row.workflow_id for row in await connection.execute(query)}


async def look_again_later(engine: AsyncEngine, references: Sequence[str]) -> None:
    """Has these bodies looked at again after `LOOK_AGAIN_AFTER`."""
    later = update(_bodies).where(_bodies.c.reference.in_(references), _bodies.c.piece == 0)
    async with engine.begin() as connection:
        await connection.execute(later.values(look_at=func.now() + LOOK_AGAIN_AFTER))


async def delete_bodies(engine: AsyncEngine, references: Sequence[str]) -> None:
    async with engine.begin() as connection:
        await connection.execute(delete(_bodies).where(_bodies.c.reference.in_(references)))


async def has_bodies(engine: AsyncEngine, ledger: str, namespace: str) -> bool:
    """Whether any body is stored for this ledger."""
    query = select(exists().where(_bodies.c.ledger == ledger, _bodies.c.namespace == namespace))
    async with engine.connect() as connection:
        return bool(await connection.scalar(query))
