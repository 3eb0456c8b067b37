"""What a role may do in the database, and what stands between it and PostgreSQL."""

import re
from collections.abc import Mapping

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_NO_PRIVILEGE = "42501"
"""PostgreSQL's code for what a role may not do."""
_NEEDED = {
    "api_usage_counted": ("SELECT",),
    "account_status": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "alerts": ("SELECT", "INSERT"),
    "cap_changes": ("SELECT", "INSERT"),
    "call_bodies": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "clients": ("SELECT", "INSERT", "UPDATE"),
    "configurations": ("SELECT", "INSERT"),
    "erasures": ("SELECT",),
    "ledger_status": ("SELECT", "INSERT", "UPDATE"),
    "left_requests": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "parked_calls": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "paymaster_schema": ("SELECT",),
    "price_lists": ("SELECT", "INSERT"),
    "usage_entries": ("SELECT", "INSERT"),
    "usage_hourly": ("SELECT",),
    "usage_pruned": ("SELECT",),
    "usage_pruned_ids": ("SELECT",),
    "usage_pruned_runs": ("SELECT",),
}
"""Of a worker and the commands; migrating needs more: see `grant_for`."""
ERASING: Mapping[str, tuple[str, ...]] = {
    "alerts": ("UPDATE",),
    "call_bodies": ("DELETE",),
    "erased_calls": ("SELECT", "INSERT"),
    "erasures": ("INSERT", "UPDATE"),
    "left_requests": ("DELETE",),
    "usage_entries": ("UPDATE",),
}
"""Of whoever erases, besides."""
UNSAID_POOLER = (
    "a pooler such as PgBouncer is in front of the database, in transaction mode; statements that one transaction "
    "prepares are missing in the next, or are another's: add pgbouncer=true to the database's URL"
)
SET_PRIVILEGES = text(
    """
    DO $$
    DECLARE
        function regprocedure; path text := quote_ident(current_schema()) || ', pg_temp';
    BEGIN
        FOR function IN SELECT oid FROM pg_proc WHERE pronamespace = current_schema()::regnamespace AND prosecdef
            AND proname ~ '^(api_usage|call_bodies|usage)_'
        LOOP
            IF 'search_path=' || path <> ALL (
                coalesce((SELECT proconfig FROM pg_proc WHERE oid = function), '{}')
            ) THEN
                EXECUTE format('ALTER FUNCTION %s SET search_path = %s', function, path);
            END IF;
            IF function <> 'usage_entries_make(date, date)'::regprocedure
                AND has_function_privilege('public', function, 'EXECUTE')
            THEN
                EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', function);
            END IF;
        END LOOP;
        IF NOT has_sequence_privilege('public', 'usage_entries_id_seq', 'USAGE') THEN
            GRANT USAGE ON SEQUENCE usage_entries_id_seq TO PUBLIC;
        END IF;
    END
    $$
    """
)
"""Of functions that work as the owner: none takes a temporary table of whoever stores rows for one of ours, and nobody
calls one but triggers. Making the coming months is for everybody, since workers do it, and so are the numbers of rows,
as an identity's are. A dump that was put back without its privileges has none of this."""
ONLY_READS = (
    "it only reads, as a replica does, and nothing can be stored: name the primary, or all hosts "
    "(host=a:5432&host=b:5432), of which the primary is taken"
)
_ENDED_BY_PRIMARY = (
    "the replica ended this, because the primary took out or changed what it was reading, as `usage prune` and "
    "`migrate` do: give the command again"
)
_READ_ONLY = "25006"
"""PostgreSQL's code for what a transaction may not do that only reads."""
_PRIVILEGES = text("SELECT has_table_privilege(to_regclass(:name), :privilege)")
_MAY_NUMBER = text("SELECT has_sequence_privilege(to_regclass('usage_entries_id_seq'), 'USAGE')")
_DENIED = re.compile(r"permission denied for (schema|sequence|table|view|relation) (\S+)")


