"""Whether PostgreSQL has room for the locks of statements that touch the rows of every month."""

from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

_MONTHS_TO_COME = 12
_AT_ONCE_MIN = 10
"""So many connections one process may have."""
_STEP = 64
"""PostgreSQL's default of the setting: a multiple of it is set."""
_ASK = text(
    """
    WITH tables AS (
        SELECT relid FROM pg_partition_tree('usage_entries')
    )
    SELECT current_setting('max_locks_per_transaction')::int AS per_transaction,
           current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int AS transactions,
           (SELECT count(*) FROM tables) + (SELECT count(*) FROM pg_index WHERE indrelid IN (SELECT relid FROM tables))
               AS relations,
           (SELECT count(*) FROM pg_index WHERE indrelid = 'usage_entries'::regclass) AS indexes,
           (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS connections
    """
)


class LockRoom(NamedTuple):
    """How many locks there can be, and what takes them."""

    per_transaction: int
    """PostgreSQL's setting `max_locks_per_transaction`."""
    transactions: int
    """How many transactions have room for so many locks each: `max_connections` and `max_prepared_transactions`."""
    relations: int
    """The table of rows with its partitions, and all their indexes: a statement over all months locks each of them."""
    indexes: int
    """Of each partition."""
    connections: int
    """To this database, now."""

    @property
    def locks(self) -> int:
        """What is certain. PostgreSQL has more, which it shares with other uses."""
        return self.per_transaction * self.transactions

    @property
    def of_statement(self) -> int:
        """Locks of one statement over all months in a year from now, where none is pruned."""
        return self.relations + _MONTHS_TO_COME * (1 + self.indexes)

    @property
    def at_once(self) -> int:
        """Connections that may begin such a statement at once, as workers that start together do."""
        return max(_AT_ONCE_MIN, self.connections)

    @property
    def lacking(self) -> int | None:
        """What to set `max_locks_per_transaction` to. None: it is enough as it is."""
        needed = self.of_statement * self.at_once
        if needed <= self.locks:
            return None
        return -(-needed // (self.transactions * _STEP)) * _STEP


async def lock_room(engine: AsyncEngine) -> LockRoom:
    async with engine.connect() as connection:
        return LockRoom(**(await connection.execute(_ASK)).mappings().one())
