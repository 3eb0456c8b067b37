"""The copy of parked calls in PostgreSQL: in the order of the queue, and nobody who waits no more."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from paymaster_process import Databases
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages import DeskStatus, StatusCopy, WaitingCall
from paymaster.messages.status import CopiedCall, ShortOf
from paymaster.storage.engine import create_engine
from paymaster.storage.parked_rows import Needs, needs_of_parked, parked_calls_of, parked_page
from paymaster.storage.status_rows import store_status

AT = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
async def engine(databases: Databases) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(await databases.create())
    yield engine
    await engine.dispose()


def call(hold_id: str, *short_of: str, priority: int = 0, sequence: int = 1, why: str = "no money") -> CopiedCall:
    waiting = WaitingCall(workflow_id=f"call/{hold_id}", budget="a", parked_at_ms=1, deadline_at_ms=2, detail=why)
    return CopiedCall(
        hold_id=hold_id,
        priority=priority,
        sequence=sequence,
        call=waiting,
        bound_nanos=5 if short_of else 0,
        short_of=tuple(ShortOf(account=account, window="day") for account in short_of),
    )


async def store(
    engine: AsyncEngine,
    version: int,
    *calls: CopiedCall,
    gone: tuple[str, ...] = (),
    since: int = 0,
    anew: bool = False,
    ledger: str = "one",
) -> None:
    status = DeskStatus(
        ledger=ledger, epoch="e", config_digest="", accounts=(), holds=0, parked=0, outbox=0, unconfirmed=0
    )
    copy = StatusCopy(
        version=version,
        anew=anew,
        status=status,
        accounts=(),
        gone=(),
        calls=calls,
        calls_gone=gone,
        calls_from=since,
    )
    await store_status(engine, copy, AT + timedelta(seconds=version))


async def whys(engine: AsyncEngine, ledger: str = "one") -> list[str]:
    calls, count = await parked_page(engine, ledger, 0, 100)
    assert count == len(calls)
    return [each.detail for each in calls]


async def test_calls_are_read_in_the_order_of_the_queue(engine: AsyncEngine) -> None:
    await store(engine, 1, call("a", sequence=9, why="3"), call("b", priority=2, sequence=10, why="1"), anew=True)
    await store(engine, 2, call("c", sequence=11, why="4"), call("d", priority=2, sequence=12, why="2"))
    await store(engine, 1, call("x", why="another ledger's"), ledger="two")
    assert await whys(engine) == ["1", "2", "3", "4"]
    page, count = await parked_page(engine, "one", 1, 2)
    assert ([each.detail for each in page], count) == (["2", "3"], 4)
    found = await parked_calls_of(engine, "one", ["call/c", "call/x", "call/none"])
    assert {name: each.detail for name, each in found.items()} == {"call/c": "4"}


async def test_who_waits_no_more_goes(engine: AsyncEngine) -> None:
    await store(engine, 1, call("a", why="a"), call("b", why="b"), call("c", why="c"), anew=True)
    await store(engine, 2, call("a", why="a anew"), gone=("b",))
    assert sorted(await whys(engine)) == ["a anew", "c"]
    await store(engine, 3, call("d", why="d"), since=2)
    assert sorted(await whys(engine)) == ["a anew", "d"], "c was copied before the round began"
    await store(engine, 2, call("late", why="late"))
    assert sorted(await whys(engine)) == ["a anew", "d"]
    await store(engine, 4, anew=True)
    assert await whys(engine) == []


async def test_what_postgresql_refuses_stops_no_copy(engine: AsyncEngine) -> None:
    await store(engine, 1, call("a", why="before\x00after \\u0000"), anew=True)
    [why] = await whys(engine)
    assert why.startswith("before\ufffdafter")


async def test_sums_are_by_cap(engine: AsyncEngine) -> None:
    await store(engine, 1, call("a", "budget:a", "service:s"), call("b", "budget:a"), call("c"), anew=True)
    assert await needs_of_parked(engine, "one") == {
        ("budget:a", "day"): Needs(2, 10),
        ("service:s", "day"): Needs(1, 5),
    }
