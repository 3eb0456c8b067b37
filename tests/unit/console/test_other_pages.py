"""Pages of parked calls, services, runs, calls, usage and changes, with rows, without any, and with hostile ones."""

import re
import time
from datetime import UTC, datetime, timedelta

import pytest
from console_pages import (
    ADMIN,
    HOSTILE,
    HOUR_MS,
    USD,
    VIEWER,
    Browser,
    account,
    console_app,
    opened,
    run,
    service,
    store_copy,
    waiting,
    window,
)
from records import usual_entry
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages import UsageEntry
from paymaster.storage.usage_rows import insert_entries

PAGES = ("budgets", "parked", "services", "runs", "calls", "usage", "changes")
NOW_MS = int(time.time() * 1_000)


async def spend(engine: AsyncEngine, count: int, **more: object) -> None:
    now_ms = int(time.time() * 1_000)
    rows = [
        {**usual_entry(number), "granted_at_ms": now_ms - number * 1_000, "cost_nanos": USD, **more}
        for number in range(count)
    ]
    await insert_entries(engine, [UsageEntry.model_validate(row) for row in rows])


async def change_and_alert(engine: AsyncEngine, words: str) -> None:
    at = {"at": datetime.now(UTC) - timedelta(minutes=1), "words": words}
    common = "INSERT INTO {} (ledger, epoch, sequence, at, "
    async with engine.begin() as connection:
        alert = common.format("alerts") + "what, account, text) VALUES ('default', 'e', 1, :at, :words, :words, :words)"
        await connection.execute(text(alert), at)
        change = common.format("cap_changes") + (
            'account, "window", to_usd, until_window_end, who, reason, by_file) '
            "VALUES ('default', 'e', 1, :at, 'budget:acme', 'day', 5, false, :words, :words, false)"
        )
        await connection.execute(text(change), at)


@pytest.mark.parametrize("page", PAGES)
async def test_a_page_without_any_row_says_so(engine: AsyncEngine, page: str) -> None:
    await store_copy(engine, [])
    nothing = {
        "budgets": "The ledger has no budgets",
        "parked": "No call waits",
        "services": "The ledger has no services",
        "runs": "No run with limits is in use",
        "calls": "No call was made in this time",
        "usage": "Nothing was spent",
        "changes": "The ledger alerted nobody",
    }
    assert nothing[page] in await opened(engine, page)


@pytest.mark.parametrize("page", [*PAGES, "budgets/acme", "calls?span=1h", "usage?budget=acme"])
async def test_what_others_named_stays_text(engine: AsyncEngine, page: str) -> None:
    """XSS: names, reasons, metadata and errors, whoever wrote them into the database."""
    accounts = [
        account(f"budget:{HOSTILE}", window("day", 1, 1), parked=1),
        account("budget:acme", window("day", 1, 1), parked=1),
        account(f"run:{HOSTILE}", window("total", 2, 1), run=run(HOSTILE, held=HOSTILE, ended_by=HOSTILE), parked=1),
        account(f"service:{HOSTILE}", window("total", None, 1), parked=1),
    ]
    services = [service(HOSTILE, paused_by=HOSTILE, paused_models=(HOSTILE,), breaker="open", open_until_ms=NOW_MS)]
    calls = [waiting(1, budget=HOSTILE, further_budgets=(HOSTILE,), detail=f"`{HOSTILE}` {HOSTILE}", run=HOSTILE)]
    calls += [waiting(2, workflow_id=HOSTILE)]
    await store_copy(engine, accounts, services, calls)
    await spend(engine, 3, service=HOSTILE, model=HOSTILE, workflow_id=HOSTILE, metadata={HOSTILE: HOSTILE})
    await change_and_alert(engine, HOSTILE)
    shown = await opened(engine, page, console={"temporal_ui": "https://temporal.example.com"})
    assert "<script>alert" not in shown
    assert "<img src=x" not in shown
    assert page in ("budgets/acme",) or "&lt;script&gt;" in shown or "%3Cscript%3E" in shown


async def test_parked_calls_say_why_and_until_when(engine: AsyncEngine) -> None:
    accounts = [
        account("budget:acme", window("day", 50, 50), parked=30),
        account("service:openai", window("total", None, 1), parked=2),
        account("run:r", window("total", 2, 1), run=run("r", held="61 calls in a minute"), parked=1),
        account("budget:fine", window("day", 50, 49)),
    ]
    services = [service("openai", breaker="open", failures=7, open_until_ms=NOW_MS + HOUR_MS)]
    detail = 'cap used up. To let it pass: `paymaster budget raise acme --window day --by 5 --reason "…"`'
    calls = [waiting(number, detail=detail) for number in range(2_000)]
    await store_copy(engine, accounts, services, calls, parked=2_000)
    page = await opened(engine, "parked", console={"temporal_ui": "https://temporal.example.com/"})
    assert "2,000 calls wait" in page
    assert "nothing left until" in page
    assert "breaker open after 7 failures" in page
    assert "61 calls in a minute" in page
    assert "fine" not in page
    assert "1 to 100 of 2,000 calls" in page
    assert "<code>paymaster budget raise acme --window day --by 5" in page
    assert "https://temporal.example.com/namespaces/default/workflows/call%2F7" in page
    assert "at most until" in page


