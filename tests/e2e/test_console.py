"""The console of a gateway process, with a worker and a real ledger: each action does what its page says."""

import re
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from console_browser import PHONE, chromium, person
from console_pages import ADMIN, APPROVER, KEYS
from console_people import Person, logged_in
from counting_server import CountingServer, FakeService
from gateway_process import running_gateway
from paymaster_process import Databases, Site, configuration, running_site, until
from playwright.async_api import Page

from paymaster import LLMRequest, RunLimits
from paymaster.client import generate, start
from paymaster.devstack import EmbeddedStack
from paymaster.values.money import nanos_to_usd

pytestmark = pytest.mark.timeout(120)
LIMITS = RunLimits(usd="1", calls=5)


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    return server.service("consoled")


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, module_folder: Path, service: FakeService
) -> AsyncIterator[Site]:
    budgets = {"acme": {"cap_usd": {"day": "5"}}, "acme/set": {}}
    tables: dict[str, Any] = configuration([service], routes={"writer": [service]}, budgets=budgets)
    tables["console"] = {"keys": KEYS, "temporal_ui": "http://127.0.0.1:8233"}
    async with running_site(
        stack.temporal_address, await databases.create(), module_folder, tables, workers=1
    ) as running:
        yield running


@pytest.fixture(scope="module")
async def url(site: Site) -> AsyncIterator[str]:
    async with running_gateway(site) as gateway:
        yield gateway.url


@pytest.fixture
async def ada(url: str) -> AsyncIterator[Person]:
    async with logged_in(url, ADMIN) as person:

        async def is_copied() -> bool:
            return "acme" in await person.open("budgets")

        await until(is_copied, "the ledger has copied how it stands")
        yield person


async def test_a_parked_call_goes_on_after_one_press(ada: Person, site: Site, service: FakeService, url: str) -> None:
    request = LLMRequest(route="writer", budget="acme/short", prompt="hello")
    await ada.do(f"do/set?budget=acme/short&window=day&usd={nanos_to_usd(site.bound_nanos(service, request))}")
    await generate(site.client, request)  # what it cost is missing for the next one
    call = await start(site.client, request)

    async def waits() -> bool:
        return "Raise the day cap" in await ada.open("parked")

    await until(waits, "the page shows the call that waits")
    page = await ada.open("parked")
    assert "1 call waits" in page
    assert "budget:acme/short has a cap of" in page  # in the ledger's own words
    async with logged_in(url, APPROVER) as otto:
        await otto.do("do/raise?budget=acme/short&window=day&by=1&lapses=1&reason=night")
    result = await call.result()
    assert result.outcome == "completed"

    async def is_calm() -> bool:
        return "No call waits" in await ada.open("parked")

    await until(is_calm, "nothing waits any more")
    assert re.search(r"<strong>otto</strong> acme/short day .* → .*, until the window ends", await ada.open("changes"))
    calls = await ada.open("calls")
    assert "acme/short" in calls
    assert "http://127.0.0.1:8233/namespaces/" in calls


async def test_a_raise_that_is_sent_twice_is_one_raise(ada: Person, site: Site) -> None:
    await ada.do("do/set?budget=acme/set&window=day&usd=2")
    page = await ada.open("do/raise?budget=acme/set&window=day&by=1&reason=x")
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.partition("/console/do/")[2])
    fields = {**dict(found), "reason": "twice"}
    for number in range(2):
        answer = await ada.http.post("/console/do/raise", data=fields)
        assert "The cap of acme/set (day) rose by $1.00." in answer.text
        assert ("Take it back" in answer.text) == (number == 0)  # it would be taken back to what it is now
    assert (await site.balance("budget:acme/set", "day")).cap_nanos == 3_000_000_000


async def test_a_cap_is_set_and_taken_back(ada: Person, site: Site) -> None:
    await ada.do("do/set?budget=acme/undone&window=week&usd=10")
    done = await ada.do("do/set?budget=acme/undone&window=week&usd=3")
    undo = re.findall(r'href="/console/(do/set[^"]+)">Take it back', done)[0]
    assert (await site.balance("budget:acme/undone", "week")).cap_nanos == 3_000_000_000
    await ada.do(unescape(undo))
    assert (await site.balance("budget:acme/undone", "week")).cap_nanos == 10_000_000_000


async def test_what_admins_made_of_a_cap_is_taken_back(ada: Person, site: Site) -> None:
    done = await ada.do("do/raise?budget=acme&window=day&by=3&lapses=1")
    undo = re.findall(r'href="/console/(do/unset[^"]+)">Take it back', done)[0]
    assert (await site.balance("budget:acme", "day")).cap_nanos == 8_000_000_000
    await ada.do(unescape(undo))
    assert (await site.balance("budget:acme", "day")).cap_nanos == 5_000_000_000
    assert "do/unset" not in await ada.open("budgets/acme")


