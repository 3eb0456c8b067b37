"""What stands in the table of stored answers, as whoever reads the database finds it."""

import zlib

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.converter import PayloadCodec

from paymaster.security.sealed import unsealed


async def stored_bodies(engine: AsyncEngine, codec: PayloadCodec | None = None) -> dict[str, bytes]:
    """All bodies by their references, with what hides them taken off by this codec. None: nothing hides them."""
    query = text("SELECT reference, data FROM call_bodies ORDER BY reference, piece")
    packed: dict[str, bytes] = {}
    async with engine.connect() as connection:
        for row in await connection.execute(query):
            packed[row.reference] = packed.get(row.reference, b"") + await unsealed(row.data, codec)
    return {reference: zlib.decompress(data) for reference, data in packed.items()}


async def look_now(engine: AsyncEngine) -> None:
    """Has every body looked at by the next sweep."""
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE call_bodies SET look_at = now() - interval '1 second'"))