async def test_each_parked_call_is_on_a_page(engine: AsyncEngine) -> None:
    """Of 2,000, in their order, each once, in well under a second a page."""
    calls = [waiting(number, detail=f"why {number:04}") for number in range(2_000)]
    await store_copy(engine, [account("budget:acme", window("day", 50, 50), parked=2_000)], waiting=calls)
    found: list[str] = []
    for number in range(1, 21):
        began = time.perf_counter()
        page = await opened(engine, f"parked?page={number}")
        assert time.perf_counter() - began < 2
        found += re.findall(r"why (\d{4})", page)
        assert f'<ol class="accounts card" start="{100 * number - 99}">' in page
    assert found == [f"{number:04}" for number in range(2_000)]
    assert "No more calls wait" in await opened(engine, "parked?page=21")


async def test_parked_calls_say_what_exactly_frees_them(engine: AsyncEngine) -> None:
    """Three calls that can cost $0.7512345 each, $1 left: $1.2537035 more, by one press for those who may."""
    accounts = [
        account("budget:acme", window("day", 50, 49), parked=3),
        account("service:s", window("day", 9, 8), parked=3),
    ]
    short = {
        "bound_nanos": 751_234_500,
        "short_of": [{"account": name, "window": "day"} for name in ("budget:acme", "service:s")],
    }
    await store_copy(engine, accounts, waiting=[waiting(number) for number in range(3)], short=short)
    page = await opened(engine, "parked")
    assert page.count("3 calls need <data") == 1, "of the service too, whose cap no button raises"
    assert page.count("3 calls need $1.2537035 more") == 1, "as the button beside it says"
    assert re.search(r"do/raise\?[^\"]*by=1.2537035[^\"]*\">Raise it by exactly \$1.2537035<", page)
    assert page.count("Raise it by exactly") == 1
    assert "Raise it by exactly" not in await opened(engine, "parked", VIEWER)


async def test_a_service_says_what_it_does(engine: AsyncEngine) -> None:
    services = [
        service("fine"),
        service("open", breaker="open", failures=3, open_until_ms=NOW_MS + HOUR_MS),
        service("trying", breaker="half_open"),
        service("paused", paused_by="ada: maintenance"),
        service("asked", paused_until_ms=NOW_MS + HOUR_MS, paused_models=("m1", "m2")),
    ]
    limits = ({"what": "max_concurrent", "limit": 50, "used": 7},)
    await store_copy(engine, [account("service:fine", window("day", 10, 4), limits=limits)], services)
    page = await opened(engine, "services")
    for words in (
        "works",
        "breaker open after 3 failures, until",
        "one call tries whether it works again",
        "paused by ada: maintenance",
        "asked for a pause until",
        "m1, m2",
        "max concurrent: 7 of 50",
        "40%",
    ):
        assert words in page
    assert page.count("works</span>") == 1


async def test_runs_are_listed_in_parts(engine: AsyncEngine) -> None:
    runs = [
        account(f"run:r{number:03}", window("total", 2, 1), run=run(f"r{number:03}", ended_by="ada" if number else ""))
        for number in range(120)
    ]
    await store_copy(engine, runs)
    page = await opened(engine, "runs")
    assert page.count("3 calls of 10") == 100
    assert "after=r099" in page
    rest = await opened(engine, "runs?after=r099")
    assert rest.count("3 calls of 10") == 20
    assert "Next" not in rest
    assert "no more runs" in await opened(engine, "runs?after=z")


async def test_calls_are_listed_in_parts_and_lead_to_their_workflow(engine: AsyncEngine) -> None:
    await store_copy(engine, [])
    await spend(engine, 130)
    console = {"temporal_ui": "http://127.0.0.1:8233"}
    page = await opened(engine, "calls", console=console)
    assert page.count("gpt-5.6-luna") == 100
    assert 'href="http://127.0.0.1:8233/namespaces/default/workflows/call%2Fcall-0"' in page
    earlier = page.partition("before=")[2].partition('"')[0]
    rest = await opened(engine, f"calls?span=24h&before={earlier}", console=console)
    assert rest.count("gpt-5.6-luna") == 30
    assert "call%2Fcall-129" in rest
    assert "http" not in (await opened(engine, "calls")).partition("<tbody")[2]
    for strange in ("calls?before=x&span=x", "calls?before=2026-01-01"):
        await opened(engine, strange)


async def test_usage_is_drawn_for_a_time_and_a_budget(engine: AsyncEngine) -> None:
    await store_copy(engine, [account("budget:acme", window("day", 10, 4))])
    await spend(engine, 3)
    page = await opened(engine, "usage", VIEWER)
    assert "$3.00" in page
    assert "<svg class='chart'" in page
    assert "budget:acme" in page
    other = await opened(engine, "usage?budget=other&span=1h")
    assert "Nothing was spent" in other
    assert "<option selected>1h</option>" in other


async def test_changes_and_alerts_are_listed(engine: AsyncEngine) -> None:
    await store_copy(engine, [])
    await change_and_alert(engine, "new_words")
    page = await opened(engine, "changes")
    assert "no cap → $5.00" in page
    assert "<q>new_words</q>" in page
    assert "new words</span> new_words" in page


@pytest.mark.parametrize("page", ["budgets?find=%00", "budgets/a%00", "runs?after=%00", "do/end-run?run=%00"])
async def test_what_no_database_takes_is_refused_in_words(engine: AsyncEngine, page: str) -> None:
    await store_copy(engine, [account("budget:acme")])
    browser = Browser(await console_app(engine))
    await browser.log_in(ADMIN)
    answer = await browser.get(f"/console/{page}")
    assert (answer.status_code, "has a NUL" in answer.text) == (400, True)


@pytest.mark.parametrize("before", ["0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59-23:59", "then"])
async def test_a_time_that_is_none_shows_the_latest_calls(engine: AsyncEngine, before: str) -> None:
    await store_copy(engine, [])
    await spend(engine, 1)
    assert "call/call-0" in await opened(engine, f"calls?before={before}")
