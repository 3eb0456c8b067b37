"""Taking what is personal out of the database: the metadata of rows, and stored bodies. What was paid stays as it is.

A call that is erased is noted first, and triggers keep what is stored later from bringing anything back. Each step may
be repeated, and broken off at any place."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import TextClause, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages.temporal_names import generation_id
from paymaster.storage.partitions import SHORTER_LOCKS, with_locks
from paymaster.storage.usage_rows import storable
from paymaster.values.limits import GENERATIONS_MAX
from paymaster.values.plurals import counted

KINDS = {
    "histories": "history",
    "payloads in external storage": "payload in external storage",
    "stored bodies": "stored body",
    "rows' metadata": "row's metadata",
    "requests left at the gateway": "request left at the gateway",
    "alerts' texts": "alert's text",
    "left": "left",
}
"""What an erasure counts, as it is noted, and what one of it is called."""


def _statement(sql: str, *lists: str) -> TextClause:
    return text(sql).bindparams(*(bindparam(name, type_=ARRAY(TEXT)) for name in lists))


_CALLS = "SELECT DISTINCT call_id, workflow_id, run_id FROM usage_entries WHERE ledger = :ledger AND "
_BY_METADATA = text(_CALLS + "metadata @> CAST(:metadata AS jsonb)")
_BY_ID = _statement(_CALLS + "call_id = ANY(:call_ids)", "call_ids")
_OF_CALLS = "ledger = :ledger AND workflow_id = ANY(:workflow_ids) AND run_id = ANY(:run_ids)"
_HAVE_METADATA = _statement(
    "SELECT DISTINCT run_id FROM usage_entries WHERE ledger = :ledger AND workflow_id = ANY(:workflow_ids) "
    "AND metadata <> '{}'",
    "workflow_ids",
)
_NAMES = _statement(
    f"SELECT DISTINCT budget, charged_budgets, run FROM usage_entries WHERE {_OF_CALLS}",  # noqa: S608
    "workflow_ids",
    "run_ids",
)
_ROWS = _statement(
    f"SELECT count(*) FROM usage_entries WHERE {_OF_CALLS} AND metadata <> '{{}}'",  # noqa: S608
    "workflow_ids",
    "run_ids",
)
_BODIES_OF = """
    SELECT reference FROM call_bodies
    WHERE ledger = :ledger AND namespace = :namespace AND piece = 0 AND workflow_id = ANY(:workflow_ids)
