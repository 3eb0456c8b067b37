"""Who is let into the console: keys, sessions, forms, and what strangers can make a browser do."""

import asyncio
import time
from typing import Any

import jwt
import pytest
from console_pages import ADMIN, KEYS, VIEWER, Browser, console_app, form_token, key_table
from starlette.applications import Starlette

from paymaster.console.guesses import AT_ONCE

INSIDE = "/console/nothing-here"
"""An address that is only looked at for people who are let in; and then there is nothing."""


@pytest.fixture
async def app() -> Starlette:
    return await console_app()


@pytest.fixture
async def browser(app: Starlette) -> Browser:
    return Browser(app)


async def logged_in(app: Starlette, key: str = ADMIN, **more: Any) -> Browser:
    browser = Browser(app, **more)
    assert (await browser.log_in(key)).status_code == 303
    return browser


async def is_inside(browser: Browser) -> bool:
    return (await browser.get(INSIDE)).status_code == 404


async def test_nobody_sees_anything_without_a_key(browser: Browser) -> None:
    for path in ("/console/budgets", "/console/budgets/acme", INSIDE):
        answer = await browser.get(path)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/console/login?next=%2Fconsole%2F")
    assert not await is_inside(browser)


async def test_a_key_is_a_way_in(browser: Browser) -> None:
    answer = await browser.log_in(VIEWER)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/budgets")
    assert await is_inside(browser)
    page = (await browser.get(INSIDE)).text
    assert "vera" in page
    assert "viewer" in page


@pytest.mark.parametrize("key", ["", "x", f"{ADMIN}x", ADMIN.upper(), "ada", "\x00"])
async def test_another_text_is_not(browser: Browser, key: str) -> None:
    answer = await browser.log_in(key)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert not await is_inside(browser)
    assert key not in answer.text or len(key) < 4  # nobody reads it over a shoulder


# ---------------------------------------------------------------- the session


async def test_the_cookie_is_for_this_site_and_no_script(app: Starlette) -> None:
    answer = await Browser(app).log_in(ADMIN)
    name, _, rest = answer.headers["set-cookie"].partition("=")
    assert name == "paymaster_console"
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(rest.split("; "))
    assert ADMIN not in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    ("url", "headers", "tables"),
    [
        ("https://localhost:4000", {}, {}),
        ("http://localhost:4000", {"x-forwarded-proto": "https"}, {}),
        ("http://localhost:4000", {"x-forwarded-proto": "HTTPS, http"}, {}),
        ("http://console.example.com", {}, {"gateway": {"address": "0.0.0.0:4000", "allow_http": True}}),
    ],
)
async def test_over_tls_the_cookie_is_for_tls_alone(url: str, headers: dict[str, str], tables: Any) -> None:
    browser = Browser(await console_app(**tables), url=url)
    answer = await browser.send_form("/console/login", headers, key=ADMIN)
    assert answer.headers["set-cookie"].startswith("__Host-paymaster=")
    assert "Secure" in answer.headers["set-cookie"].split("; ")
    assert "Domain" not in answer.headers["set-cookie"]


async def test_a_login_makes_a_session_that_nobody_knew(app: Starlette) -> None:
    """Session fixation: what the browser had before is worth nothing afterwards, to whoever else knows it."""
    browser = await logged_in(app, VIEWER)
    known = browser.cookies["paymaster_console"]
    await browser.log_in(ADMIN)
    assert browser.cookies["paymaster_console"] != known
    other = Browser(app)
    other.cookies.set("paymaster_console", known)
    assert not await is_inside(other)


async def test_a_session_that_was_chosen_elsewhere_is_none(app: Starlette) -> None:
    claims = {"sub": "ada", "jti": "chosen", "key": KEYS["ada"]["key_sha256"], "exp": time.time() + 1_000}
    for token in ("chosen", "", jwt.encode(claims, "k" * 32), jwt.encode(claims, "", "none")):
        browser = Browser(app)
        browser.cookies.set("paymaster_console", token)
        assert not await is_inside(browser)


async def test_a_session_ends(app: Starlette) -> None:
    short = await console_app(console={"keys": KEYS, "session_lasts": "1s"})
    browser = await logged_in(short)
    assert await is_inside(browser)
    kept = browser.cookies["paymaster_console"]
    deadline = time.monotonic() + 10
    browser.cookies.clear()
    browser.cookies.set("paymaster_console", kept)  # a browser that does not forget it
    while await is_inside(browser):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)


async def test_whoever_logs_out_is_out_wherever_the_cookie_is(app: Starlette) -> None:
    browser = await logged_in(app)
    kept = browser.cookies["paymaster_console"]
    token = form_token((await browser.get(INSIDE)).text)
    assert (await browser.send_form("/console/logout", token=token)).headers["location"] == "/console/login"
    assert "paymaster_console" not in browser.cookies
    other = Browser(app)
    other.cookies.set("paymaster_console", kept)
    assert not await is_inside(other)


async def test_another_key_ends_the_sessions_of_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYMASTER_KEY_CONSOLE", "shared-by-all-gateways-0123456789")
    browser = await logged_in(await console_app(console={"keys": KEYS, "secret_key": "console"}))
    kept = browser.cookies["paymaster_console"]
    for changed, stays in ({}, True), ({"ada": key_table(VIEWER, "admin")}, False), ({"ada": None}, False):
        keys = {name: table for name, table in {**KEYS, **changed}.items() if table is not None}
        other = Browser(await console_app(console={"keys": keys, "secret_key": "console"}))
        other.cookies.set("paymaster_console", kept)
        assert await is_inside(other) is stays  # at another gateway with the same secret, too


