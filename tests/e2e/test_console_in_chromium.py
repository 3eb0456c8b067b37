"""The console's pages as people see them: on a desk and on a phone, by day and by night, with no rows and with many."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from console_browser import DESKTOP, PHONE, check_page, chromium, person, served
from console_pages import ADMIN, account, console_app, now_ms, run, service, store_copy, waiting, window
from paymaster_process import Databases
from playwright.async_api import Browser, Page
from records import usual_entry
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages import UsageEntry
from paymaster.storage.engine import create_engine
from paymaster.storage.usage_rows import insert_entries

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]
PAGES = ("budgets", "parked", "services", "runs", "calls", "usage", "changes")
FORMS = (
    "do/raise?budget=acme/content",
    "do/raise?budget=acme/content&window=day&by=10&lapses=1",
    "do/set?budget=acme/content",
    "do/set?budget=acme/content&window=day&usd=1",
    "do/pause?service=openai",
    "do/raise-run?run=agent-7",
    "do/end-run?run=agent-7",
    "do/nothing",
)
SCREENSHOTS = os.environ.get("PAYMASTER_SCREENSHOTS")
"""A folder that gets a picture of each page."""


async def store_some(engine: AsyncEngine) -> None:
    accounts = [
        account("budget:acme", window("month", 2000, 812.4, 3.2), window("total", None, 9123.5)),
        account("budget:acme/agents", window("day", 100, 22.123456789, 4), time_zone="Europe/Oslo"),
        account("budget:acme/content", window("day", 50, 50, cap_from="admin", lapsing_nanos=10**10), parked=41),
        account("budget:acme/content/writer", window("day", 20, 16.4, 0.3)),
        account("budget:acme/trial", window("day", 1, 3.2, let_through=41), enforced=False),
        account(f"budget:{'/'.join(['a-long-name'] * 16)}", window("total", 5, 4.9)),
        account("service:openai", window("day", 500, 120)),
        account("service:anthropic", window("total", None, 1220), parked=3),
        account("run:agent-7", window("total", 2, 2), run=run("agent-7", held="61 calls in a minute"), parked=1),
        account("run:agent-9", window("total", 2, 1), run=run("agent-9", ended_by="ada")),
    ]
    services = [
        service("anthropic", breaker="open", failures=7, open_until_ms=4_000_000_000_000),
        service("local", paused_by="ada: maintenance"),
        service("openai"),
    ]
    calls = [waiting(number, budget="acme/content", detail=f"{'x' * 200} `paymaster budget`") for number in range(20)]
    await store_copy(engine, accounts, services, calls, parked=45)
    await spend(engine, 150)


async def store_many(engine: AsyncEngine) -> None:
    """10,000 budgets, 2,000 parked calls."""
    accounts = [account(f"budget:team-{team:03}", window("month", 1000, team)) for team in range(100)]
    for team in range(100):
        of_team = (f"budget:team-{team:03}/user-{user:02}" for user in range(99))
        accounts += [account(key, window("day", 5, team / 21), window("total", None, 40)) for key in of_team]
    accounts[5_000] = accounts[5_000].model_copy(update={"parked": 2_000})
    await store_copy(engine, accounts, [service("openai")], [waiting(number) for number in range(20)], parked=2_000)
    await spend(engine, 3_000)


async def spend(engine: AsyncEngine, count: int) -> None:
    began_ms = now_ms()
    for first in range(0, count, 500):
        rows = [
            {
                **usual_entry(number),
                "granted_at_ms": began_ms - number * 20_000,
                "duration_ms": 900,
                "cost_nanos": number * 10**6,
                "budget": f"acme/b{number % 40}",
                "service": f"service-{number % 10}",
                "status": "completed" if number % 9 else "failed",
                "error_class": None if number % 9 else "timeout",
            }
            for number in range(first, min(first + 500, count))
        ]
        await insert_entries(engine, [UsageEntry.model_validate(row) for row in rows])


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest.fixture
async def engine(databases: Databases) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(await databases.create())
    yield engine
    await engine.dispose()


async def look(page: Page, path: str, name: str) -> None:
    await page.goto(f"/console/{path}")
    await check_page(page)
    if SCREENSHOTS is not None:
        file = f"{name}-{path.partition('?')[0].replace('/', '-')}-{'long' if '&' in path else 'page'}.png"
        await page.screenshot(path=Path(SCREENSHOTS) / file, full_page=True)


@pytest.mark.full
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
async def test_each_page_and_form_is_for_everybody(
    browser: Browser, engine: AsyncEngine, width: int, scheme: str
) -> None:
    await store_some(engine)
    async with (
        served(await console_app(engine)) as url,
        person(browser, url, ADMIN, width=width, scheme="dark" if scheme == "dark" else "light") as page,
    ):
        for path in (*PAGES, "budgets/acme", "budgets/acme/content", "budgets?find=nothing", *FORMS):
            await look(page, path, f"some-{width}-{scheme}")


@pytest.mark.full
async def test_pages_without_rows_are_for_everybody(browser: Browser, engine: AsyncEngine) -> None:
    async with served(await console_app(engine)) as url, person(browser, url, ADMIN, width=PHONE) as page:
        await look(page, "budgets", "untold")
        await store_copy(engine, [])
        for path in PAGES:
            await look(page, path, "empty")


@pytest.mark.full
async def test_ten_thousand_budgets_and_two_thousand_calls(browser: Browser, engine: AsyncEngine) -> None:
    await store_many(engine)
    async with served(await console_app(engine)) as url, person(browser, url, ADMIN) as page:
        for path in (*PAGES, "budgets?page=100", "budgets?find=user-07", "budgets/team-050"):
            await look(page, path, "many")
            took_ms = await page.evaluate("performance.getEntriesByType('navigation')[0].responseEnd")
            assert took_ms < 5_000, f"{path} took {took_ms} ms"
        await page.goto("/console/parked")
        assert "2,000 calls wait" in await page.inner_text("h1")
        assert await page.locator(".account").count() == 21


async def test_pages_need_no_script_and_no_mouse(browser: Browser, engine: AsyncEngine) -> None:
    await store_some(engine)
    async with (
        served(await console_app(engine)) as url,
        person(browser, url, ADMIN, width=PHONE, scripts=False) as page,
    ):
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")  # skips to the content
        await page.keyboard.press("Tab")
        assert await page.locator(":focus").get_attribute("href") == "/console/budgets/acme/content"
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/console/do/raise?**")
        assert "from $50.00 to $60.00 until the window ends" in await page.inner_text("main")
        assert await page.input_value("#reason") == "calls wait"


async def test_pages_renew_themselves_while_they_are_looked_at(browser: Browser, engine: AsyncEngine) -> None:
    await store_copy(engine, [account("budget:acme", window("day", 10, 1))])
    async with served(await console_app(engine)) as url, person(browser, url, ADMIN) as page:
        await page.clock.install()
        await page.goto("/console/budgets")
        await store_copy(engine, [account("budget:acme", window("day", 10, 10), parked=7)])
        await page.clock.run_for(11_000)
        await page.get_by_text("7 calls wait").first.wait_for()
        await page.get_by_role("button", name="Stop updates").click()
        await store_copy(engine, [account("budget:acme", window("day", 10, 1))])
        await page.clock.run_for(60_000)
        assert await page.get_by_text("7 calls wait").count() > 0
        assert await page.get_by_role("button", name="Update by itself").count() == 1


async def test_a_page_that_is_typed_into_stays(browser: Browser, engine: AsyncEngine) -> None:
    await store_copy(engine, [account("budget:acme", window("day", 10, 1))])
    async with served(await console_app(engine)) as url, person(browser, url, ADMIN) as page:
        await page.clock.install()
        await page.goto("/console/budgets")
        await page.fill("#find", "half a na")
        await page.clock.run_for(60_000)
        assert await page.input_value("#find") == "half a na"


async def test_no_other_site_can_show_it_in_a_frame(browser: Browser, engine: AsyncEngine) -> None:
    """Clickjacking, as a browser sees it."""
    await store_some(engine)
    async with served(await console_app(engine)) as url:
        context = await browser.new_context()
        page = await context.new_page()
        await page.set_content(f"<iframe src='{url}/console/login'></iframe>")
        await page.wait_for_timeout(500)
        texts = [await frame.evaluate("document.body?.innerText ?? ''") for frame in page.frames[1:]]
        assert all("Log in" not in text for text in texts)
        await context.close()