async def test_of_two_people_one_comes_too_late(ada: Person, site: Site) -> None:
    await ada.do("do/set?budget=acme/contested&window=day&usd=1")
    page = await ada.open("do/set?budget=acme/contested&window=day&usd=2&reason=x")
    await ada.do("do/set?budget=acme/contested&window=day&usd=7")
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.partition("/console/do/")[2])
    answer = await ada.http.post("/console/do/set", data={**dict(found), "reason": "late"})
    assert answer.status_code == 409
    assert "Somebody was faster" in answer.text
    assert (await site.balance("budget:acme/contested", "day")).cap_nanos == 7_000_000_000


async def test_a_service_is_paused_and_resumed(ada: Person, site: Site) -> None:
    done = await ada.do("do/pause?service=consoled")
    assert (await site.service_status("consoled")).paused_by is not None
    assert "paused by ada" in await ada.open("services")
    undo = re.findall(r'href="/console/(do/resume[^"]+)">Take it back', done)[0]
    await ada.do(unescape(undo))
    assert (await site.service_status("consoled")).paused_by is None


async def test_a_run_gets_more_and_is_ended(ada: Person, site: Site) -> None:
    request = LLMRequest(route="writer", budget="acme", run="research", run_limits=LIMITS, prompt="hello")
    await generate(site.client, request)

    async def is_listed() -> bool:
        return "research" in await ada.open("runs")

    await until(is_listed, "the run is listed")
    await ada.do("do/raise-run?run=research&by=2&calls=10")
    assert "of 15" in await ada.open("runs")
    await ada.do("do/end-run?run=research")
    assert "ended by ada" in await ada.open("runs")


async def test_what_the_ledger_refuses_is_said_in_its_words(ada: Person) -> None:
    await ada.do("do/set?budget=acme/refused&window=day&usd=1")
    status, page = await ada.confirm("do/raise?budget=acme/refused&window=day&by=99999999999")
    assert status in (400, 409)
    assert "more than the books can hold" in page or "not an amount" in page


# ---------------------------------------------------------------- as people press them


async def press(page: Page, name: str, reason: str = "because") -> str:
    """A button or link that asks for an action, then the one that does it. What is so then."""
    await page.get_by_role("link", name=name, exact=True).first.click()
    await page.fill("#reason", reason)
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="Done").wait_for()
    return await page.inner_text("[role=status]")


async def set_a_cap(page: Page, budget: str, usd: str) -> None:
    """Of a budget that is not there yet."""
    await page.goto(f"/console/budgets/{budget}")
    assert "Not found" in await page.inner_text("h1")
    await page.goto(f"/console/do/set?budget={budget}")
    await page.select_option("#window", "day")
    await page.fill("#usd", usd)
    await page.get_by_role("button", name="Go on").click()
    await page.fill("#reason", "a try")
    await page.get_by_role("button", name="Set the cap").click()
    await page.get_by_role("link", name="See how it stands").click()
    assert "nothing left" not in await page.inner_text("main")


@pytest.mark.full
async def test_each_action_in_a_browser(ada: Person, site: Site, service: FakeService, url: str) -> None:
    request = LLMRequest(route="writer", budget="acme/pressed", prompt="hello")
    cap = nanos_to_usd(site.bound_nanos(service, request))
    async with chromium() as browser, person(browser, url, ADMIN, width=PHONE) as page:
        await set_a_cap(page, "acme/pressed", f"{cap}")
        await generate(site.client, request)
        call = await start(site.client, request)

        async def waits() -> bool:
            await page.goto("/console/parked")
            return await page.get_by_role("link", name="Raise the day cap by $0.01").count() == 1

        await until(waits, "the page shows the call that waits")
        assert "until the window ends" in await press(page, "Raise the day cap by $0.01")
        assert (await call.result()).outcome == "completed"
        assert "acme/pressed (day) is $" in await press(page, "Take it back")

        await page.goto("/console/services")
        assert await press(page, "Pause consoled") == "consoled is paused."
        assert await press(page, "Take it back") == "consoled is resumed."

        await generate(site.client, request.model_copy(update={"budget": "acme", "run": "r7", "run_limits": LIMITS}))

        async def is_listed() -> bool:
            await page.goto("/console/runs")
            return "r7" in await page.inner_text("main")

        await until(is_listed, "the run is listed")
        await page.goto("/console/do/raise-run?run=r7")
        await page.fill("#calls", "10")
        await page.get_by_role("button", name="Go on").click()
        await page.fill("#reason", "more to do")
        await page.get_by_role("button", name="Give it").click()
        assert "10 calls more" in await page.inner_text("[role=status]")
        await page.goto("/console/do/end-run?run=r7")
        await page.fill("#reason", "enough")
        await page.get_by_role("button", name="End it").click()
        await page.get_by_role("link", name="See how it stands").click()
        assert "ended by ada" in await page.inner_text("main")
        await page.get_by_role("button", name="Log out").click()
        await page.wait_for_url("**/console/login")
        await page.goto("/console/budgets")
        assert "Log in" in await page.inner_text("h1")
