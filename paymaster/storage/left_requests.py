"""Requests at the gateway whose callers left before they had the answer: rows of `left_requests`, for their retries."""

from datetime import timedelta

from sqlalchemy import BigInteger, Column, DateTime, FetchedValue, MetaData, Table, Text, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

RETRIED_WITHIN = timedelta(minutes=5)
"""How long after its caller left a request may be sent again: SDKs wait for two minutes at most."""
_left = Table(
    "left_requests",
    MetaData(),
    Column("id", BigInteger),
    Column("ledger", Text),
    Column("client", Text),
    Column("digest", Text),
    Column("call_id", Text),
    Column("left_at", DateTime(timezone=True), server_default=FetchedValue()),
)


async def note_left(engine: AsyncEngine, ledger: str, client: str, digest: str, call_id: str) -> None:
    """Has the next retry of this request find its call. Rows that are too old go meanwhile."""
    row = {"ledger": ledger, "client": client, "digest": digest, "call_id": call_id}
    async with engine.begin() as connection:
        await connection.execute(delete(_left).where(_left.c.left_at < func.now() - RETRIED_WITHIN))
        await connection.execute(insert(_left).values(row))


async def take_left(engine: AsyncEngine, ledger: str, client: str, digest: str) -> str | None:
    """The id of the call of such a request, which no other retry gets from now on. None: there is none.

    Of several the one whose caller left first.
    """
    first = (
        select(_left.c.id)
        .where(
            _left.c.ledger == ledger,
            _left.c.client == client,
            _left.c.digest == digest,
            _left.c.left_at >= func.now() - RETRIED_WITHIN,
        )
        .order_by(_left.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    async with engine.begin() as connection:
        return await connection.scalar(
            delete(_left).where(_left.c.id == first.scalar_subquery()).returning(_left.c.call_id)
        )
