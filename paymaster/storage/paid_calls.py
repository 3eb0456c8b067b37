"""Which calls were answered or paid for, by their ids: the database knows them longer than Temporal keeps histories."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages import CallRef, call_id_of
from paymaster.storage.usage_rows import storable

ROWS_MAX = 100
"""Of a call, and of its later generations, that are looked at."""
# Later generations are found by the index too: what begins with "ID~g" and goes on with digits is between "ID~g" and
# "ID~h". In the order of the index, so that the planner takes it for any table.
_ROWS = text(
    """
    SELECT asked.id, entry.attempt_id, entry.state, entry.workflow_id, entry.run_id,
           entry.status = 'completed' OR entry.cost_usd <> 0 AS is_paid
    FROM unnest(CAST(:ids AS text[]), CAST(:calls AS text[])) AS asked (id, call), LATERAL (
        (
            SELECT attempt_id, state, workflow_id, run_id, status, cost_usd FROM usage_entries
            WHERE workflow_id = asked.id AND ledger = :ledger ORDER BY workflow_id LIMIT :most
        ) UNION ALL (
            SELECT attempt_id, state, workflow_id, run_id, status, cost_usd FROM usage_entries
            WHERE workflow_id > asked.id || '~g' AND workflow_id < asked.id || '~h'
                AND usage_first_generation(workflow_id) = asked.id AND ledger = :ledger
            ORDER BY workflow_id LIMIT :most
        ) UNION ALL (
            SELECT NULL, 'pruned', NULL, NULL, 'completed', 0 FROM usage_pruned_ids
            WHERE call = usage_pruned_id(:ledger, asked.call) LIMIT 1
        )
    ) AS entry
    """
)


class PaidCall(NamedTuple):
    """What is stored of an id under which something was answered or billed, or may have been."""

    runs: tuple[CallRef, ...] = ()
    """Of its workflow and of later generations."""
    is_pruned: bool = False
    """There were rows that are pruned: of which run is not known any more."""


async def paid_calls(engine: AsyncEngine, ledger: str, workflow_ids: Sequence[str]) -> list[PaidCall]:
    """For each of these ids of calls' workflows, first generations, what was paid for."""
    asked = {workflow_id: storable(workflow_id) for workflow_id in workflow_ids}
    ids = sorted(set(asked.values()))
    values = {"ids": ids, "calls": [call_id_of(each) for each in ids], "ledger": ledger, "most": ROWS_MAX}
    # One statement needs no transaction, which would ask the database two times more.
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        rows = (await connection.execute(_ROWS, values)).all()
    final = {row.attempt_id for row in rows if row.state == "final"}
    pruned = {row.id for row in rows if row.state == "pruned"}
    runs: defaultdict[str, dict[CallRef, None]] = defaultdict(dict)
    for row in rows:
        if row.is_paid and (row.state == "final" or (row.state == "unconfirmed" and row.attempt_id not in final)):
            runs[row.id][CallRef(workflow_id=row.workflow_id, run_id=row.run_id)] = None
    return [PaidCall(tuple(runs[asked[each]]), asked[each] in pruned) for each in workflow_ids]