"""
_BODIES = _statement(f"SELECT count(*) FROM ({_BODIES_OF}) AS bodies", "workflow_ids")  # noqa: S608

_NOTE = _statement(
    "INSERT INTO erased_calls (run_id) SELECT unnest(:run_ids) ON CONFLICT (run_id) DO NOTHING", "run_ids"
)
_WAIT = text("LOCK TABLE usage_entries, call_bodies IN SHARE MODE")
_ERASE_BODIES = _statement(
    f"WITH gone AS (DELETE FROM call_bodies WHERE reference IN ({_BODIES_OF}) RETURNING piece) "  # noqa: S608
    "SELECT count(*) FROM gone WHERE piece = 0",
    "workflow_ids",
)
_ERASE_LEFT = _statement("DELETE FROM left_requests WHERE ledger = :ledger AND call_id = ANY(:call_ids)", "call_ids")
# What the ledger tells at most once a day of a service, in the words of that service, which may quote a prompt.
_ERASE_ALERTS = _statement(
    f"""
    UPDATE alerts SET text = service || '/' || model || ': erased, since it may have quoted a prompt'
    FROM usage_entries AS entry
    WHERE alerts.ledger = :ledger AND what = 'service_refuses' AND entry.error_class IS NOT NULL
      AND starts_with(text, service || '/' || model || ': ') AND text NOT LIKE '%: erased, since it may%'
      AND at BETWEEN granted_at AND recorded_at + interval '5 minutes'
      AND entry.{_OF_CALLS.replace(" AND ", " AND entry.")}
    """,  # noqa: S608
    "workflow_ids",
    "run_ids",
)
_ERASE_ROWS = _statement(
    f"UPDATE usage_entries SET metadata = '{{}}' WHERE {_OF_CALLS} AND metadata <> '{{}}'",  # noqa: S608
    "workflow_ids",
    "run_ids",
)

_BEGIN = text("INSERT INTO erasures (ledger, who, reason) VALUES (:ledger, :who, :reason) RETURNING id")
_END = text("UPDATE erasures SET ended_at = now(), erased = CAST(:erased AS json) WHERE id = :id")


class StoredCall(NamedTuple):
    """The workflow of a call, or of a purchase, that has rows."""

    call_id: str
    workflow_id: str
    run_id: str


class Stored(NamedTuple):
    """What of some calls is personal in the database, by numbers, and what has a name that stays."""

    rows: int
    """That have metadata."""
    bodies: int
    budgets: tuple[str, ...]
    runs: tuple[str, ...]


class ErasedRows(NamedTuple):
    rows: int
    bodies: int
    left_requests: int
    alerts: int


async def calls_with_metadata(engine: AsyncEngine, ledger: str, metadata: Mapping[str, str]) -> list[StoredCall]:
    """Those whose rows have all of these keys with these values."""
    wanted = {storable(key): storable(value) for key, value in metadata.items()}
    return await _calls(engine, _BY_METADATA, {"ledger": ledger, "metadata": json.dumps(wanted)})


async def calls_of_ids(engine: AsyncEngine, ledger: str, call_ids: Sequence[str]) -> list[StoredCall]:
    """Those of these calls that have rows, with their generations."""
    ids = [storable(generation_id(each, number)) for each in call_ids for number in range(1, GENERATIONS_MAX + 1)]
    return await _calls(engine, _BY_ID, {"ledger": ledger, "call_ids": ids})


async def _calls(engine: AsyncEngine, query: TextClause, values: Mapping[str, object]) -> list[StoredCall]:
    async with engine.connect() as connection:
        return [StoredCall(*row) for row in await connection.execute(query, values)]


async def with_metadata(engine: AsyncEngine, ledger: str, workflow_ids: Sequence[str]) -> set[str]:
    """The run ids of those whose metadata the rows say."""
    async with engine.connect() as connection:
        return set(await connection.scalars(_HAVE_METADATA, {"ledger": ledger, "workflow_ids": list(workflow_ids)}))


async def stored_of(engine: AsyncEngine, ledger: str, namespace: str, calls: Collection[StoredCall]) -> Stored:
    values = _values(ledger, calls)
    async with engine.connect() as connection:
        names = (await connection.execute(_NAMES, values)).all()
        rows = await connection.scalar(_ROWS, values) or 0
        bodies = await connection.scalar(_BODIES, values | {"namespace": namespace}) or 0
    budgets = {path for row in names for path in (row.charged_budgets or (row.budget,))}
    return Stored(rows, bodies, tuple(sorted(budgets)), tuple(sorted({row.run for row in names if row.run})))


def _values(ledger: str, calls: Collection[StoredCall]) -> dict[str, Any]:
    return {
        "ledger": ledger,
        "workflow_ids": [storable(call.workflow_id) for call in calls],
        "run_ids": [call.run_id for call in calls],
    }


async def note_erased(engine: AsyncEngine, run_ids: Collection[str]) -> None:
    """From now on nothing personal of these calls is stored, and who was storing something has stored it.

    Raises the driver's errors, also where somebody holds the tables for longer than a minute.
    """
    async with engine.begin() as connection:
        await connection.execute(_NOTE, {"run_ids": list(run_ids)})

    async def wait() -> None:
        async with engine.begin() as connection:
            await connection.execute(SHORTER_LOCKS)
            await connection.execute(_WAIT)

    await with_locks(wait)  # whoever stores has not seen the note if that began before it


async def erase_stored(engine: AsyncEngine, ledger: str, namespace: str, calls: Collection[StoredCall]) -> ErasedRows:
    """Of calls that are noted and whose histories are gone. Rows come last: by them the others are found again."""
    values = _values(ledger, calls)
    async with engine.begin() as connection:
        bodies = await connection.scalar(_ERASE_BODIES, values | {"namespace": namespace}) or 0
        ids = [storable(call.call_id) for call in calls]
        left = await connection.execute(_ERASE_LEFT, {"ledger": ledger, "call_ids": ids})
        alerts = await connection.execute(_ERASE_ALERTS, values)
        rows = await connection.execute(_ERASE_ROWS, values)
    return ErasedRows(rows.rowcount, bodies, left.rowcount, alerts.rowcount)


async def begin_erasure(engine: AsyncEngine, ledger: str, who: str, reason: str) -> int:
    """Notes that somebody erases something; the number of the note. What was asked for is in no note."""
    async with engine.begin() as connection:
        return await connection.scalar(_BEGIN, {"ledger": ledger, "who": who, "reason": reason}) or 0


def in_words(erased: Mapping[str, int]) -> str:
    """`erased`: how much, by kind. Empty where it is nothing."""
    return ", ".join(counted(count, KINDS.get(kind, kind), kind) for kind, count in erased.items() if count)


async def end_erasure(engine: AsyncEngine, number: int, erased: Mapping[str, int]) -> None:
    """`erased`: how much, by kind."""
    async with engine.begin() as connection:
        await connection.execute(_END, {"id": number, "erased": json.dumps(dict(erased))})
