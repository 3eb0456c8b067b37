"""All parts of the embedded stack start together, and whatever happens to their owner nothing of them stays."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from process_table import alive, descendants, listening_addresses, temporary_folders, until
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from temporalio.client import Client

from paymaster.devstack import EmbeddedStack, StackError
from paymaster.devstack.progress import tell_if_slow

pytestmark = pytest.mark.stack

# Starts the stack, says where its temporary folder is, and does nothing until its input ends.
OWNER = """
import asyncio, sys
from paymaster.devstack import EmbeddedStack

async def main():
    async with EmbeddedStack() as stack:
        print(stack.log_dir.parent, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
async def stack() -> AsyncIterator[EmbeddedStack]:
    async with EmbeddedStack() as stack:
        yield stack


def owner() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as from a terminal: the signals below are for its whole process group
    )


async def test_all_parts_answer(stack: EmbeddedStack) -> None:
    client = await Client.connect(stack.temporal_address)
    assert await client.service_client.check_health()
    engine = create_async_engine(stack.database_url)
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT current_database()"))).scalar_one() == "paymaster"
    await engine.dispose()
    assert stack.temporal_ui_url is not None
    async with httpx.AsyncClient() as http:
        assert (await http.get(stack.temporal_ui_url)).is_success
        assert (await http.get(stack.model_base_url + "/models")).is_success
    assert {file.name for file in stack.log_dir.iterdir()} >= {"temporal.log", "postgres.log", "model.log"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_listens_beyond_loopback(stack: EmbeddedStack) -> None:
    addresses = listening_addresses(descendants(os.getpid()))
    assert addresses == {"0100007F"}, "127.0.0.1, which Temporal and the model listen on"
    postgres = stack.postgres.process.pid
    assert listening_addresses({postgres, *descendants(postgres)}) == set()


async def test_a_second_start_takes_seconds(stack: EmbeddedStack) -> None:
    """What has to be copied is there by now."""
    started = time.monotonic()
    async with EmbeddedStack():
        start_s = time.monotonic() - started
        stopping = time.monotonic()
    stop_s = time.monotonic() - stopping
    print(f"started in {start_s:.1f} s, stopped in {stop_s:.1f} s")
    assert start_s < 20
    assert stop_s < 5


async def test_only_what_takes_longer_than_a_second_is_told() -> None:
    lines: asyncio.Queue[str] = asyncio.Queue()
    async with tell_if_slow(lines.put_nowait, "quick"):
        pass
    async with tell_if_slow(lines.put_nowait, "slow"):
        assert await asyncio.wait_for(lines.get(), timeout=20) == "slow"


async def test_sigkill_of_the_owner_leaves_no_process_and_the_next_start_removes_its_folder() -> None:
    with owner() as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        started = descendants(process.pid)
        assert len(started) > 6, "three guards, three servers, and PostgreSQL's own processes"
        process.kill()
    until(lambda: not alive(started), "everything ends", deadline_s=6)
    assert folder.exists()
    async with EmbeddedStack(temporal=False, postgres=False, model=False):
        # Another test's stack, which starts at the same time, may be the one that removes it.
        until(lambda: not folder.exists(), "it is removed")


def test_a_normal_end_leaves_no_process_and_no_folder() -> None:
    with owner() as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        started = descendants(process.pid)
        process.communicate()  # ends its input
        assert process.returncode == 0
    assert not alive(started)
    assert not folder.exists()


@pytest.mark.parametrize("processes", [0, 1, 2, 4, 6])
def test_ctrl_c_during_the_start_leaves_no_process_and_no_folder(processes: int) -> None:
    """At several moments: as soon as so many processes have been started."""
    started: set[int] = set()

    def far_enough() -> bool:
        started.update(descendants(process.pid))
        return len(started) >= processes and bool(temporary_folders(process.pid))

    with owner() as process:
        until(far_enough, "the start goes on")
        os.killpg(process.pid, signal.SIGINT)
        until(lambda: started.update(descendants(process.pid)) or process.poll() is not None, "the owner ends")
        _, errors = process.communicate()
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert not alive(started)
    assert not temporary_folders(process.pid)


async def test_what_could_not_be_removed_is_removed_by_the_next_start() -> None:
    """A folder stays recognisable as abandoned until nothing else is in it."""
    stack = EmbeddedStack(temporal=False, postgres=False, model=False)
    await stack.start()
    folder = stack.log_dir.parent

    def fails(*_arguments: object, **_options: object) -> None:
        """Removes nothing: `rmtree` with `ignore_errors`, on a bad day."""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", fails)
        await stack.stop()
    assert folder.exists()
    async with EmbeddedStack(temporal=False, postgres=False, model=False):
        # Another test's stack, which starts at the same time, may be the one that removes it.
        until(lambda: not folder.exists(), "it is removed")


async def test_an_unusable_data_folder_is_a_stack_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StackError, match="can't be used"):
        await EmbeddedStack(tmp_path / "file").start()


async def test_a_failing_part_stops_the_others() -> None:
    before, folders = descendants(os.getpid()), temporary_folders(os.getpid())
    with pytest.raises(StackError, match="Temporal died at start"):
        await EmbeddedStack(search_attributes={"Tenant": "NoSuchType"}).start()
    assert not alive(descendants(os.getpid()) - before)
    assert temporary_folders(os.getpid()) == folders


async def test_a_second_stack_on_the_same_data_says_who_has_it(data_dir: Path) -> None:
    async with EmbeddedStack(data_dir, temporal=False, model=False):
        with pytest.raises(StackError, match=f"in use by process {os.getpid()}: another `paymaster dev` runs on it"):
            await EmbeddedStack(data_dir, temporal=False, model=False).start()


async def test_kept_data_is_there_at_the_next_start(data_dir: Path) -> None:
    async with EmbeddedStack(data_dir, model=False) as first:
        client = await Client.connect(first.temporal_address)
        await client.start_workflow("Nothing", id="kept", task_queue="nobody")
        url = first.database_url
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE kept (x int)"))
        await engine.dispose()
    async with EmbeddedStack(data_dir, model=False) as second:
        client = await Client.connect(second.temporal_address)
        assert (await client.get_workflow_handle("kept").describe()).id == "kept"
        assert second.database_url == url
        engine = create_async_engine(url)
        async with engine.connect() as connection:
            assert (await connection.execute(text("SELECT count(*) FROM kept"))).scalar_one() == 0
        await engine.dispose()
