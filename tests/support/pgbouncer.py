"""A real PgBouncer in front of a database, in transaction mode without prepared statements: Debian's package."""

import os
import shutil
import socket
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from paymaster_process import until
from sqlalchemy.engine import make_url

_PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_pgbouncer = pytest.mark.skipif(_PGBOUNCER is None, reason="no pgbouncer here: Debian's package of that name")


@asynccontextmanager
async def pooled(database_url: str, folder: Path, *, more: str = "") -> AsyncGenerator[str]:
    """The URL of a database by way of a pooler with two connections for all, without a word of it in the URL.

    `more`: lines of its configuration.
    """
    assert _PGBOUNCER is not None
    direct = make_url(database_url)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host = direct.host or direct.query["host"]
    password = f" password={direct.password}" if direct.password else ""
    (folder / "pgbouncer.ini").write_text(
        f"""
[databases]
* = host={host} port={direct.port or 5432} user={direct.username}{password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
{more}
"""
    )
    folder.chmod(0o755)
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen([_PGBOUNCER, "-q", *user, str(folder / "pgbouncer.ini")], stderr=subprocess.DEVNULL)
    try:
        await until(lambda: process.poll() is not None or _answers(port), "the pooler is there")
        assert process.poll() is None, "it does not start"
        yield direct.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
    finally:
        process.terminate()
        process.wait(10)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
