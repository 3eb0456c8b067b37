"""All promises, minute after minute, under mixed load while one thing after another goes wrong: `make soak`.

SOAK says for how long (`1h`, `10m`, `90s`), PAYMASTER_SOAK_FOLDER where the figures and the picture go, SOAK_SEED which
disturbances come.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService
from disturbances import DISTURBANCES, Place, disturb
from mixed_load import MixedLoad, mixed_load
from paymaster_process import Databases, Site, check_caps, configuration, running_site, settled_books
from soak_record import Sample, growth, write
from sqlalchemy import text

from benchmarks.resources import memory_mib
from paymaster.devstack import EmbeddedStack
from paymaster.errors import AdminRefused, LedgerNotFound
from paymaster.messages import DeskStatus, RaiseCap, budget_workflow_id
from paymaster.settings import parse_duration

LASTS = parse_duration(os.environ.get("SOAK", "2m"))
ROUND_S = 45.0
"""Of load, before the promises are checked."""
BETWEEN_DISTURBANCES_S = (1.0, 5.0)
RAISED_EVERY_S = 5.0
GROWS_AT_MOST = 1.5
"""The last quarter of the soak against the second, for what should find its level."""
SUGGESTED_EVENTS = 1_000
"""The server suggests a new run of the ledger after so many: an hour sees dozens of them."""


@pytest.fixture
async def stack() -> AsyncIterator[EmbeddedStack]:
    """A Temporal and a PostgreSQL that may be stopped."""
    limits = {"limit.historyCount.suggestContinueAsNew": SUGGESTED_EVENTS}
    async with EmbeddedStack(model=False, headless=True, temporal_on_disk=True, dynamic_config=limits) as stack:
        yield stack


@pytest.fixture
def services(server: CountingServer) -> list[FakeService]:
    """One that works, one that is often ill, one with a rate limit."""
    return [server.service(name) for name in ("soak-steady", "soak-shaky", "soak-limited")]


@pytest.fixture
async def site(stack: EmbeddedStack, services: list[FakeService], tmp_path: Path) -> AsyncIterator[Site]:
    steady, shaky, limited = services
    tables = configuration(
        services,
        routes={"writer": [steady], "careful": [shaky, steady], "limited": [limited]},
        budgets={
            "acme": {"cap_usd": {"total": "10000", "month": "10000"}},
            "acme/minute": {"cap_usd": {"minute": "0.01"}},
            "acme/raised": {"cap_usd": {"day": "0.01"}},
        },
        service={"max_unconfirmed": 20, "idle_timeout": "20s"},
        only={limited.name: {"requests_per_minute": 600, "max_concurrent": 3}},
        ledger={"max_parked": 10_000},
    )
    database_url = await Databases(stack.database_url).create()
    async with running_site(stack.temporal_address, database_url, tmp_path, tables, workers=2, warm=False) as site:
        yield site


@pytest.mark.full
@pytest.mark.timeout(int(LASTS.total_seconds()) * 3 + 600)
async def test_promises_hold_and_sizes_find_their_level(
    site: Site, stack: EmbeddedStack, services: list[FakeService]
) -> None:
    chance = random.Random(int(os.environ.get("SOAK_SEED", "1")))
    place = Place(site, stack, services[1], services[2], chance)
    folder = Path(os.environ.get("PAYMASTER_SOAK_FOLDER", site.folder))
    load, samples, began = MixedLoad(), list[Sample](), time.monotonic()
    while time.monotonic() - began < LASTS.total_seconds():
        async with mixed_load(site, load, chance):
            parked = await _round(place, min(ROUND_S, LASTS.total_seconds() / 3))
        status = await settled_books(site, *services, deadline_s=120, refused=True)
        samples.append(await _sample(place, status, load, parked, (time.monotonic() - began) / 60))
        print(samples[-1])
    folder.mkdir(parents=True, exist_ok=True)
    write(samples, folder)
    print(dict(load.outcomes))
    assert {outcome for outcome in load.outcomes if outcome.startswith("denied")} == set()
    assert max(sample.history_events for sample in samples) < 10 * SUGGESTED_EVENTS
    if len(samples) >= 8:
        for size in ("worker_mib", "temporal_mib"):
            assert growth(samples, size) < GROWS_AT_MOST, f"{size} grows without bound: see soak.png"


async def _round(place: Place, lasts_s: float) -> int:
    """Disturbs for so long while caps are raised and watched; how many calls were parked at its end."""
    site, until = place.site, time.monotonic() + lasts_s
    helpers = [asyncio.create_task(_raise_again_and_again(site)), asyncio.create_task(_watch_caps(site))]
    try:
        while (rest_s := until - time.monotonic()) > 0:
            await asyncio.sleep(min(rest_s, place.chance.uniform(*BETWEEN_DISTURBANCES_S)))
            disturbance = place.chance.choice(DISTURBANCES)
            print(f"  {disturbance.__name__}")
            await disturb(place, disturbance)
        parked = (await _status(site)).parked
    finally:
        helpers[1].cancel()
        watched = (await asyncio.gather(helpers[1], return_exceptions=True))[0]
    assert isinstance(watched, asyncio.CancelledError), watched
    helpers[0].cancel()
    await _raise(site, "1000")  # nobody waits for it any more
    return parked


async def _raise_again_and_again(site: Site) -> None:
    while True:
        await _raise(site, "0.01")
        await asyncio.sleep(RAISED_EVERY_S)


async def _raise(site: Site, by: str) -> None:
    change = RaiseCap(account="budget:acme/raised", window="day", by=by, who="soak", reason="go on")
    with suppress(LedgerNotFound, AdminRefused):
        await site.ledger.raise_cap(change)


async def _watch_caps(site: Site) -> None:
    """Promise 1, several times a second."""
    while True:
        with suppress(LedgerNotFound):
            check_caps(await site.ledger.status())
        await asyncio.sleep(0.3)


async def _status(site: Site) -> DeskStatus:
    while True:
        with suppress(LedgerNotFound):
            return await site.ledger.status()
        await asyncio.sleep(0.5)


async def _sample(place: Place, status: DeskStatus, load: MixedLoad, parked: int, minute: float) -> Sample:
    site = place.site
    run = await site.client.get_workflow_handle(budget_workflow_id(site.settings.ledger.name)).describe()
    async with site.engine.connect() as connection:
        rows = await connection.scalar(text("SELECT count(*) FROM usage_entries"))
    return Sample(
        minute=round(minute, 2),
        calls=len(load),
        rows=int(rows or 0),
        unconfirmed=status.unconfirmed,
        history_events=run.history_length,
        history_bytes=run.raw_description.workflow_execution_info.history_size_bytes,
        worker_mib=round(memory_mib(site.workers[0].process.pid), 1),
        temporal_mib=round(memory_mib(place.stack.temporal.process.pid), 1),
        parked=parked,
    )
