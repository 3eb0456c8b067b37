"""PgBouncer in front of the database, in transaction mode without prepared statements: everything works through it."""

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import CountingServer
from paymaster_process import Databases, configuration, running_site, settled_books, until
from sqlalchemy import text
from sqlalchemy.engine import make_url

from paymaster import LLMRequest, Outcome
from paymaster.client import try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.reports.usage import usage_report
from paymaster.storage.engine import create_engine
from paymaster.storage.schema import check_schema, migrate

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(PGBOUNCER is None, reason="no pgbouncer here: Debian's package of that name"),
]


@pytest.fixture
async def pooled(databases: Databases, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty database, by way of a pooler with two connections for all."""
    assert PGBOUNCER is not None
    direct = make_url(await databases.create_empty())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host = direct.host or direct.query["host"]
    password = f" password={direct.password}" if direct.password else ""
    (tmp_path / "pgbouncer.ini").write_text(
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
"""
    )
    tmp_path.chmod(0o755)
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen([PGBOUNCER, "-q", *user, str(tmp_path / "pgbouncer.ini")], stderr=subprocess.DEVNULL)
    try:
        await until(lambda: process.poll() is not None or _answers(port), "the pooler is there")
        assert process.poll() is None, "it does not start"
        url = direct.set(host="127.0.0.1", port=port, query={"pgbouncer": "true"})
        yield url.render_as_string(hide_password=False)
    finally:
        process.terminate()
        process.wait(10)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_a_pooler_may_change_connections_between_transactions(
    stack: EmbeddedStack, pooled: str, server: CountingServer, tmp_path: Path
) -> None:
    await migrate(pooled)
    engine = create_engine(pooled)
    await check_schema(engine)

    async def backend() -> int:
        async with engine.connect() as connection:
            found = await connection.execute(text("SELECT pg_backend_pid(), pg_sleep(0.01)"))
            return found.one()[0]

    assert len(set(await asyncio.gather(*(backend() for _ in range(20))))) == 2, "the pooler shares two connections"
    await engine.dispose()

    service = server.service("pooled")
    tables = configuration([service], budgets={"acme/pooled": {"cap_usd": {"total": "1"}}})
    async with running_site(stack.temporal_address, pooled, tmp_path, tables) as site:
        asked = LLMRequest(route="pooled", budget="acme/pooled", prompt="Hello", max_output_tokens=50)
        results = await asyncio.gather(*(try_generate(site.client, asked) for _ in range(30)))
        assert [result.outcome for result in results] == [Outcome.COMPLETED] * 30
        await settled_books(site, service)
        [row] = await usage_report(site.engine, ledger="default", by=["service"])
        assert (row.calls, service.count) == (30, 30)
