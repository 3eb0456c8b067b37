"""The console in headless Chromium: Debian's, which Playwright drives. Tests are skipped where there is none."""

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

import pytest
import uvicorn
from axe_playwright_python.async_playwright import Axe  # pyright: ignore[reportMissingTypeStubs]
from paymaster_process import until
from playwright.async_api import Browser, Page, async_playwright
from starlette.applications import Starlette

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PHONE, DESKTOP = 390, 1200
_UNSANDBOXED = ["--no-sandbox"] if os.geteuid() == 0 else []


@asynccontextmanager
async def chromium() -> AsyncGenerator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=_UNSANDBOXED)
        yield browser
        await browser.close()


@asynccontextmanager
async def served(app: Starlette) -> AsyncGenerator[str]:
    """The address of the application, on loopback."""
    config = uvicorn.Config(app, port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started, "the console listens")
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving


@asynccontextmanager
async def person(
    browser: Browser,
    url: str,
    key: str,
    *,
    width: int = DESKTOP,
    scheme: Literal["light", "dark"] = "light",
    scripts: bool = True,
) -> AsyncGenerator[Page]:
    """A page of somebody who has logged in. Fails when a page does what its policy forbids, or its script fails."""
    context = await browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=scripts, base_url=url
    )
    page = await context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"{request.url} {request.failure}"))
    page.on("request", lambda request: None if request.url.startswith(url) else complaints.append(request.url))
    await page.goto("/console/login")
    await page.fill("#key", key)
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/console/budgets")
    yield page
    await context.close()
    # Neither a page that says 404 or 503 in words, nor one that was left while it loaded, is a complaint.
    harmless = ("ERR_ABORTED", "the server responded with a status of")
    assert [each for each in complaints if not any(words in each for words in harmless)] == [], complaints


async def check_page(page: Page) -> None:
    """It fits its width, and axe finds nothing that shuts somebody out."""
    overflow = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0, f"{page.url} is {overflow} pixels too wide"
    found = await Axe().run(page)
    assert found.violations_count == 0, f"{page.url}: {found.generate_report()}"
