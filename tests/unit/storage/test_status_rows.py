"""The rows that are the copy of a ledger's status: a late copy changes nothing, and pages are in order."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from console_pages import account, store_copy, window
from desk_kit import Site, capped, config
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages import StatusCopy
from paymaster.storage.engine import create_engine
from paymaster.storage.status_rows import (
    copied_accounts,
    copied_ledger,
    copied_page,
    copied_short,
    copied_tree,
    store_status,
)

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


def named(copy: StatusCopy, ledger: str) -> StatusCopy:
    return copy.model_copy(update={"status": copy.status.model_copy(update={"ledger": ledger})})


async def test_a_copy_is_read_as_it_was_stored(engine: AsyncEngine) -> None:
    copy = named(Site().desk.copies.take(0), "read")
    await store_status(engine, copy, NOW)
    ledger = await copied_ledger(engine, "read")
    assert ledger == (1, NOW, copy.status)
    (account,) = await copied_accounts(engine, "read", ["budget:acme", "budget:none"])
    assert account.copied_at == NOW
    assert account.status in copy.accounts
    assert await copied_ledger(engine, "another") is None


async def test_a_copy_that_comes_late_changes_nothing(engine: AsyncEngine) -> None:
    site = Site(config(budgets={"a": capped(day=1), "b": capped(day=1)}))
    first = named(site.desk.copies.take(0), "late")
    site.desk.configure(config("second", budgets={"a": capped(day=2)}), site.now_ms, may_remove=True)
    second = named(site.desk.copies.take(0), "late")
    await store_status(engine, second, NOW + timedelta(seconds=1))
    await store_status(engine, first, NOW)
    ledger, page = await copied_ledger(engine, "late"), await copied_page(engine, "late", "budget:", "budget;", "", 10)
    assert ledger is not None
    assert ledger.version == 2
    assert [each.status.account for each in page] == ["budget:a"]
    assert page[0].status in second.accounts


async def test_a_copy_of_a_clock_that_was_ahead_is_no_obstacle(engine: AsyncEngine) -> None:
    copy = named(Site().desk.copies.take(0), "ahead")
    await store_status(engine, copy, datetime.now(UTC) + timedelta(days=1))
    await store_status(engine, copy.model_copy(update={"version": 2}), datetime.now(UTC))
    ledger = await copied_ledger(engine, "ahead")
    assert ledger is not None
    assert ledger.version == 2


async def test_new_books_forget_the_old_accounts(engine: AsyncEngine) -> None:
    old = Site(config(budgets={"old": capped(day=1)})).desk.copies.take(0)
    await store_status(engine, named(old, "anew"), NOW)
    await store_status(engine, named(Site().desk.copies.take(0), "anew"), NOW + timedelta(seconds=1))
    page = await copied_page(engine, "anew", "budget:", "budget;", "", 10)
    assert [each.status.account for each in page] == ["budget:acme"]


async def test_pages_are_in_order_and_of_one_kind(engine: AsyncEngine) -> None:
    names = ["a", "a/b", "a-b", "é", "z"]
    copy = named(Site(config(budgets={name: capped(day=1) for name in names})).desk.copies.take(0), "pages")
    await store_status(engine, copy, NOW)
    found: list[str] = []
    while page := await copied_page(engine, "pages", "budget:", "budget;", f"budget:{found[-1]}" if found else "", 2):
        found += [each.status.account.removeprefix("budget:") for each in page]
    assert found == sorted(names)
    assert [each.status.account for each in await copied_page(engine, "pages", "service:", "service;", "", 10)] == [
        "service:s"
    ]


async def test_a_tree_has_what_is_below_a_budget_right_after_it(engine: AsyncEngine) -> None:
    tree = ["a", "a/b", "a/b/c", "a/z", "a-b", "a.c", "a0", "b%", "b_/x"]
    others = ["run:a/b", "service:a"]
    await store_copy(engine, [account(key) for key in (*(f"budget:{path}" for path in reversed(tree)), *others)])

    async def paths(offset: int, limit: int, **which: str) -> list[str]:
        rows, budgets = await copied_tree(engine, "default", offset=offset, limit=limit, **which)
        assert budgets == len(expected) or not rows
        return [row.status.account.removeprefix("budget:") for row in rows]

    expected = tree
    assert await paths(0, 100) == tree
    assert await paths(3, 4) == tree[3:7]
    assert await paths(100, 10) == []
    expected = ["a", "a/b", "a/b/c", "a/z"]
    assert await paths(0, 100, below="a") == expected
    expected = ["a/b", "a/b/c"]
    assert await paths(0, 100, below="a/b") == expected
    assert await paths(0, 100, find="/b") == expected
    for text in "%", "_":  # they stand for themselves
        expected = [path for path in tree if text in path]
        assert await paths(0, 100, find=text) == expected
    assert await copied_tree(engine, "another", offset=0, limit=10) == ([], 0)


async def test_what_waits_comes_first_then_what_is_nearly_used_up(engine: AsyncEngine) -> None:
    now_ms = int(datetime.now(UTC).timestamp() * 1_000)
    over = window("day", 1, 1).model_copy(update={"ends_at_ms": now_ms - 1})
    accounts = [
        account("budget:few", window("day", 10, 0), parked=2),
        account("budget:many", window("total", None, 1), parked=10),
        account("budget:full", window("day", 10, 9, 0.6), window("total", None, 9)),
        account("budget:fuller", window("total", 10, 9.9)),
        account("budget:blocked", window("day", 0, 0)),
        account("budget:watched", window("day", 1, 5), enforced=False),
        account("budget:over", over),
        account("budget:fine", window("day", 10, 9)),
        account("service:s", parked=1),
    ]
    await store_copy(engine, accounts)
    found = [each.status.account for each in await copied_short(engine, "default", 0.95, now_ms, 100)]
    assert found == [
        *("budget:many", "budget:few", "service:s"),
        *("budget:blocked", "budget:fuller", "budget:full"),
    ]
    assert [each.status.account for each in await copied_short(engine, "default", 0.95, now_ms, 2)] == found[:2]