async def missing_grants(engine: AsyncEngine, needed: Mapping[str, tuple[str, ...]] = _NEEDED) -> list[str]:
    """The statements to give, in PostgreSQL's words; a table that is not there is none of them. `needed`: the
    privileges by table. Default: those of a worker and the commands."""
    async with engine.connect() as connection:
        lacking: dict[tuple[str, ...], list[str]] = {}
        for name, privileges in needed.items():
            missing = tuple([each for each in privileges if not await _has(connection, name, each)])
            if missing:
                lacking.setdefault(missing, []).append(name)
        role = await connection.scalar(text("SELECT quote_ident(current_user)"))
        may_number = await connection.scalar(_MAY_NUMBER) is not False
    found = [f"GRANT {', '.join(what)} ON {', '.join(names)} TO {role};" for what, names in lacking.items()]
    if not may_number and "INSERT" in needed.get("usage_entries", ()):
        found.append(f"GRANT USAGE ON SEQUENCE usage_entries_id_seq TO {role};")
    return found


async def _has(connection: AsyncConnection, name: str, privilege: str) -> bool:
    return await connection.scalar(_PRIVILEGES, {"name": name, "privilege": privilege}) is not False


async def unseen_schema(connection: AsyncConnection) -> str | None:
    """The statement that lets this role see the tables at all. None: it may."""
    if await connection.scalar(text("SELECT current_schema()")) is not None:
        return None
    role = await connection.scalar(text("SELECT quote_ident(current_user)"))
    return f"GRANT USAGE ON SCHEMA public TO {role};"


def grant_for(error: DBAPIError, role: str | None) -> str | None:
    """The statement that allows what the database has refused for want of a privilege. None: it was something else."""
    if not is_forbidden(error):
        return None
    denied = _DENIED.search(str(error.orig))
    to = "TO the role" if role is None else f'TO "{role}"'
    if denied is None:
        return None
    kind, name = denied.groups()
    if kind == "schema":
        return f"GRANT USAGE, CREATE ON SCHEMA {name} {to};"
    if kind == "sequence":
        return f"GRANT USAGE ON SEQUENCE {name} {to};"
    return f"GRANT {', '.join(_NEEDED.get(name, ('SELECT', 'INSERT')))} ON {name} {to};"


def is_forbidden(error: DBAPIError) -> bool:
    """Whether the database refuses it for want of a privilege."""
    return getattr(error.orig, "sqlstate", None) == _NO_PRIVILEGE


def said_by_replica(error: DBAPIError) -> str | None:
    """What to do about what only a replica answers. None: it was something else."""
    if getattr(error.orig, "sqlstate", None) == _READ_ONLY:
        return ONLY_READS
    return _ENDED_BY_PRIMARY if "conflict with recovery" in str(error.orig) else None


async def only_reads(engine: AsyncEngine) -> bool:
    """Whether nothing can be stored there."""
    async with engine.connect() as connection:
        return await connection.scalar(text("SELECT current_setting('transaction_read_only') = 'on'")) is True


def is_refused_by_pooler(error: DBAPIError) -> bool:
    """Whether the database's answer is one that only a connection through a pooler gets."""
    said = str(error.orig)
    return "unsupported startup parameter" in said or (
        "prepared statement" in said and ("already exists" in said or "does not exist" in said)
    )


async def shares_connections(engine: AsyncEngine) -> bool:
    """Whether a pooler gives a connection's transactions to whichever of its own connections is free.

    Two connections that are open at once are then served by one process of PostgreSQL, one after the other.
    """
    process = text("SELECT pg_backend_pid()")
    async with engine.connect() as first, engine.connect() as second:
        found: list[int] = []
        for connection in (first, second):
            found.append(await connection.scalar(process) or 0)
            await connection.rollback()  # a pooler takes its connection back when a transaction ends
    return found[0] == found[1]
