"""Promises 3 and 4 with a database that hangs, is slow, is full, cuts connections or chooses a deadlock's victim.

Paymaster reaches it as a user with a hostile password, which the server does check.
"""

import asyncio
import contextlib
import itertools
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService
from load import asking
from paymaster_process import Databases, Site, configuration, frozen, running_site, settled_books, until
from slow_proxy import SlowProxy
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from paymaster.devstack import EmbeddedStack
from paymaster.messages import backlog_workflow_id
from paymaster.storage.engine import create_engine

pytestmark = pytest.mark.timeout(180)
PASSWORD = "p%40ss:/?#[]@!$&'()*+,;= \"\\%%é€ñ{}|"
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
async def database() -> AsyncIterator[EmbeddedStack]:
    """A PostgreSQL that can be stopped."""
    async with EmbeddedStack(temporal=False, model=False) as stack:
        yield stack


@pytest.fixture(scope="module")
async def admin(database: EmbeddedStack) -> AsyncIterator[AsyncEngine]:
    """Another program's connections to the same server."""
    engine = create_async_engine(database.database_url, isolation_level="AUTOCOMMIT")
    yield engine
    await engine.dispose()


@pytest.fixture(scope="module")
async def proxy(database: EmbeddedStack, admin: AsyncEngine) -> AsyncIterator[tuple[SlowProxy, str]]:
    """The slow way, and the URL of the server by it, with a password that is checked."""
    async with admin.connect() as connection:
        quoted = PASSWORD.replace("'", "''")
        await connection.exec_driver_sql(f"CREATE ROLE \"pay:m@ster\" SUPERUSER LOGIN PASSWORD '{quoted}'")
        rules = Path(str(await connection.scalar(text("SHOW hba_file"))))
        rules.write_text('local all "pay:m@ster" scram-sha-256\n' + rules.read_text())
        await connection.execute(text("SELECT pg_reload_conf()"))
    address = make_url(database.database_url)
    socket = f"{address.query['host']}/.s.PGSQL.{address.query['port']}"
    proxy = SlowProxy(partial(asyncio.open_unix_connection, socket))
    by_proxy = address.set(
        username="pay:m@ster", password=PASSWORD, host="127.0.0.1", port=await proxy.listen(), query={"ssl": "disable"}
    )
    yield proxy, by_proxy.render_as_string(hide_password=False)
    proxy.close()


@pytest.fixture
def service(server: CountingServer) -> FakeService:
    return server.service(f"database-{next(NUMBERS)}")


@pytest.fixture
async def site(
    stack: EmbeddedStack, proxy: tuple[SlowProxy, str], service: FakeService, tmp_path: Path
) -> AsyncIterator[Site]:
    database_url = await Databases(proxy[1]).create()
    tables = configuration([service], routes={"writer": [service]}, budgets={"acme": {"cap_usd": {"total": "100"}}})
    async with running_site(stack.temporal_address, database_url, tmp_path, tables) as site:
        yield site
        assert PASSWORD not in site.logs()
        assert make_url(database_url).render_as_string(hide_password=False) not in site.logs()


async def test_a_password_of_special_characters_works_and_is_checked(proxy: tuple[SlowProxy, str]) -> None:
    """The others in this file use it; here is what shows that the server looks at it."""
    async with connected(proxy[1]) as connection:
        assert await connection.scalar(text("SELECT current_user")) == "pay:m@ster"
    wrong = make_url(proxy[1]).set(password=PASSWORD[:-1]).render_as_string(hide_password=False)
    with pytest.raises(DBAPIError, match="password authentication failed"):
        async with connected(wrong):
            pass


async def kept_in_backlog(site: Site) -> bool:
    """Whether entries had to wait for the database."""
    return [run async for run in site.client.list_workflows(f"WorkflowId = '{backlog_workflow_id('default')}'")] != []


async def test_connections_that_are_cut_again_and_again_lose_no_entry(
    site: Site, admin: AsyncEngine, service: FakeService
) -> None:
    cut = 0
    name = make_url(site.database_url).database
    async with asking(site) as load:
        until_s = time.monotonic() + 3
        while cut <= 10 or time.monotonic() < until_s:
            async with admin.connect() as connection:
                ended = await connection.execute(
                    text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
                )
                cut += len(ended.all())
            await asyncio.sleep(0.05)
        await load.answers(16)
    print(f"{cut} connections cut under {len(load.results)} calls")
    status = await settled_books(site, service)
    assert status.unconfirmed == 0


@pytest.mark.parametrize("hangs_s", [5.0, pytest.param(60.0, marks=pytest.mark.full)])
async def test_a_database_that_hangs_delays_no_answer_for_long_and_loses_no_entry(
    site: Site, database: EmbeddedStack, service: FakeService, hangs_s: float
) -> None:
    async with asking(site) as load:
        await load.answers(16)
        with frozen(database.postgres.process.pid):
            hung = time.monotonic()
            answered = len(load.results)
            await until(lambda: time.monotonic() > hung + hangs_s, "it hangs for so long", hangs_s + 10)
            answered = len(load.results) - answered
        await load.answers(16)
    print(f"{answered} answers in {hangs_s:.0f} s while the database hung")
    assert hangs_s < 10 or answered > hangs_s
    assert await kept_in_backlog(site), "nothing had to wait, so this proves nothing"
    status = await settled_books(site, service, deadline_s=60)
    assert status.unconfirmed == 0


