"""The copy of each parked call: written with the copy of the ledger's status, in one transaction."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import RowMapping, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, BIGINT, TEXT
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from paymaster.messages import StatusCopy, WaitingCall
from paymaster.messages.status import CopiedCall
from paymaster.storage.usage_rows import storable

_FORGET_ALL = text("DELETE FROM parked_calls WHERE ledger = :ledger")
_FORGET_OLDER = text("DELETE FROM parked_calls WHERE ledger = :ledger AND version < :version")
_FORGET = text("DELETE FROM parked_calls WHERE ledger = :ledger AND hold_id = ANY(:gone)").bindparams(
    bindparam("gone", type_=ARRAY(TEXT))
)
_STORE = text(
    """
    INSERT INTO parked_calls (ledger, hold_id, workflow_id, priority, sequence, version, call)
    SELECT :ledger, hold_id, workflow_id, priority, sequence, :version, CAST(call AS jsonb)
    FROM unnest(:hold_ids, :workflow_ids, :priorities, :sequences, :calls)
        AS copied (hold_id, workflow_id, priority, sequence, call)
    ON CONFLICT (ledger, hold_id) DO UPDATE SET workflow_id = excluded.workflow_id, priority = excluded.priority,
        sequence = excluded.sequence, version = excluded.version, call = excluded.call
    """
).bindparams(
    bindparam("hold_ids", type_=ARRAY(TEXT)),
    bindparam("workflow_ids", type_=ARRAY(TEXT)),
    bindparam("priorities", type_=ARRAY(BIGINT)),
    bindparam("sequences", type_=ARRAY(BIGINT)),
    bindparam("calls", type_=ARRAY(TEXT)),
)
_PAGE = text(
    """
    SELECT call FROM parked_calls WHERE ledger = :ledger
    ORDER BY priority DESC, sequence LIMIT :limit OFFSET :offset
    """
)
_COUNT = text("SELECT count(*) FROM parked_calls WHERE ledger = :ledger")
_OF_WORKFLOWS = text("SELECT call FROM parked_calls WHERE ledger = :ledger AND workflow_id = ANY(:ids)").bindparams(
    bindparam("ids", type_=ARRAY(TEXT))
)
_NEEDS = text(
    """
    SELECT short ->> 'account' AS account, short ->> 'window' AS window, count(*) AS calls,
           sum((call ->> 'bound_nanos')::numeric) AS nanos
    FROM parked_calls, jsonb_array_elements(call -> 'short_of') AS short
    WHERE ledger = :ledger GROUP BY 1, 2
    """
)


class Needs(NamedTuple):
    """What the calls that a cap has no room for can cost together."""

    calls: int
    nanos: int


async def store_parked(connection: AsyncConnection, copy: StatusCopy) -> None:
    ledger = {"ledger": copy.status.ledger}
    if copy.anew:
        await connection.execute(_FORGET_ALL, ledger)
    if copy.calls:
        values = {
            "version": copy.version,
            "hold_ids": [each.hold_id for each in copy.calls],
            "workflow_ids": [storable(each.call.workflow_id) for each in copy.calls],
            "priorities": [each.priority for each in copy.calls],
            "sequences": [each.sequence for each in copy.calls],
            # PostgreSQL takes no NUL into jsonb; callers choose ids.
            "calls": [each.model_dump_json().replace("\\u0000", "\\ufffd") for each in copy.calls],
        }
        await connection.execute(_STORE, ledger | values)
    if copy.calls_gone:
        await connection.execute(_FORGET, ledger | {"gone": list(copy.calls_gone)})
    if copy.calls_from:
        await connection.execute(_FORGET_OLDER, ledger | {"version": copy.calls_from})


async def parked_page(engine: AsyncEngine, ledger: str, offset: int, limit: int) -> tuple[list[WaitingCall], int]:
    """So many parked calls in the order in which they will be served, and how many there are in all."""
    values = {"ledger": ledger, "offset": offset, "limit": limit}
    async with engine.connect() as connection:
        rows = (await connection.execute(_PAGE, values)).mappings().all()
        count: int = await connection.scalar(_COUNT, {"ledger": ledger}) or 0
    return [_call(row) for row in rows], count


async def parked_calls_of(engine: AsyncEngine, ledger: str, workflow_ids: Sequence[str]) -> dict[str, WaitingCall]:
    """Those of these workflows that are parked, by workflow id."""
    async with engine.connect() as connection:
        rows = (await connection.execute(_OF_WORKFLOWS, {"ledger": ledger, "ids": list(workflow_ids)})).mappings().all()
    return {call.workflow_id: call for call in map(_call, rows)}


async def needs_of_parked(engine: AsyncEngine, ledger: str) -> dict[tuple[str, str], Needs]:
    """By account and window, of the caps that have no room for parked calls."""
    async with engine.connect() as connection:
        rows = (await connection.execute(_NEEDS, {"ledger": ledger})).mappings().all()
    return {(row["account"], row["window"]): Needs(row["calls"], int(row["nanos"])) for row in rows}


def _call(row: RowMapping) -> WaitingCall:
    return CopiedCall.model_validate(row["call"]).call
