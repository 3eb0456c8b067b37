"""Rows of months that are long over go; what they sum up to stays, and which calls and attempts there were.

The partition of a month goes as a whole, in one transaction. Of the rows of before, and of those that came for a month
that has no partition any more, a stretch of the table goes at a time. Rows of calls that have an unconfirmed attempt
stay as they are, until somebody resolves it.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from paymaster.storage.partitions import SHORTER_LOCKS, is_lock_refused, with_locks
from paymaster.storage.usage_rows import nanos_of

PRUNE_TIMEOUT_S = 3_600.0
"""For one statement, which may write down the ids of ten million rows."""
_PAGES_AT_ONCE = 500
"""Of a table, 8 KB each: some ten thousand rows go in one transaction."""
_ONE_PRUNES = text("SELECT pg_advisory_xact_lock(729562432, 0)")
_PATIENT = text(
    "SELECT set_config(name, '0', true) FROM pg_settings WHERE name IN "
    "('idle_in_transaction_session_timeout', 'lock_timeout', 'statement_timeout', 'transaction_timeout')"
)
"""Whatever the role or the database says: what is broken off would be broken off again the next time."""
_MOVES_ROWS = text("SET LOCAL paymaster.moves_rows = 'on'")
"""The hourly sums have them already."""
_MONTH = re.compile("usage_entries_([0-9]{4})_([0-9]{2})")
_OTHERS = ("api_usage", "usage_entries_default")
"""What is no month: the rows of before, and those for which there was no partition."""
_PARTITIONS = text(
    "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid "
    "WHERE inhparent = 'usage_entries'::regclass ORDER BY relname"
)
# An attempt whose only row is unconfirmed may have been billed, and somebody will say so. The hourly sums then need the
# other rows of its call, of whatever month, to tell which one is the first.
_UNRESOLVED = """
    entry.state = 'unconfirmed' AND NOT EXISTS (
        SELECT FROM {name} AS final
        WHERE final.attempt_id = entry.attempt_id AND final.granted_at = entry.granted_at AND final.state = 'final'
    )
"""
_STAYS = """
    EXISTS (
        SELECT FROM usage_entries AS unsure
        WHERE unsure.ledger = entry.ledger AND unsure.call_id = entry.call_id AND unsure.run_id = entry.run_id
            AND unsure.state = 'unconfirmed' AND NOT EXISTS (
                SELECT FROM usage_entries AS final WHERE final.attempt_id = unsure.attempt_id
                    AND final.granted_at = unsure.granted_at AND final.state = 'final'
            )
    )
"""
_GOES = f"{{name}} AS entry WHERE state = 'final' AND granted_at < :before AND NOT {_STAYS}"
"""Of what goes only final rows count; an unconfirmed one goes with its own."""
_OLD = f"SELECT count(*), coalesce(sum(cost_usd), 0) FROM {_GOES}"  # noqa: S608
_OLD_UNRESOLVED = f"SELECT count(*) FROM {{name}} AS entry WHERE granted_at < :before AND {_UNRESOLVED}"  # noqa: S608
_KEPT = f"""
CREATE TEMPORARY TABLE usage_kept ON COMMIT DROP AS SELECT {{columns}} FROM {{name}} AS entry WHERE {_STAYS}
"""  # noqa: S608
_COLUMNS = text(
    "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute "
    "WHERE attrelid = 'usage_entries'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"
)
# A call that ended unbilled and without an answer may be asked for again.
_IDS = f"""
INSERT INTO usage_pruned_ids (ledger, attempt, call)
SELECT ledger, usage_pruned_id(ledger, attempt_id), CASE WHEN status = 'completed' OR cost_usd <> 0
    THEN usage_pruned_id(ledger, usage_first_generation(call_id)) END
FROM {_GOES}
ON CONFLICT DO NOTHING
"""  # noqa: S608
_SUMS = """
INSERT INTO usage_pruned AS sums (key, ledger, month, budget, charged_budgets, service, entries, cost_usd)
SELECT usage_hourly_key(ledger, month, budget, charged_budgets, service, '', ''),
       ledger, month, budget, charged_budgets, service, count(*), sum(cost_usd)
