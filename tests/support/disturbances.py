"""What happens to a Paymaster in a bad week: each disturbance begins, lasts for seconds, and is over."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from counting_server import FakeService, Received, Reply
from paymaster_process import Site, frozen
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue
from temporalio.service import RPCError

from paymaster.devstack import EmbeddedStack
from paymaster.errors import AdminRefused, LedgerNotFound
from paymaster.messages import PauseService, ResumeService, budget_workflow_id

MALFORMED = 100
"""Signals in one flood."""


@dataclass(frozen=True)
class Place:
    """Everything that can be disturbed."""

    site: Site
    stack: EmbeddedStack
    shaky: FakeService
    limited: FakeService
    chance: random.Random


async def a_worker_is_killed(place: Place) -> None:
    """The latest one; the first lives on, so that its memory can be watched."""
    await place.site.workers[-1].kill()
    await place.site.start_workers(1)


async def a_worker_is_replaced(place: Place) -> None:
    (new,) = await place.site.start_workers(1)
    for old in place.site.workers[1:]:
        if old is not new and old.process.poll() is None:
            old.process.send_signal(signal.SIGTERM)


async def a_worker_is_frozen(place: Place) -> None:
    with frozen(place.site.workers[-1].process.pid):
        await asyncio.sleep(place.chance.uniform(1, 6))


async def the_database_hangs(place: Place) -> None:
    with frozen(place.stack.postgres.process.pid):
        await asyncio.sleep(place.chance.uniform(1, 6))


async def connections_are_cut(place: Place) -> None:
    admin = create_async_engine(place.stack.database_url, isolation_level="AUTOCOMMIT")
    cut = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
    try:
        async with admin.connect() as connection:
            await connection.execute(cut, {"name": place.site.engine.url.database})
    finally:
        await admin.dispose()


async def temporal_is_away(place: Place) -> None:
    await place.stack.temporal.stop()
    await asyncio.sleep(place.chance.uniform(0, 3))
    await place.stack.temporal.start()


async def a_service_fails(place: Place) -> None:
    """It refuses, cuts off, is slow to fail or talks nonsense, each time in another mixture."""
    bad = (
        Reply(status=500),
        Reply(status=429, headers={"retry-after": "1"}),
        Reply(status=503, body=b"<html>no</html>"),
        Reply(cut=True),
        Reply(reset=True, status=503),
        Reply(body=b"{"),
        Reply(body=b'{"choices": []}'),
    )

    def reply(request: Received) -> Reply:
        return place.chance.choice(bad) if place.chance.random() < 0.7 else Reply()

    place.shaky.reply = reply
    await asyncio.sleep(place.chance.uniform(2, 8))
    place.shaky.reply = lambda request: Reply()


async def messages_make_no_sense(place: Place) -> None:
    ledger = place.site.client.get_workflow_handle(budget_workflow_id(place.site.settings.ledger.name))
    payload = Payload(metadata={"encoding": b"json/plain"}, data=('"' + "界" * 1_000 + '"').encode())
    await asyncio.gather(*(ledger.signal("raise_cap", RawValue(payload)) for _ in range(MALFORMED)))


async def a_service_is_paused(place: Place) -> None:
    """Resumed in any case: a pause that nobody answered may have been taken all the same."""
    name = place.limited.name
    try:
        await place.site.ledger.pause_service(PauseService(service=name, who="soak", reason="maintenance"))
        await asyncio.sleep(place.chance.uniform(1, 4))
    finally:
        await _until_done(lambda: place.site.ledger.resume_service(ResumeService(service=name, who="soak")))


async def _until_done(command: Callable[[], Awaitable[object]]) -> None:
    """An admin tries again while nobody answers."""
    while True:
        try:
            await command()
        except (LedgerNotFound, RPCError):
            await asyncio.sleep(0.5)
        else:
            return


Disturbance = Callable[[Place], Awaitable[None]]
DISTURBANCES: tuple[Disturbance, ...] = (
    a_worker_is_killed,
    a_worker_is_replaced,
    a_worker_is_frozen,
    the_database_hangs,
    connections_are_cut,
    temporal_is_away,
    a_service_fails,
    messages_make_no_sense,
    a_service_is_paused,
)


async def disturb(place: Place, disturbance: Disturbance) -> None:
    """One of them, from its beginning to its end. An admin whose command nobody answers just goes home."""
    try:
        await disturbance(place)
    except (LedgerNotFound, AdminRefused, RPCError) as error:
        print(f"  {disturbance.__name__}: {error}")
