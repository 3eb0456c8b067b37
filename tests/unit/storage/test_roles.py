"""Roles that do not own the tables: each does what its grants say, and nothing by what works as the owner."""

import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
from records import usual_entry
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages import UsageEntry
from paymaster.storage.access import missing_grants
from paymaster.storage.engine import create_engine
from paymaster.storage.partitions import make_coming_months
from paymaster.storage.usage_rows import insert_entries

NUMBERS = itertools.count(1)
OWN_TABLE = "CREATE TEMPORARY TABLE own (LIKE public.usage_entries INCLUDING DEFAULTS)"
FORGED = """
    INSERT INTO {table} (attempt_id, state, hold_id, call_id, workflow_id, run_id, ledger, epoch, budget, service,
                         model, granted_at, status, cost_usd, price_source)
    VALUES ('forged', 'final', 'h', 'forged', 'w', 'r', 'default', 'e', 'acme', 's',
            'm', now(), 'completed', 99, 'test')
"""
SUMS = text("SELECT coalesce(sum(entries), 0)::int, coalesce(sum(cost_usd), 0) FROM usage_hourly")


class Roles(NamedTuple):
    """Engines on one database."""

    owner: AsyncEngine
    worker: AsyncEngine
    """May do what `paymaster doctor` asks for."""
    reader: AsyncEngine
    """May read every table."""


def entry(at: datetime) -> UsageEntry:
    return UsageEntry.model_validate(
        usual_entry(next(NUMBERS)) | {"granted_at_ms": round(at.timestamp() * 1000), "cost_nanos": 10**9}
    )


async def run(engine: AsyncEngine, *statements: str, **values: object) -> None:
    """In one transaction, so that temporary objects are there for the next one."""
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement), values)


async def grant(owner: AsyncEngine, role: AsyncEngine) -> None:
    """What the role lacks, in doctor's own words."""
    await run(owner, *await missing_grants(role))


@pytest.fixture
async def roles(database_url: str) -> AsyncIterator[Roles]:
    owner, number = create_engine(database_url), next(NUMBERS)
    names = {name: f"{make_url(database_url).database}_{name}_{number}" for name in ("worker", "reader")}
    engines = {
        name: create_engine(make_url(database_url).set(username=role).render_as_string(hide_password=False))
        for name, role in names.items()
    }
    for role in names.values():
        await run(owner, f"CREATE ROLE {role} LOGIN")
    await grant(owner, engines["worker"])
    await run(owner, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {names['reader']}")
    yield Roles(owner, **engines)
    for engine in (owner, *engines.values()):
        await engine.dispose()


async def sums(engine: AsyncEngine) -> tuple[int, int]:
    async with engine.connect() as connection:
        entries, usd = (await connection.execute(SUMS)).one()
    return entries, int(usd)


async def test_a_role_with_its_grants_stores_rows_and_makes_months(roles: Roles) -> None:
    await make_coming_months(roles.owner)  # one may have begun since the database was made
    now = datetime.now(UTC)
    await insert_entries(roles.worker, [entry(now), entry(now), entry(now + timedelta(days=400))])
    assert await make_coming_months(roles.worker) == 0
    await run(roles.owner, f"DROP TABLE {now + timedelta(days=62):usage_entries_%Y_%m}")
    assert await make_coming_months(roles.worker) == 1
    assert await sums(roles.owner) == (3, 3)


FORGERIES: Mapping[str, Sequence[str]] = {
    "a row": [
        OWN_TABLE,
        "CREATE TRIGGER routes BEFORE INSERT ON own FOR EACH ROW EXECUTE FUNCTION api_usage_route()",
        FORGED.format(table="own"),
    ],
    "sums": ["""SELECT usage_hourly_add('[["default", "stored", 1]]')"""],
    "sums by a trigger": [
        OWN_TABLE,
        "CREATE TRIGGER counts AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION usage_hourly_count()",
        """SET LOCAL paymaster.stored = '["default", "stored", 1]'""",
        FORGED.format(table="own"),
    ],
}


@pytest.mark.parametrize("what", FORGERIES)
async def test_who_only_reads_cannot_write_by_our_functions(roles: Roles, what: str) -> None:
    stored = entry(datetime.now(UTC)).model_copy(update={"call_id": "stored"})
    await insert_entries(roles.owner, [stored])
    with pytest.raises(DBAPIError, match="permission denied for function"):
        await run(roles.reader, *FORGERIES[what])
    assert await sums(roles.owner) == (1, 1)


async def test_a_temporary_view_runs_nothing_as_the_owner(roles: Roles) -> None:
    """What is called like a table of ours in whoever's own session is not taken for it."""
    await run(
        roles.worker,
        "CREATE FUNCTION pg_temp.acts() RETURNS bigint LANGUAGE plpgsql AS "
        "$$ BEGIN EXECUTE 'CREATE TABLE public.made_as_owner ()'; RETURN 1; END $$",
        "CREATE TEMPORARY VIEW usage_hourly_rows AS SELECT pg_temp.acts() AS id, ledger, call_id, run_id, attempt_id, "
        "granted_at, budget, charged_budgets, service, model, state, status, input_tokens, cached_input_tokens, "
        "cache_write_tokens, output_tokens, reasoning_tokens, cost_usd FROM public.usage_entries",
        FORGED.format(table="usage_entries"),
    )
    async with roles.owner.connect() as connection:
        assert await connection.scalar(text("SELECT to_regclass('made_as_owner')")) is None
    assert await sums(roles.owner) == (1, 99)
