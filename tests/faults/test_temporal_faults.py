"""Temporal goes away under load and comes back, with its state or without."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService
from load import asking
from paymaster_process import (
    Databases,
    Site,
    configuration,
    register_namespace,
    running_site,
    settled_books,
    until,
)

from paymaster.devstack import EmbeddedStack

pytestmark = pytest.mark.timeout(180)
NUMBERS = itertools.count(1)


@pytest.fixture
async def temporal() -> AsyncIterator[EmbeddedStack]:
    """A Temporal that keeps its state on disk, and can be stopped."""
    async with EmbeddedStack(postgres=False, model=False, headless=True, temporal_on_disk=True) as stack:
        yield stack


@pytest.fixture
def service(server: CountingServer) -> FakeService:
    return server.service(f"without-temporal-{next(NUMBERS)}")


@pytest.fixture
async def site(
    temporal: EmbeddedStack, databases: Databases, service: FakeService, tmp_path: Path
) -> AsyncIterator[Site]:
    tables = configuration(
        [service],
        routes={"writer": [service]},
        budgets={"acme": {"cap_usd": {"total": "100"}}},
        service={"max_unconfirmed": 20},
    )
    async with running_site(temporal.temporal_address, await databases.create(), tmp_path, tables) as site:
        yield site


@pytest.mark.parametrize("down_s", [3.0, pytest.param(60.0, marks=pytest.mark.full)])
async def test_temporal_stopped_under_load_loses_nothing(
    site: Site, temporal: EmbeddedStack, service: FakeService, down_s: float
) -> None:
    """Calls in flight meanwhile are answered, unless their heartbeats stopped for too long: then they are charged."""
    async with asking(site) as load:
        await load.answers(16)
        await temporal.temporal.stop()
        await asyncio.sleep(down_s)
        await temporal.temporal.start()
        await load.answers(16)
    assert site.workers[0].process.poll() is None, "the worker did not outlive it"
    await settled_books(site, service)


@pytest.mark.full
async def test_a_temporal_that_lost_its_state_goes_on_with_the_stored_books(
    site: Site, temporal: EmbeddedStack, service: FakeService
) -> None:
    """Nothing is in flight, and the server comes back without workflows and namespaces. The rows are the truth."""
    async with asking(site) as load:
        await load.answers(16)
    before = await settled_books(site, service)
    await temporal.temporal.stop()
    for file in (temporal.log_dir.parent / "temporal").iterdir():
        file.unlink()
    await temporal.temporal.start()
    await register_namespace(site.temporal_address, site.namespace)
    ended = [worker for worker in site.workers if worker.process.poll() is not None]
    print(f"{len(ended)} workers ended")
    async with asking(site) as load:
        await load.answers(16)
    after = await settled_books(site, service)
    assert after.epoch != before.epoch


async def test_a_command_that_waits_says_in_words_that_temporal_went_away(
    temporal: EmbeddedStack, databases: Databases, service: FakeService, tmp_path: Path
) -> None:
    """And not in the raw lines of the SDK's own part, which is in Rust."""
    tables = configuration([service], routes={"writer": [service]}, budgets={"acme": {}})
    async with running_site(temporal.temporal_address, await databases.create(), tmp_path, tables, workers=0) as site:
        waiting = asyncio.create_task(site.command("call", "writer", "Say hello", "--call-id", "waits"))

        async def started() -> bool:
            return (await site.client.count_workflows("WorkflowType = 'LLMCallWorkflow'")).count == 1

        await until(started, "the call is started")
        await temporal.temporal.stop()
        ended = await waiting
        assert (ended.code, ended.output) == (2, "")
        assert "Temporal gave no answer about call/waits" in ended.errors
        assert "\x1b" not in ended.errors
        assert "gRPC" not in ended.errors
