"""A client's own standing, where its copy cannot be read."""

from pathlib import Path

import pytest

from paymaster.gateway.asked import Refused
from paymaster.gateway.standing import standing_of
from paymaster.gateway.terms import ClientTerms
from paymaster.ledger.copied_status import CopiedStatus
from paymaster.storage.engine import create_engine

CLIENT = ClientTerms(name="bot", budget="acme/bots")


async def test_without_the_database_it_is_not_known_for_now(tmp_path: Path) -> None:
    engine = create_engine(f"postgresql+asyncpg://nobody@/paymaster?host={tmp_path}")
    with pytest.raises(Refused, match="the database does not answer") as refused:
        await standing_of(CLIENT, CopiedStatus(engine, "default"))
    assert refused.value.reason == "database_unreachable"
    await engine.dispose()


async def test_a_gateway_without_a_database_says_what_it_needs() -> None:
    with pytest.raises(Refused, match="needs the ledger's database"):
        await standing_of(CLIENT, None)
