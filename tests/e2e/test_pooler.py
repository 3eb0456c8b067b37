"""PgBouncer in front of the database, in transaction mode without prepared statements: everything works through it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import CountingServer
from paymaster_process import Databases, configuration, running_site, settled_books
from pgbouncer import needs_pgbouncer, pooled
from sqlalchemy import text

from paymaster import LLMRequest, Outcome
from paymaster.client import try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.reports.usage import usage_report
from paymaster.storage.engine import create_engine
from paymaster.storage.schema import check_schema, migrate

pytestmark = [pytest.mark.timeout(90), needs_pgbouncer]


@pytest.fixture
async def through_pooler(databases: Databases, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty database, by way of a pooler with two connections for all."""
    async with pooled(await databases.create_empty(), tmp_path) as url:
        yield f"{url}?pgbouncer=true"


async def test_a_pooler_may_change_connections_between_transactions(
    stack: EmbeddedStack, through_pooler: str, server: CountingServer, tmp_path: Path
) -> None:
    await migrate(through_pooler)
    engine = create_engine(through_pooler)
    await check_schema(engine)

    async def backend() -> int:
        async with engine.connect() as connection:
            found = await connection.execute(text("SELECT pg_backend_pid(), pg_sleep(0.01)"))
            return found.one()[0]

    assert len(set(await asyncio.gather(*(backend() for _ in range(20))))) == 2, "the pooler shares two connections"
    await engine.dispose()

    service = server.service("pooled")
    tables = configuration([service], budgets={"acme/pooled": {"cap_usd": {"total": "1"}}})
    async with running_site(stack.temporal_address, through_pooler, tmp_path, tables) as site:
        asked = LLMRequest(route="pooled", budget="acme/pooled", prompt="Hello", max_output_tokens=50)
        results = await asyncio.gather(*(try_generate(site.client, asked) for _ in range(30)))
        assert [result.outcome for result in results] == [Outcome.COMPLETED] * 30
        await settled_books(site, service)
        [row] = await usage_report(site.engine, ledger="default", by=["service"])
        assert (row.calls, service.count) == (30, 30)
