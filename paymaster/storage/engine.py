"""Connections to PostgreSQL: what a URL may say, pools and timeouts."""

from sqlalchemy import (
    URL,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

CONNECT_TIMEOUT_S = 3.0
"""For making a connection, and for getting one from the pool."""

COMMAND_TIMEOUT_S = 3.0
"""For one statement, unless the engine was made with another one."""

_POOL_SIZE = 5

_CONNECTION_AGE_MAX_S = 180

_URL_PARAMETERS = {"host", "port", "ssl", "target_session_attrs", "prepared_statement_cache_size"}


def parse_url(url: str) -> URL:
    """The address of a PostgreSQL database as SQLAlchemy takes it; `str()` of it hides the password.

    Accepts `postgresql://` as well as `postgresql+asyncpg://`, and libpq's `sslmode`. Raises ValueError for an address
    that cannot be used; the message does not show it.
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
    if unknown := query.keys() - _URL_PARAMETERS:
        raise ValueError(
            f"the database's URL has parameters that are not supported, remove {', '.join(sorted(unknown))}"
        )
    return address.set(drivername="postgresql+asyncpg", query=query)


def create_engine(url: str, *, command_timeout_s: float = COMMAND_TIMEOUT_S) -> AsyncEngine:
    """An engine with a pool of up to ten connections. Connects at the first use; `await engine.dispose()` when done.

    Connecting takes at most `CONNECT_TIMEOUT_S`, a command at most `command_timeout_s`: a database that does not answer
    raises TimeoutError instead of holding its caller. Raises ValueError as `parse_url` does.
    """
    return create_async_engine(
        parse_url(url),
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
        connect_args={
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": command_timeout_s,
            # jit: the planner overrates the view's check for a final row and compiles what runs faster uncompiled.
            "server_settings": {"application_name": "paymaster", "jit": "off"},
        },
    )
