"""Temporal's own server on the stack's PostgreSQL comes back with its workflows, and takes its settings.

Skipped where it is not built.
"""

import os
import sysconfig
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg  # pyright: ignore[reportMissingTypeStubs]
import pytest
from temporalio.client import Client

from paymaster.devstack import EmbeddedStack, StackError
from paymaster.devstack.temporal_programs import HOW_TO_BUILD, build_programs, built_programs

pytestmark = pytest.mark.stack
PROGRAMS = built_programs()
needs_it = pytest.mark.skipif(PROGRAMS is None, reason=f"no Temporal server for PostgreSQL here: {HOW_TO_BUILD}")


@pytest.fixture(scope="module")
async def stack() -> AsyncIterator[EmbeddedStack]:
    async with EmbeddedStack(
        model=False, temporal_programs=PROGRAMS, dynamic_config={"limit.maxIDLength": 60}
    ) as stack:
        yield stack


async def start_workflow(stack: EmbeddedStack, workflow_id: str) -> None:
    """One that no worker will run."""
    client = await Client.connect(stack.temporal_address)
    await client.start_workflow("Nothing", id=workflow_id, task_queue="nobody")


@needs_it
async def test_workflows_are_in_postgresql_and_survive_sigkill(stack: EmbeddedStack) -> None:
    address, workflow_id = stack.temporal_address, str(uuid.uuid4())
    await start_workflow(stack, workflow_id)
    connect = asyncpg.connect  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    connection = await connect(host=str(stack.postgres.socket_dir), user="postgres", database="temporal")
    found = await connection.fetchval("SELECT count(*) FROM executions WHERE workflow_id = $1", workflow_id)
    await connection.close()
    assert found == 1
    stack.temporal.process.kill()
    await stack.temporal.process.wait()
    await stack.temporal.start()
    assert stack.temporal_address == address
    client = await Client.connect(address)
    assert (await client.get_workflow_handle(workflow_id).describe()).id == workflow_id


@needs_it
async def test_dynamic_configuration_reaches_this_server(stack: EmbeddedStack) -> None:
    with pytest.raises(Exception, match="length"):
        await start_workflow(stack, "i" * 61)


@needs_it
async def test_it_listens_on_loopback_only(stack: EmbeddedStack) -> None:
    """Whatever else it opens: each address at which this process listens."""
    sockets = {os.readlink(file) for file in Path(f"/proc/{stack.temporal.process.pid}/fd").iterdir()}
    inodes = {name.removeprefix("socket:[").rstrip("]") for name in sockets if name.startswith("socket:[")}
    listening: list[str] = []
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.append(fields[1].split(":")[0])
    assert len(listening) >= 10
    assert set(listening) == {"0100007F"}


async def test_without_go_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", str)  # a folder that is not there
    assert built_programs() is None
    with pytest.raises(StackError, match="group languages"):
        await build_programs(lambda line: None)
