"""A dump that was put back: as another owner and without its privileges, everything goes on where it was."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dumps import dump, put_back
from paymaster_process import Databases
from plain_usage import made_up_rows
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.reports.usage import usage_report
from paymaster.storage.access import missing_grants
from paymaster.storage.account_sums import posted_by_account
from paymaster.storage.engine import create_engine
from paymaster.storage.partitions import make_coming_months
from paymaster.storage.pruning import months_ago, prune
from paymaster.storage.schema import check_schema, migrate
from paymaster.storage.usage_rows import insert_entries

pytestmark = pytest.mark.timeout(120)
NOW = datetime.now(UTC)
ROWS = made_up_rows("default", NOW - timedelta(days=200), 200, 200, seed=1)
LATER = made_up_rows("default", NOW - timedelta(days=200), 260, 50, seed=2)
ACCOUNTS = ["budget:acme", "budget:customers/7", "service:openai", "run:nightly@1"]
FORGED = text("""SELECT usage_hourly_add('[["default", "c", 1]]')""")


async def books(engine: AsyncEngine) -> tuple[object, ...]:
    """What reports and the ledger are told."""
    reports = [await usage_report(engine, ledger="default", by=by) for by in (("service", "model"), ("budget", "day"))]
    return (*reports, await posted_by_account(engine, "default", ACCOUNTS))


async def pruned(engine: AsyncEngine, months: int) -> list[str]:
    return [each.partition async for each in prune(engine, await months_ago(engine, months))]


def of_role(url: str, role: str) -> AsyncEngine:
    return create_engine(make_url(url).set(username=role).render_as_string(hide_password=False))


async def run(engine: AsyncEngine, *statements: str) -> None:
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def test_a_dump_is_put_back_for_another_owner(databases: Databases, tmp_path: Path) -> None:
    """With pruned months, rows that came late for them, and later ones; `migrate` sets what functions are allowed."""
    source, target = await databases.create(), await databases.create_empty()
    before = create_engine(source)
    await run(before, "SELECT usage_entries_make((current_date - 200)::date, current_date)")
    await insert_entries(before, ROWS)
    assert await pruned(before, 4)
    await insert_entries(before, random.Random(1).sample(ROWS, 20))
    await dump(source, tmp_path / "dump")

    number = make_url(target).database
    owner, worker, reader = (f"{name}_{number}" for name in ("owner", "worker", "reader"))
    admin = create_engine(target)
    await run(admin, *(f"CREATE ROLE {role} LOGIN" for role in (owner, worker, reader)))
    await run(admin, f"GRANT CREATE, USAGE ON SCHEMA public TO {owner}")
    owned = make_url(target).set(username=owner).render_as_string(hide_password=False)
    assert await put_back(tmp_path / "dump", owned, "--no-owner", "--no-acl") == ""
    await migrate(owned)
    engines = [create_engine(owned), of_role(target, worker), of_role(target, reader)]
    after, stores, reads = engines
    await check_schema(after)
    assert await books(after) == await books(before)
    grants = await missing_grants(stores)
    assert grants
    await run(after, *grants, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}")
    with pytest.raises(DBAPIError, match="permission denied for function"):
        async with reads.begin() as connection:
            await connection.execute(FORGED)
    for engine in (before, stores):
        await insert_entries(engine, LATER)
        await make_coming_months(engine)
    for engine in (before, after):
        assert await pruned(engine, 3)
    assert await books(after) == await books(before)
    for engine in (before, admin, *engines):
        await engine.dispose()
