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
CLOSE_FUNCTIONS = text(
    """
    DO $$
    DECLARE
        function regprocedure; path text := quote_ident(current_schema()) || ', pg_temp';
    BEGIN
        FOR function IN SELECT oid FROM pg_proc WHERE pronamespace = current_schema()::regnamespace AND prosecdef
            AND proname ~ '^(api_usage|call_bodies|usage)_'
            AND 'search_path=' || path <> ALL (coalesce(proconfig, '{}'))
        LOOP
            EXECUTE format('ALTER FUNCTION %s SET search_path = %s', function, path);
            IF function <> 'usage_entries_make(date, date)'::regprocedure THEN
                EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', function);
            END IF;
        END LOOP;
    END
    $$
    """
)
"""Of functions that work as the owner and are new: none takes a temporary table of whoever stores rows for one of ours,
and nobody calls one but triggers. Making the coming months is for everybody, since workers do it."""
_PRIVILEGES = text("SELECT has_table_privilege(to_regclass(:name), :privilege)")
_DENIED = re.compile(r"permission denied for (schema|table|view|relation) (\S+)")


async def missing_grants(engine: AsyncEngine, needed: Mapping[str, tuple[str, ...]] = _NEEDED) -> list[str]:
    """The statements to give, in PostgreSQL's words; a table that is not there is none of them. `needed`: the
    privileges by table. Default: those of a worker and the commands."""
    async with engine.connect() as connection:
        lacking: dict[tuple[str, ...], list[str]] = {}
        for name, privileges in needed.items():
            found = tuple([each for each in privileges if not await _has(connection, name, each)])
            if found:
                lacking.setdefault(found, []).append(name)
        role = await connection.scalar(text("SELECT quote_ident(current_user)"))
    return [f"GRANT {', '.join(what)} ON {', '.join(names)} TO {role};" for what, names in lacking.items()]


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
    return f"GRANT {', '.join(_NEEDED.get(name, ('SELECT', 'INSERT')))} ON {name} {to};"


def is_forbidden(error: DBAPIError) -> bool:
    """Whether the database refuses it for want of a privilege."""
    return getattr(error.orig, "sqlstate", None) == _NO_PRIVILEGE


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
