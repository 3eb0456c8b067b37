"""Connections to PostgreSQL: what a URL may say, pools and timeouts."""

import ssl
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    URL,
)
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from paymaster.storage.hosts import connect_in_turn

DATABASE_ERRORS = (SQLAlchemyError, OSError, TimeoutError)
"""What a database raises that does not answer, or refuses."""

CONNECT_TIMEOUT_S = 3.0
"""For making a connection, and for getting one from the pool."""

COMMAND_TIMEOUT_S = 3.0
"""For one statement, unless the engine was made with another one."""

_POOL_SIZE = 5

_CONNECTION_AGE_MAX_S = 180

_URL_PARAMETERS = {
    "host",
    "pgbouncer",
    "port",
    "prepared_statement_cache_size",
    "ssl",
    "sslrootcert",
    "target_session_attrs",
}

_WORDS = {
    "pgbouncer": ("true", "false"),
    "ssl": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}
"""What asyncpg takes, and ours."""

_PORT_MAX = 65_535

_NO_SETTINGS: Mapping[str, str] = {}

APPLICATION_NAME = "paymaster"
"""By which PostgreSQL's list of connections knows ours."""

POOLER_PORT = 6432
"""PgBouncer's usual port, also at Azure Database for PostgreSQL."""


def parse_url(url: str) -> URL:
    """The address of a PostgreSQL database as SQLAlchemy takes it; `str()` of it hides the password.

    Accepts `postgresql://` as well as `postgresql+asyncpg://`, libpq's `sslmode` and `sslrootcert`, and `pgbouncer`
    (see `is_pooled`). Raises ValueError for an address that cannot be used; the message does not show it.
    """
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        # Not the parser's own words: they may show a part of the password.
        raise ValueError(
            "the database's URL cannot be read; percent-encode what is special in user and password"
        ) from None
    if address.drivername not in {"postgresql", "postgresql+asyncpg"}:
        raise ValueError(f"the database's URL begins with {address.drivername}://; write postgresql+asyncpg://")
    query = {"ssl" if name == "sslmode" else name: value for name, value in address.query.items()}
    if isinstance(mode := query.get("ssl"), str):
        query["ssl"] = mode.replace("_", "-")
    if unknown := query.keys() - _URL_PARAMETERS:
        raise ValueError(
            f"the database's URL has parameters that are not supported, remove {', '.join(sorted(unknown))}"
        )
    for name, value in query.items():
        _check_parameter(name, value)
    if address.port is not None and not 0 < address.port <= _PORT_MAX:
        raise ValueError("the database's URL has a port that is no number from 1 to 65535")
    try:
        asyncpg.dialect().create_connect_args(address.set(drivername="postgresql+asyncpg", query=query))
    except (ArgumentError, ValueError):
        raise ValueError(
            "the database's URL has hosts that cannot be read: write several as host=a:5432&host=b:5432"
        ) from None
    if "sslrootcert" in query and query.get("ssl") == "disable":
        raise ValueError("the database's URL has sslrootcert=, and sslmode=disable: remove one of them")
    return address.set(drivername="postgresql+asyncpg", query=query)


def _check_parameter(name: str, value: str | tuple[str, ...]) -> None:
    """Raises ValueError, which names the parameter and what it may be. Several hosts have a parameter each."""
    written = "sslmode" if name == "ssl" else name
    if isinstance(value, tuple):
        if name not in ("host", "port"):
            raise ValueError(f"the database's URL has {written}= {len(value)} times; once is enough")
        for each in value:
            _check_parameter(name, each)
    elif (words := _WORDS.get(name)) is not None and value not in words:
        raise ValueError(f"the database's URL has {written}= with another word than {', '.join(words)}")
    elif name == "prepared_statement_cache_size" and not _is_number(value, 1_000_000):
        raise ValueError("the database's URL has a prepared_statement_cache_size that is no number")
    elif name == "port" and not all(_is_number(port, _PORT_MAX) for port in value.split(",")):
        raise ValueError("the database's URL has a port that is no number from 1 to 65535")