FROM (
    SELECT *, date_trunc('month', granted_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS month FROM {rows}
) AS counted
GROUP BY ledger, month, budget, charged_budgets, service
ON CONFLICT (key) DO UPDATE SET entries = sums.entries + excluded.entries, cost_usd = sums.cost_usd + excluded.cost_usd
"""
# A call of which more goes later counts again: so there are never too few.
_SUMS_OF_RUNS = """
INSERT INTO usage_pruned_runs AS sums (ledger, run, calls, began_at, cost_usd)
SELECT ledger, run, count(DISTINCT run_id), min(granted_at), sum(cost_usd)
FROM (SELECT * FROM {rows}) AS counted WHERE run IS NOT NULL GROUP BY ledger, run
ON CONFLICT (ledger, run) DO UPDATE SET calls = sums.calls + excluded.calls,
    began_at = least(sums.began_at, excluded.began_at), cost_usd = sums.cost_usd + excluded.cost_usd
"""
_IS_IN_STRETCH = "(entry.ctid >= '({first},0)' AND entry.ctid < '({behind},0)')"
# Whose id is not noted came later, and goes the next time.
_IS_NOTED = "EXISTS (SELECT FROM usage_pruned_ids WHERE attempt = usage_pruned_id(entry.ledger, entry.attempt_id))"
# With the other rows of its calls, wherever they are, so that a call of a run counts once.
_TAKE = f"""
CREATE TEMPORARY TABLE usage_taken ON COMMIT DROP AS
WITH finals AS (
    DELETE FROM {_GOES} AND {_IS_IN_STRETCH} AND {_IS_NOTED} RETURNING entry.*
), others AS (
    DELETE FROM {{name}} AS entry USING (SELECT DISTINCT ledger, call_id, run_id FROM finals) AS of_call
    WHERE entry.ledger = of_call.ledger AND entry.call_id = of_call.call_id AND entry.run_id = of_call.run_id
        AND entry.state = 'final' AND entry.granted_at < :before AND NOT {_IS_IN_STRETCH} AND {_IS_NOTED}
    RETURNING entry.*
), taken AS (
    SELECT * FROM finals UNION ALL SELECT * FROM others
), resolved AS (
    DELETE FROM {{name}} AS entry USING taken
    WHERE entry.attempt_id = taken.attempt_id AND entry.granted_at = taken.granted_at AND entry.state = 'unconfirmed'
)
SELECT * FROM taken
"""  # noqa: S608
_TAKEN = "usage_taken"
# By the clock of the machine that keeps the rows: another one that is ahead would take too many.
_MONTHS_AGO = text(
    "SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') - make_interval(months => :months)) AT TIME ZONE 'UTC'"
)


class Old(NamedTuple):
    """What would go of one partition."""

    partition: str
    entries: int
    """Rows that count."""
    cost_nanos: int
    unresolved: int
    """Rows of unconfirmed attempts, which stay."""


class Pruned(NamedTuple):
    """What has gone of one partition."""

    partition: str
    entries: int
    """Rows that counted."""


class PartitionBusy(RuntimeError):
    """Somebody reads or writes the rows all the time, so that the partition could not be taken out."""


async def months_ago(engine: AsyncEngine, months: int) -> datetime:
    """The beginning of the month, UTC, that was so many months ago."""
    async with engine.connect() as connection:
        found: datetime = (await connection.execute(_MONTHS_AGO, {"months": months})).scalar_one()
    return found


async def old_rows(engine: AsyncEngine, before: datetime) -> list[Old]:
    """What `prune` would take, the oldest month first."""
    found: list[Old] = []
    async with engine.begin() as connection:
        await connection.execute(_PATIENT)
        for name in [*await _old_months(connection, before), *_OTHERS]:
            values = {"before": before}
            entries, usd = (await connection.execute(text(_OLD.format(name=name)), values)).one()
            unresolved = await connection.scalar(text(_OLD_UNRESOLVED.format(name=name)), values) or 0
            if entries or name not in _OTHERS:
                found.append(Old(name, entries, nanos_of(usd), unresolved))
    return found


async def prune(engine: AsyncEngine, before: datetime) -> AsyncGenerator[Pruned]:
    """Takes the rows granted before this time, the beginning of a month in UTC; says so for each partition.

    Raises PartitionBusy, and the driver's errors: what went before has gone then, and the rest is as it was. It may be
    broken off at any time and begun again.
    """
    async with engine.connect() as connection:
        months = await _old_months(connection, before)
    for month in months:
        pruned = await _drop(engine, month, before)
        if pruned is not None:
            yield pruned
    for name in _OTHERS:
        if await _has_old(engine, name, before):
            await _note_ids(engine, name, before)
            yield Pruned(name, sum([each async for each in _take_stretches(engine, name, before)]))


async def _old_months(connection: AsyncConnection, before: datetime) -> list[str]:
    """Those that are over by then."""
    last = before.astimezone(UTC).strftime("usage_entries_%Y_%m")
    names = (await connection.execute(_PARTITIONS)).scalars()
    return [name for name in names if _MONTH.fullmatch(name) and name < last]


async def _has_old(engine: AsyncEngine, name: str, before: datetime) -> bool:
    async with engine.begin() as connection:
        await connection.execute(_PATIENT)
        query = text(f"SELECT EXISTS (SELECT FROM {_GOES.format(name=name)})")  # noqa: S608
        return bool(await connection.scalar(query, {"before": before}))


@asynccontextmanager
async def _alone(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """A transaction beside which nobody else prunes."""
    async with engine.begin() as connection:
        await connection.execute(_PATIENT)
        await connection.execute(_ONE_PRUNES)
        yield connection


async def _drop(engine: AsyncEngine, month: str, before: datetime) -> Pruned | None:
    """None: another one has done it meanwhile.

    A late row for the month waits while its rows are summed up, or is given up and stored again later. Readers and
    everybody who stores other rows wait for a moment at the end.
    """
    async with _alone(engine) as connection:
        if month not in await _old_months(connection, before):
            return None
        await connection.execute(text(f"LOCK TABLE {month} IN SHARE ROW EXCLUSIVE MODE"))
        await connection.execute(text(_IDS.format(name=month)), {"before": before})
        entries = await _note_sums(connection, _GOES.format(name=month), before=before)
        columns = (await connection.execute(_COLUMNS)).scalar_one()
        await connection.execute(text(_KEPT.format(columns=columns, name=month)))
        await _take_out(connection, month, columns)
    return Pruned(month, entries)


async def _take_out(connection: AsyncConnection, month: str, columns: str) -> None:
    """Drops the partition, and has what is kept of it go to the partition of what has none."""

    async def take() -> None:
        async with connection.begin_nested():
            await connection.execute(SHORTER_LOCKS)
            await connection.execute(text(f"ALTER TABLE usage_entries DETACH PARTITION {month}"))
            await connection.execute(text(f"DROP TABLE {month}"))
            await connection.execute(_MOVES_ROWS)
            moved = f"INSERT INTO usage_entries ({columns}) SELECT {columns} FROM usage_kept"  # noqa: S608
            await connection.execute(text(moved))

    await _with_locks(take, month)


async def _with_locks(step: Callable[[], Awaitable[None]], partition: str) -> None:
    """Raises PartitionBusy where the step does not get its locks for a minute."""
    try:
        await with_locks(step)
    except DBAPIError as error:
        if not is_lock_refused(error):
            raise
        raise PartitionBusy(
            f"nothing could be taken out of {partition}: somebody reads or writes the rows without a break, such as a "
            "backup or a long report; try again when that is done"
        ) from None


async def _note_ids(engine: AsyncEngine, name: str, before: datetime) -> None:
    """From then on what is written again of these attempts is there already, with their rows or without them."""
    async with _alone(engine) as connection:
        await connection.execute(text(_IDS.format(name=name)), {"before": before})

    async def wait() -> None:
        async with engine.begin() as connection:
            await connection.execute(SHORTER_LOCKS)
            await connection.execute(text(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE"))

    # Whoever looked for an id before it was noted has stored its row then, or found it there.
    await _with_locks(wait, name)


async def _take_stretches(engine: AsyncEngine, name: str, before: datetime) -> AsyncIterator[int]:
    """How many rows that counted went with each stretch."""
    async with engine.connect() as connection:
        pages = await connection.scalar(text(f"SELECT pg_relation_size('{name}') / 8192"))
    for first, behind in _stretches(pages or 0):
        async with _alone(engine) as connection:
            await connection.execute(text(_TAKE.format(name=name, first=first, behind=behind)), {"before": before})
            taken = await _note_sums(connection, _TAKEN)
        yield taken


def _stretches(pages: int) -> Iterator[tuple[int, int]]:
    for first in range(0, pages, _PAGES_AT_ONCE):
        yield first, first + _PAGES_AT_ONCE


async def _note_sums(connection: AsyncConnection, rows: str, **values: object) -> int:
    """Of final rows that go; how many there are. `rows` is a FROM clause, with these values."""
    await connection.execute(text(_SUMS_OF_RUNS.format(rows=rows)), values)
    await connection.execute(text(_SUMS.format(rows=rows)), values)
    count = await connection.scalar(text(f"SELECT count(*) FROM {rows}"), values)  # noqa: S608
    return int(count or 0)
