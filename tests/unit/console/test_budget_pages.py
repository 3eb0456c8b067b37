"""The pages of budgets, over a copy of the ledger's status as the database has it."""

import asyncio
import re

from console_pages import (
    ADMIN,
    HOSTILE,
    HOUR_MS,
    USD,
    Browser,
    account,
    console_app,
    now_ms,
    opened,
    store_copy,
    window,
)
from records import charged_entry
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.console.site import PAGES_AT_ONCE
from paymaster.storage.usage_rows import insert_entries


async def test_a_ledger_that_has_told_nothing_yet_is_said_in_words(engine: AsyncEngine) -> None:
    browser = Browser(await console_app(engine))
    await browser.log_in(ADMIN)
    answer = await browser.get("/console/budgets")
    assert answer.status_code == 503
    assert "the ledger has copied nothing yet" in answer.text


async def test_without_budgets_the_page_says_how_to_make_one(engine: AsyncEngine) -> None:
    await store_copy(engine, [account("service:s")])
    page = await opened(engine, "budgets")
    assert "The ledger has no budgets" in page
    assert "Needs you" not in page


async def test_what_waits_stands_first(engine: AsyncEngine) -> None:
    full = account("budget:acme/full", window("day", 50, 50), parked=41)
    await store_copy(engine, [account("budget:acme", window("day", 100, 1)), full, account("budget:b")])
    page = await opened(engine, "budgets")
    assert page.index("Needs you") < page.index("acme/full") < page.index("Find a budget") < page.index(">acme<")
    assert page.count("41 calls wait") == 2
    assert "nothing left until" in page
    assert "Needs you" not in await opened(engine, "budgets?find=acme")


async def test_nothing_to_do_is_said(engine: AsyncEngine) -> None:
    await store_copy(engine, [account("budget:acme", window("day", 100, 1))])
    assert "Nothing waits" in await opened(engine, "budgets")


async def test_long_lists_have_parts(engine: AsyncEngine) -> None:
    await store_copy(engine, [account(f"budget:b{number:03}", window("day", 1, 0)) for number in range(250)])
    first, last = await opened(engine, "budgets"), await opened(engine, "budgets?page=3")
    assert "1 to 100 of 250 budgets" in first
    assert ">b099<" in first
    assert ">b100<" not in first
    assert "?page=2" in first
    assert "201 to 250 of 250 budgets" in last
    assert "Next" not in last
    assert "no more budgets" in await opened(engine, "budgets?page=9")
    for strange in ("0", "-1", "x", "٣", "99999999999"):
        assert "1 to 100 of 250" in await opened(engine, f"budgets?page={strange}")
    found = await opened(engine, "budgets?find=b1")
    assert "of 100 budgets" in found or "Next" not in found


async def test_one_budget_has_those_below_it_and_the_way_up(engine: AsyncEngine) -> None:
    paths = ["acme", "acme/a", "acme/a/b", "acme/a/b/c", "acme/ab"]
    await store_copy(engine, [account(f"budget:{path}", window("day", 1, 0)) for path in paths])
    page = await opened(engine, "budgets/acme/a/b")
    assert "/console/budgets/acme/a/b/c" in page
    assert "/console/budgets/acme/ab" not in page
    assert page.index('href="/console/budgets/acme"') < page.index('href="/console/budgets/acme/a"')
    above = await opened(engine, "budgets/acme/a/b/c")
    assert "Nobody changed a cap" in above


async def test_a_budget_that_is_not_there_is_said(engine: AsyncEngine) -> None:
    await store_copy(engine, [account("budget:acme")])
    browser = Browser(await console_app(engine))
    await browser.log_in(ADMIN)
    for path in ("none", "../x", HOSTILE, f"{'a/' * 5_000}a?page=2"):
        answer = await browser.get(f"/console/budgets/{path}")
        assert answer.status_code == 404
        assert "<script>alert" not in answer.text
        assert "<img src=x" not in answer.text


async def test_hostile_names_stay_text(engine: AsyncEngine) -> None:
    """XSS: what the database has is escaped, whatever let it in."""
    await store_copy(engine, [account(f"budget:{HOSTILE}", window("day", 1, 1), parked=1)])
    for path in ("budgets", f"budgets?find={HOSTILE}", "budgets?find=script"):
        page = await opened(engine, path)
        assert "&lt;script&gt;" in page
        assert "<script>alert" not in page
        assert "<img src=x" not in page


async def test_a_budget_says_when_it_is_used_up_at_this_rate(engine: AsyncEngine) -> None:
    """Two dollars in the last hour, of which eight are left: in four hours; and of the month it is enough."""
    await store_copy(engine, [account("budget:acme", window("day", 10, 2), window("month", 100, 2))])
    spent = charged_entry("default", 1, ("acme",), "s", 2 * USD, granted_at_ms=now_ms() - 60_000)
    await insert_entries(engine, [spent])
    for page in (await opened(engine, "budgets"), await opened(engine, "budgets/acme")):
        day, _, month = page.partition(">month<")
        assert "$2.00</data>/h" in day
        assert re.search(r"at this rate <strong>used up by <time [^>]*>[^<]*</time> \((in 4 h|in 3 h 59 min)\)", day)
        assert "at this rate enough" in month


async def test_a_budget_says_how_it_was_in_the_last_weeks(engine: AsyncEngine) -> None:
    """A dollar in each hour of four weeks: eight are gone after eight hours, when the window is over."""
    await store_copy(engine, [account("budget:acme", window("day", 10, 2))])
    rows = [
        charged_entry("default", number, ("acme",), "s", USD, granted_at_ms=now_ms() - number * HOUR_MS - 1_800_000)
        for number in range(1, 4 * 168 + 1)
    ]
    for number in range(0, len(rows), 200):
        await insert_entries(engine, rows[number : number + 200])
    page = await opened(engine, "budgets")
    assert "as in the last four weeks enough" in page
    assert "at this rate" not in page, "nothing was spent in the last hour"


async def test_where_calls_wait_nobody_says_that_it_is_enough(engine: AsyncEngine) -> None:
    await store_copy(engine, [account("budget:acme", window("day", 10, 2), parked=3)])
    await insert_entries(engine, [charged_entry("default", 1, ("acme",), "s", 1, granted_at_ms=now_ms() - 60_000)])
    assert "enough" not in await opened(engine, "budgets")


async def test_many_pages_at_once_leave_connections_to_calls(engine: AsyncEngine) -> None:
    """Each page waits for its turn, and is there in the end."""
    await store_copy(engine, [account("budget:acme", window("day", 1, 1))])
    made: list[int] = []
    event.listen(engine.sync_engine, "connect", lambda *_: made.append(1))
    browser = Browser(await console_app(engine))
    await browser.log_in(ADMIN)
    answers = await asyncio.gather(*(browser.get("/console/budgets") for _ in range(20)))
    assert {each.status_code for each in answers} == {200}
    assert len(made) < PAGES_AT_ONCE  # with the one that was there