def _is_number(text: str, most: int) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10 and int(text) <= most


def is_pooled(address: URL) -> bool:
    """Whether a pooler such as PgBouncer is in front of the database, and may give each transaction to another of its
    connections: `pgbouncer=true` or `false` says so, else the port."""
    said, port = address.query.get("pgbouncer"), address.port or address.query.get("port")
    return str(port) == str(POOLER_PORT) if said is None else said == "true"


def create_engine(
    url: str, *, command_timeout_s: float = COMMAND_TIMEOUT_S, server_settings: Mapping[str, str] = _NO_SETTINGS
) -> AsyncEngine:
    """An engine with a pool of up to ten connections. Connects at the first use; `await engine.dispose()` when done.

    `server_settings` are PostgreSQL's, for each connection that goes through no pooler, which knows none of them but
    `application_name`. Of several hosts the primary is asked, unless the URL says `target_session_attrs`.

    Connecting takes at most `CONNECT_TIMEOUT_S`, a command at most `command_timeout_s`: a database that does not answer
    raises TimeoutError instead of holding its caller. Raises ValueError as `parse_url` does.
    """
    address = parse_url(url)
    pooled = is_pooled(address)
    connect_args: dict[str, Any] = {
        "timeout": CONNECT_TIMEOUT_S,
        "command_timeout": command_timeout_s,
        "server_settings": {"application_name": server_settings.get("application_name", APPLICATION_NAME)},
    }
    if pooled:
        # What one transaction prepares is not there, or is another's, in the next. A pooler knows no other settings.
        connect_args |= {"statement_cache_size": 0, "prepared_statement_name_func": _unique_name}
        address = address.update_query_dict({"prepared_statement_cache_size": "0"})
    else:
        # The planner overrates the view's check for a final row and compiles what runs faster uncompiled.
        connect_args["server_settings"] |= {"jit": "off", **server_settings}
    if _has_several_hosts(address):
        wanted = address.query.get("target_session_attrs", "primary")
        connect_args |= {"async_creator_fn": connect_in_turn, "target_session_attrs": wanted}
    authorities = address.query.get("sslrootcert")
    if authorities is not None:
        connect_args["ssl"] = _tls(str(authorities), verify_name=address.query.get("ssl") == "verify-full")
        address = address.difference_update_query(["ssl"])
    return create_async_engine(
        address.difference_update_query(["pgbouncer", "sslrootcert"]),
        # Whatever the database's own default is: the sums of an hour are added to as others have just left them.
        isolation_level="READ COMMITTED",
        pool_size=_POOL_SIZE,
        max_overflow=_POOL_SIZE,
        hide_parameters=True,  # an error is logged; what callers wrote in their metadata is not for the log
        pool_timeout=CONNECT_TIMEOUT_S,
        # One more round trip for each use, and worth it: without it, every pooled connection fails once after the
        # database was restarted, and as many entries take the long way through the backlog.
        pool_pre_ping=True,
        # Cloud networks drop connections that are idle for four minutes without a word; the ping would wait for its
        # timeout then.
        pool_recycle=_CONNECTION_AGE_MAX_S,
        connect_args=connect_args,
    )


def _has_several_hosts(address: URL) -> bool:
    _, arguments = asyncpg.dialect().create_connect_args(address)
    return isinstance(arguments.get("host"), list)


def _tls(authorities: str, *, verify_name: bool) -> ssl.SSLContext:
    """TLS that trusts the authorities in a PEM file, or those of the system where it is called `system`, as libpq does.
    Raises ValueError."""
    try:
        context = ssl.create_default_context(cafile=None if authorities == "system" else authorities)
    except OSError as error:
        raise ValueError(f"the database's URL: sslrootcert={authorities} cannot be read: {error}") from None
    context.check_hostname = verify_name or authorities == "system"
    return context


def _unique_name() -> str:
    return f"__paymaster_{uuid4().hex}__"
