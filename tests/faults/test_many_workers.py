"""Many worker processes on one ledger: all at once, killed, each restarted in turn, one frozen, one with a wrong clock.

PAYMASTER_KILLED_FOR says for how long they are killed (`10m`).
"""

import asyncio
import itertools
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService
from load import asking
from paymaster_process import (
    ROOT,
    Databases,
    Site,
    caps_watched,
    configuration,
    frozen,
    own_workers,
    results_of,
    running_site,
    settled_books,
    until,
)
from slow_proxy import SlowProxy
from sqlalchemy import text

from paymaster import LLMRequest, Outcome
from paymaster.client import start
from paymaster.devstack import EmbeddedStack
from paymaster.messages import PauseService, ResumeService
from paymaster.settings import parse_duration

pytestmark = pytest.mark.timeout(300)
WORKER = ROOT / "worker.py"
WORKER_THAT_FREEZES = Path(__file__).with_name("worker_that_freezes.py")
WORKER_WITH_A_WRONG_CLOCK = Path(__file__).with_name("worker_with_a_wrong_clock.py")
NUMBERS = itertools.count(1)
KILLED_FOR = parse_duration(os.environ.get("PAYMASTER_KILLED_FOR", "10m"))


@pytest.fixture
def service(server: CountingServer) -> FakeService:
    return server.service(f"many-workers-{next(NUMBERS)}")


@pytest.fixture
async def site(stack: EmbeddedStack, databases: Databases, service: FakeService, tmp_path: Path) -> AsyncIterator[Site]:
    """Without worker processes. A call parks while others hold what is left under the cap of a minute."""
    tables = configuration(
        [service],
        routes={"writer": [service]},
        budgets={"acme": {"cap_usd": {"total": "100"}}},
        service={"max_unconfirmed": 20, "max_concurrent": 10},
    )
    database_url = await databases.create()
    async with running_site(stack.temporal_address, database_url, tmp_path, tables, workers=0) as site:
        yield site


@pytest.fixture
def slow_temporal(stack: EmbeddedStack) -> Iterator[SlowProxy]:
    """A way to Temporal that a test can slow down."""
    host, _, port = stack.temporal_address.partition(":")
    proxy = SlowProxy(partial(asyncio.open_connection, host, int(port)))
    yield proxy
    proxy.close()


@pytest.mark.full
async def test_twelve_worker_processes_share_one_ledger(site: Site, service: FakeService) -> None:
    """More than may have an update in flight to it at once."""
    await site.start_workers(12)
    service.hold()

    async def all_but_ten_are_parked() -> bool:
        return (service.held, (await site.ledger.status()).parked) == (10, 30)

    async with caps_watched(site), asking(site, agents=40) as load:
        await until(all_but_ten_are_parked, "ten calls are at the service and thirty wait", 60)
        service.release()
        await load.answers(400, deadline_s=200)
    status = await settled_books(site, service)
    assert status.unconfirmed == 0
    assert service.count == len(load.results)
    assert service.in_flight_max == 10


@pytest.mark.full
@pytest.mark.timeout(int(KILLED_FOR.total_seconds()) + 400)
async def test_twelve_workers_some_of_them_killed_keep_every_promise(site: Site, service: FakeService) -> None:
    """For ten minutes one after the other is killed, at random, and another one started in its place."""
    chance = random.Random(12)
    await site.start_workers(12)
    alive, killed, ends_at_s = list(site.workers), 0, time.monotonic() + KILLED_FOR.total_seconds()
    async with caps_watched(site), asking(site, agents=40) as load:
        while time.monotonic() < ends_at_s:
            victim = alive.pop(chance.randrange(len(alive)))
            await load.answers(chance.randrange(1, 40))
            await victim.kill()
            alive += await site.start_workers()
            killed += 1
    print(f"{killed} killed, {len(load.results)} calls, no answer for {load.longest_pause_s:.1f} s at most")
    status = await settled_books(site, service)
    results = load.results
    assert sum(result.attempts for result in results) == len(results) + status.unconfirmed
    times_sent = Counter(request.prompt for request in service.requests)
    assert sum(times_sent.values()) - len(times_sent) <= status.unconfirmed, "sent twice under one hold"


