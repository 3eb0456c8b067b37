"""Stored bodies: who has the name and the digest of one gets it, from the ledger that has stored it and no other."""

from base64 import b64decode

import pytest
from sqlalchemy import text

from paymaster.messages import StoredBody
from paymaster.messages.wire import packed
from paymaster.storage.call_bodies import (
    bodies_to_look_at,
    give_body_to,
    has_bodies,
    insert_body,
    piece_of_body,
)
from paymaster.storage.engine import create_engine

pytestmark = pytest.mark.stack
BODY = StoredBody(reference="attempt/1", pieces=1, size=6, sha256="0" * 64)
PIECE = b64decode(packed(b"a body"))


async def test_a_body_is_its_own_ledgers_alone(database_url: str) -> None:
    engine = create_engine(database_url)
    named = {"namespace": "n", "workflow_id": "call@acme/1", "sha256": BODY.sha256}
    try:
        await insert_body(engine, BODY.reference, [PIECE], ledger="acme", **named)
        assert await piece_of_body(engine, "acme", BODY.reference, BODY.sha256, 0) == PIECE
        assert await piece_of_body(engine, "zoo", BODY.reference, BODY.sha256, 0) is None
        assert await piece_of_body(engine, "acme", BODY.reference, "another digest", 0) is None
        assert [await has_bodies(engine, ledger, "n") for ledger in ("acme", "zoo")] == [True, False]
        for ledger in ("acme", "zoo"):
            await give_body_to(engine, ledger, BODY, f"call@{ledger}/2")
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE call_bodies SET look_at = now() - interval '1 second'"))
        assert await bodies_to_look_at(engine, "acme", "n", 10) == {BODY.reference: "call@acme/2"}
        assert await bodies_to_look_at(engine, "zoo", "n", 10) == {}
    finally:
        await engine.dispose()