# ---------------------------------------------------------------- what other sites can do


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "http://localhost:4001"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
)
async def test_a_form_of_another_site_does_nothing(app: Starlette, headers: dict[str, str]) -> None:
    """CSRF, of a login and of what is done in a session, even with a token that somebody got hold of."""
    browser = await logged_in(app)
    token = form_token((await browser.get(INSIDE)).text)
    assert (await browser.send_form("/console/logout", headers, token=token)).status_code == 403
    assert await is_inside(browser)
    stranger = Browser(app)
    assert (await stranger.send_form("/console/login", headers, key=VIEWER)).status_code == 403
    assert not await is_inside(stranger)


async def test_a_form_needs_the_token_of_its_session(app: Starlette) -> None:
    browser, other = await logged_in(app), await logged_in(app)
    foreign = form_token((await other.get(INSIDE)).text)
    for token in ("", "x" * 64, foreign, foreign.upper(), "é"):
        answer = await browser.send_form("/console/logout", token=token)
        assert answer.status_code == 403
        assert "open the page again" in answer.text
    assert await is_inside(browser)


async def test_a_form_is_read_in_one_format_only(app: Starlette) -> None:
    """One that a foreign page can send as text is not taken."""
    browser = await logged_in(app)
    token = form_token((await browser.get(INSIDE)).text)
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/json", ""):
        headers = {"content-type": kind, "origin": browser.url}
        answer = await browser.post("/console/logout", content=f"token={token}", headers=headers)
        assert answer.status_code == 415
    assert await is_inside(browser)


async def test_no_page_can_be_framed_or_run_what_is_not_the_consoles(app: Starlette) -> None:
    """Clickjacking, and the last line against scripts."""
    browser = await logged_in(app)
    asset = "/console/static/console.js"
    for path in (INSIDE, "/console", "/console/login", asset, "/console/static/none", "/console/budgets"):
        headers = (await browser.get(path)).headers
        policy = headers["content-security-policy"].split("; ")
        assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} <= set(policy)
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        if path != asset:
            assert "no-store" in headers.get("cache-control", "no-store")


async def test_no_page_has_a_script_or_a_style_in_it(app: Starlette) -> None:
    browser = await logged_in(app)
    for path in (INSIDE, "/console/login"):
        page = (await browser.get(path)).text
        assert "style=" not in page
        assert "<style" not in page
        assert page.count("<script") == page.count('<script src="/console/static/')
        assert " on" not in page.replace(" on ", "").split("<body")[0]


@pytest.mark.parametrize(
    "to",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/console\\@evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "/console/\r\nset-cookie: a=b",
        "/console/\t/evil.example",
        " /console/budgets",
        "/consolex",
        "console/budgets",
        "/v1/paymaster/admin/ledger",
        f"/console/{'x' * 2_000}",
    ],
)
async def test_a_login_leads_nowhere_else(app: Starlette, to: str) -> None:
    """Open redirect."""
    browser = Browser(app)
    page = await browser.get("/console/login", params={"next": to})
    assert 'name="next" value="/console/budgets"' in page.text
    answer = await browser.send_form("/console/login", key=ADMIN, next=to)
    assert answer.headers["location"] == "/console/budgets"
    again = await browser.get("/console/login", params={"next": to})
    assert again.headers["location"] == "/console/budgets"


async def test_a_login_leads_to_the_page_that_was_asked_for(app: Starlette) -> None:
    browser = Browser(app)
    asked = "/console/budgets/acme/v1.2_x?page=2&find=a"
    answer = await browser.get(asked)
    page = await browser.get(answer.headers["location"])
    assert f'value="{asked.replace("&", "&amp;")}"' in page.text
    answer = await browser.send_form("/console/login", key=ADMIN, next=asked)
    assert answer.headers["location"] == asked


# ---------------------------------------------------------------- guessing


async def test_keys_are_guessed_slowly(app: Starlette) -> None:
    """Brute force. Whoever comes from another address still logs in at once."""
    guesser = Browser(app, address="203.0.113.7")
    statuses = [(await guesser.log_in(f"guess-{number}")).status_code for number in range(AT_ONCE + 5)]
    assert statuses == [403] * AT_ONCE + [429] * 5
    right = await guesser.log_in(ADMIN)  # also a key that is right is not looked at now
    assert right.status_code == 429
    assert 1 <= int(right.headers["retry-after"]) <= 10
    assert (await Browser(app, address="203.0.113.8").log_in(ADMIN)).status_code == 303


# ---------------------------------------------------------------- bounds


async def test_a_form_has_a_size(app: Starlette) -> None:
    answer = await Browser(app).send_form("/console/login", key="x" * 30_000)
    assert answer.status_code == 400
    many = {f"field{number}": "" for number in range(200)}
    assert (await Browser(app).post("/console/login", data=many)).status_code == 400


async def test_a_database_that_does_not_answer_is_said_in_words(app: Starlette) -> None:
    answer = await (await logged_in(app)).get("/console/budgets")
    assert answer.status_code == 503
    assert "The database does not answer" in answer.text
    assert "ada" in answer.text


async def test_a_path_cannot_command_the_terminal_of_the_log(app: Starlette, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        await Browser(app).get("/console/budgets/%1b[2J%c2%9b1m")
    (line,) = [each.getMessage() for each in caplog.records if each.name.startswith("paymaster.console")]
    assert line == "console GET /console/budgets/%1B%5B2J%C2%9B1m 303"