@pytest.mark.full
async def test_a_rolling_restart_of_all_workers_disturbs_no_call(site: Site, service: FakeService) -> None:
    """Each of three is replaced under load, SIGTERM and a new one: nothing is lost, nothing is sent twice.

    An attempt that Temporal hands to a worker in the moment in which it stops asking is charged at its bound, because
    Temporal cannot say that it was never begun; it is sent by another one then.
    """
    await site.start_workers(3)
    async with caps_watched(site), asking(site, agents=20) as load:
        for old in list(site.workers):
            await load.answers(20)
            await site.start_workers()
            assert await old.terminate(120) == 0
        await load.answers(20)
    print(f"no answer for {load.longest_pause_s:.1f} s at most")
    status = await settled_books(site, service)
    assert status.unconfirmed <= 6, "more than those of the moments in which three workers stopped asking"
    assert service.count == len(load.results)


@pytest.mark.full
async def test_a_worker_that_is_frozen_for_half_a_minute_and_then_goes_on_harms_nothing(
    site: Site, service: FakeService
) -> None:
    """What it had begun was given up meanwhile and done by the other; what it says when it wakes is too late."""
    first, _ = await site.start_workers(2)
    async with caps_watched(site), asking(site, agents=20) as load:
        await load.answers(20)
        with frozen(first.process.pid):
            slept = time.monotonic()
            await until(lambda: time.monotonic() > slept + 30, "it is frozen for so long", 40)
        await load.answers(40)
    print(f"no answer for {load.longest_pause_s:.1f} s at most")
    await settled_books(site, service, deadline_s=60)


async def test_a_worker_that_wakes_takes_nothing_from_calls_that_others_went_on_with(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, slow_temporal: SlowProxy, tmp_path: Path
) -> None:
    """It held three workflow tasks, and learns that they are lost only after the ledger's answers to them.

    Meanwhile one call is at its service, one is parked, one is over. The harm would be: a hold that is freed under a
    request, a call that nobody wakes, a hold that nobody uses.
    """
    sent, parked, done = services = [
        server.service(name) for name in ("sent-meanwhile", "parked-meanwhile", "done-meanwhile")
    ]
    tables = configuration(services, budgets={"acme": {"cap_usd": {"total": "100"}}})
    async with (
        running_site(stack.temporal_address, await databases.create(), tmp_path, tables, workers=0) as site,
        own_workers(site) as own,
        own.ledger,
        own.activities,
    ):
        site.environment["TEMPORAL_ADDRESS"] = f"127.0.0.1:{await slow_temporal.listen()}"
        (sleeper,) = await site.start_workers(program=[WORKER_THAT_FREEZES])
        slow_temporal.delay_s = 0.3
        await site.ledger.pause_service(PauseService(service=parked.name))
        sent.hold()
        requests = [LLMRequest(route=each.name, budget="acme", prompt=each.name) for each in services]
        calls = [await start(site.client, request) for request in requests]
        await until(lambda: "freezes" in sleeper.log(), "it holds all three and is frozen")

        async def others_went_on() -> bool:
            return (sent.held, (await site.ledger.status()).parked, done.count) == (1, 1, 1)

        async with own.calls:
            await until(others_went_on, "one is sent, one is parked, one is over")
            sleeper.process.send_signal(signal.SIGCONT)
            for call in calls:
                refused = re.compile(f'"Task not found when completing".*{call.result_run_id}')
                await until(lambda refused=refused: refused.search(sleeper.log()), "what it did came too late")
            sent.release()
            await site.ledger.resume_service(ResumeService(service=parked.name))
            results = await results_of(calls)
            await settled_books(site, *services)
    assert [(result.outcome, result.attempts) for result in results] == [(Outcome.COMPLETED, 1)] * 3


@pytest.mark.full
@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_worker_whose_clock_is_wrong_by_an_hour_charges_the_same_windows(
    site: Site, service: FakeService, hours: int
) -> None:
    """Times of money are the ledger's, which are the Temporal server's; a worker's own are only in `started_at`."""
    (worker,) = await site.start_workers(program=[WORKER_WITH_A_WRONG_CLOCK, str(hours * 3_600)])
    print(next(line for line in worker.log().splitlines() if "clock" in line))
    async with caps_watched(site), asking(site) as load:
        await load.answers(40)
    status = await settled_books(site, service)
    assert status.unconfirmed == 0
    assert service.count == len(load.results)
    async with site.engine.connect() as connection:
        times = text(
            "SELECT extract(epoch FROM avg(started_at - granted_at)), "
            "max(abs(extract(epoch FROM now() - granted_at))) FROM usage_entries"
        )
        wrong_by_s, granted_ago_s = (await connection.execute(times)).one()
    assert abs(wrong_by_s - hours * 3_600) < 60, "the clock was not wrong, so this proves nothing"
    assert granted_ago_s < 600
