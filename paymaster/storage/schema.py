"""The schema: its revision, migrations, and the check that a program fits the database."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import (
    Connection,
    Text,
    column,
    func,
    select,
    table,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from paymaster.storage.access import SET_PRIVILEGES, unseen_schema
from paymaster.storage.engine import APPLICATION_NAME, create_engine
from paymaster.storage.hourly_sums import fill
from paymaster.storage.partitions import SHORT_LOCKS, prepare, with_locks

if TYPE_CHECKING:
    from alembic.config import Config

SCHEMA_REVISION = "0021"
"""The schema that this version reads and writes: the newest migration."""

OLDER_SCHEMA_REVISION = "0003"
"""0.1.0's, which starts on no other. All later migrations only added to it what has defaults."""

SCHEMA_TABLE = "paymaster_schema"
"""Where Alembic keeps the revision. Not its usual name: another program in the same database may use Alembic too."""

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"

_MIGRATION_LOCK = 7_295_624_301  # any number that nothing else in the database locks

_LOOKS_AGAIN_AFTER_S = 0.5

_MIGRATION_TIMEOUT_S = 3_600.0  # a migration may rewrite a large table

_PATIENT = {"idle_in_transaction_session_timeout": "0", "lock_timeout": "0", "statement_timeout": "0"}
"""Whatever the role or the database says: what is broken off would begin anew, and be broken off again."""

_WORKS = f"{APPLICATION_NAME} migrate"
"""The name of the connections that migrate, which are there only beside another one that has the lock."""

_END_LEFT_OVER = text(
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() "
    "AND usename = current_user AND application_name = :name AND state <> 'idle'"
).bindparams(name=_WORKS)

_ONLINE = (("0015", fill), ("0017", prepare))
"""What is done after a migration and before the next one, in transactions of its own, while workers go on. Each is
harmless when it is done, or was broken off."""

_WAS_CALLED = text(f"SELECT obj_description('{SCHEMA_TABLE}'::regclass, 'pg_class')")


class SchemaOutdated(RuntimeError):
    """The database's schema is missing, older or newer than this version's. The message says what to do."""


class MigrationsMissing(RuntimeError):
    """Paymaster runs from a wheel, which has no migrations."""


async def migrate(url: str) -> None:
    """Brings the schema to `SCHEMA_REVISION`, from nothing or from any older one. Harmless when it is there already.

    Raises MigrationsMissing in an installed wheel, SchemaOutdated when the schema is newer, and the driver's errors.
    """
    if not (MIGRATIONS / "env.py").is_file():
        raise MigrationsMissing(f"migrations run from Paymaster's checkout or image; there is no {MIGRATIONS}")
    # Imported here because workers never migrate.
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    keeper = create_engine(url, command_timeout_s=_MIGRATION_TIMEOUT_S, server_settings=_PATIENT)
    working = {**_PATIENT, "application_name": _WORKS}
    engine = create_engine(url, command_timeout_s=_MIGRATION_TIMEOUT_S, server_settings=working)
    try:
        # Whoever migrates at the same time waits here, and then finds nothing left to do.
        async with _alone(keeper) as connection:
            _refuse_newer(await _revision(connection))
            # Last, since it ends the snapshot of what was asked, which an index that is made online would wait for.
            await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            await _upgrade(engine, config)
    finally:
        await engine.dispose()
        await keeper.dispose()


@asynccontextmanager
async def _alone(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """A transaction beside which nobody else migrates.

    It asks for the lock again and again: a statement that waits for one has a snapshot, for whose end an index that is
    made online waits.

    Of a migration that was killed the lock is free at once, while PostgreSQL goes on with its statement to the end. We
    would wait for that, and it, if it makes an index, for the end of this transaction: so it is ended first.
    """
    lock = select(func.pg_try_advisory_xact_lock(_MIGRATION_LOCK))
    async with engine.connect() as connection:
        while not await connection.scalar(lock) or await connection.scalar(_END_LEFT_OVER):
            await connection.rollback()
            await asyncio.sleep(_LOOKS_AGAIN_AFTER_S)
        yield connection
        await connection.commit()


async def _upgrade(engine: AsyncEngine, config: "Config") -> None:
    async with engine.begin() as connection:
        found = await _revision(connection)
        was_called = None if found is None else await connection.scalar(_WAS_CALLED)
        if found == OLDER_SCHEMA_REVISION and was_called:
            found = was_called
            await _call(connection, was_called)
    for revision, online in _ONLINE:
        if found is None or found < revision:
            await _upgrade_to(engine, config, revision)
        await online(engine)
    await _upgrade_to(engine, config, "head")
    async with engine.begin() as connection:
        await connection.execute(SET_PRIVILEGES)


async def _upgrade_to(engine: AsyncEngine, config: "Config", revision: str) -> None:
    from alembic import command

    def upgrade(connection: Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    async def step() -> None:
        async with engine.begin() as connection:
            await connection.execute(SHORT_LOCKS)
            await connection.run_sync(upgrade)

    await with_locks(step)


async def _call(connection: AsyncConnection, revision: str) -> None:
    schema = table(SCHEMA_TABLE, column("version_num", Text))
    await connection.execute(schema.update().values(version_num=revision))


async def name_older_schema(url: str) -> None:
    """Has the schema called `OLDER_SCHEMA_REVISION`, so that workers of 0.1.0 start on it; nothing is taken out.

    Raises SchemaOutdated when it is another one than `SCHEMA_REVISION`, and the driver's errors.
    """
    engine = create_engine(url, command_timeout_s=_MIGRATION_TIMEOUT_S)
    try:
        await check_schema(engine)
        async with _alone(engine) as connection:
            # Migrations run once: those that replace what others made would bring back what was before.
            await connection.execute(text(f"COMMENT ON TABLE {SCHEMA_TABLE} IS '{SCHEMA_REVISION}'"))
            await _call(connection, OLDER_SCHEMA_REVISION)
    finally:
        await engine.dispose()


async def check_schema(engine: AsyncEngine) -> None:
    """Raises SchemaOutdated unless the database has exactly the schema that this version reads and writes."""
    async with engine.connect() as connection:
        found = await _revision(connection)
        grant = None if found is not None else await unseen_schema(connection)
    _refuse_newer(found)
    if grant is not None:
        raise SchemaOutdated(f"the database's role may not look into the schema: as its owner, {grant}")
    if found is None:
        raise SchemaOutdated("the database has no Paymaster tables yet: run `paymaster migrate`")
    if found < SCHEMA_REVISION:
        raise SchemaOutdated(
            f"the database has schema {found}, this Paymaster needs {SCHEMA_REVISION}: run `paymaster migrate`"
        )


async def _revision(connection: AsyncConnection) -> str | None:
    if await connection.scalar(select(func.to_regclass(SCHEMA_TABLE))) is None:
        return None
    return await connection.scalar(select(column("version_num", Text)).select_from(table(SCHEMA_TABLE)))


def _refuse_newer(found: str | None) -> None:
    if found is not None and found > SCHEMA_REVISION:
        raise SchemaOutdated(
            f"the database has schema {found}, newer than {SCHEMA_REVISION} of this Paymaster: update this Paymaster "
            "(`paymaster migrate` only goes forward)"
        )