@pytest.mark.full
async def test_a_slow_database_delays_answers_by_its_own_slowness_and_loses_no_entry(
    site: Site, proxy: tuple[SlowProxy, str], service: FakeService
) -> None:
    """A message of it takes 0.25 s first, and then longer than Paymaster waits for a command."""
    slow, _ = proxy
    try:
        async with asking(site) as load:
            for slow.delay_s, count in ((0.25, 24), (2.0, 24), (0.0, 16)):
                began = time.monotonic()
                await load.answers(count)
                print(f"{slow.delay_s} s each way: {count} answers in {time.monotonic() - began:.1f} s")
    finally:
        slow.delay_s = 0.0
    assert await kept_in_backlog(site), "nothing had to wait, so this proves nothing"
    status = await settled_books(site, service, deadline_s=60)
    assert status.unconfirmed == 0


DEADLOCK = """
CREATE FUNCTION lock_two() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock(1), pg_advisory_xact_lock(2); RETURN NEW; END $$;
CREATE TRIGGER lock_two BEFORE INSERT ON usage_entries FOR EACH ROW EXECUTE FUNCTION lock_two();
"""


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[AsyncConnection]:
    engine = create_engine(url)
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def test_the_victim_of_a_deadlock_stores_its_entry_after_all(
    site: Site, admin: AsyncEngine, service: FakeService
) -> None:
    """Another program locks in the opposite order; the server ends Paymaster's transaction, not the other's."""
    name = make_url(site.database_url).database
    async with admin.connect() as connection:
        await connection.execute(text(f"ALTER DATABASE {name} SET deadlock_timeout = '500ms'"))
    async with connected(site.database_url) as connection:
        for statement in DEADLOCK.strip().split(";\n"):
            await connection.exec_driver_sql(statement)
        await connection.commit()
    await site.engine.dispose()

    async def waits_for_us(other: AsyncConnection) -> bool:
        waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 2 AND NOT granted")
        return bool(await other.scalar(waiting))

    async with connected(site.database_url) as other, asking(site) as load:
        await other.execute(text("SET deadlock_timeout = '60s'"))
        await other.execute(text("SELECT pg_advisory_xact_lock(2)"))
        await until(lambda: waits_for_us(other), "Paymaster's insert has the one lock and waits for the other")
        await other.execute(text("SELECT pg_advisory_xact_lock(1)"))  # raises if this were the victim
        await other.commit()
        await load.answers(16)

    async with admin.connect() as connection:
        seen = text("SELECT deadlocks FROM pg_stat_database WHERE datname = :name")

        async def counted() -> bool:
            return bool(await connection.scalar(seen, {"name": name}))

        await until(counted, "the server saw a deadlock")
    status = await settled_books(site, service)
    assert status.unconfirmed == 0


@pytest.fixture
async def full_database(tmp_path: Path) -> AsyncIterator[tuple[EmbeddedStack, Path]]:
    """A PostgreSQL with little room, and the folder that it is in."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m,mode=755", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        folder.rmdir()
        pytest.skip(f"mounting a small tmpfs is not permitted here: {mounted.stderr.decode().strip()}")
    folder.chmod(0o755)
    try:
        async with EmbeddedStack(folder, temporal=False, model=False) as stack:
            yield stack, folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()


@pytest.mark.full
@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount command")
async def test_a_full_disk_loses_no_entry(
    stack: EmbeddedStack, full_database: tuple[EmbeddedStack, Path], service: FakeService, tmp_path: Path
) -> None:
    """First a table cannot grow; then perhaps the write-ahead log cannot either, which ends the server."""
    database, folder = full_database
    database_url = await Databases(database.database_url).create()
    tables = configuration([service], routes={"writer": [service]}, budgets={"acme": {"cap_usd": {"total": "100"}}})
    async with running_site(stack.temporal_address, database_url, tmp_path / "site", tables) as site:
        async with asking(site) as load:
            await load.answers(16)
            filler = folder / "filler"
            with contextlib.suppress(OSError), filler.open("wb") as file:
                while True:
                    file.write(b"\0" * 4_096)
                    file.flush()

            async def has_waiting() -> bool:
                await load.answers(1)
                return await kept_in_backlog(site)

            await until(has_waiting, "an entry had to wait", 60)
            with contextlib.suppress(Exception):
                async with connected(database_url) as connection:
                    await connection.execute(text("SELECT pg_switch_wal()"))
            await load.answers(16)
            filler.unlink()

            async def works_again() -> bool:
                """It may be about to end only now: what it could not write it finds out about at a checkpoint."""
                if database.postgres.process.poll() is not None:
                    await database.postgres.start()
                try:
                    async with connected(database_url) as connection:
                        await connection.execute(text("CHECKPOINT"))
                except (DBAPIError, OSError):
                    return False
                return True

            await until(works_again, "the database works again", 60)
            died = "PANIC" in (database.log_dir / "postgres.log").read_text()
            await load.answers(16)
        print(f"the disk was full under {len(load.results)} calls; the server {'died' if died else 'went on'}")
        status = await settled_books(site, service, deadline_s=60)
        assert status.unconfirmed == 0
