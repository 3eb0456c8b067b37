"""People whom a proxy logs in: its headers are believed from its own addresses, and from nobody else."""

from typing import Any

import pytest
from console_pages import ADMIN, KEYS, Browser, console_app, form_token

from paymaster.console.guesses import AT_ONCE

INSIDE = "/console/nothing-here"
PROXY = {
    "addresses": ["10.1.0.0/16", "fd00::7"],
    "user_header": "X-Forwarded-Email",
    "groups_header": "X-Forwarded-Groups",
    "users": {"ada@example.com": "admin"},
    "groups": {"oncall": "approver", "staff": "viewer"},
}


async def asked(address: str, headers: Any, **proxy: Any) -> Any:
    app = await console_app(console={"keys": KEYS, "proxy": {**PROXY, **proxy}})
    return await Browser(app, address=address).get(INSIDE, headers=headers)


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "fd00::7"])
async def test_the_proxy_says_who_it_is(address: str) -> None:
    answer = await asked(address, {"x-forwarded-email": "ada@example.com"})
    assert answer.status_code == 404
    assert "ada@example.com" in answer.text
    assert "Log out" not in answer.text  # the proxy does that


@pytest.mark.parametrize("address", ["10.2.0.1", "127.0.0.1", "fd00::8", "::ffff:10.2.0.1", "testclient"])
async def test_nobody_else_is_believed(address: str) -> None:
    answer = await asked(address, {"x-forwarded-email": "ada@example.com", "x-forwarded-for": "10.1.2.3"})
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/console/login")


@pytest.mark.parametrize(
    ("user", "groups", "role"),
    [
        ("ada@example.com", "", "admin"),
        ("ada@example.com", "staff", "admin"),
        ("bo@example.com", "staff, oncall", "approver"),
        ("bo@example.com", "other,staff", "viewer"),
        ("ADA@example.com", "other", None),
        ("bo@example.com", "", None),
    ],
)
async def test_a_role_is_that_of_the_user_or_a_group(user: str, groups: str, role: str | None) -> None:
    answer = await asked("10.1.2.3", {"x-forwarded-email": user, "x-forwarded-groups": groups})
    if role is None:
        assert answer.status_code == 403
        assert "has no role in the console" in answer.text
    else:
        assert f'<span class="soft">{role}</span>' in answer.text


async def test_everybody_else_may_have_a_role() -> None:
    answer = await asked("10.1.2.3", {"x-forwarded-email": "bo@example.com"}, others="viewer")
    assert '<span class="soft">viewer</span>' in answer.text


@pytest.mark.parametrize("headers", [[("x-forwarded-email", "ada@example.com")] * 2, {"x-forwarded-email": "a" * 201}])
async def test_a_header_that_names_not_one_user_names_nobody(headers: Any) -> None:
    assert (await asked("10.1.2.3", headers)).status_code == 403


async def test_groups_that_a_client_adds_give_no_role() -> None:
    headers = [
        ("x-forwarded-email", "bo@example.com"),
        ("x-forwarded-groups", "oncall"),
        ("x-forwarded-groups", "staff"),
    ]
    answer = await asked("10.1.2.3", headers)
    assert (answer.status_code, "comes 2 times" in answer.text) == (403, True)


async def test_forms_of_whom_the_proxy_lets_in_have_a_token_too() -> None:
    app = await console_app(console={"keys": {}, "proxy": PROXY})
    browser = Browser(app, address="10.1.2.3")
    browser.headers["x-forwarded-email"] = "ada@example.com"
    assert (await browser.send_form(INSIDE, token="")).status_code == 403
    login = await browser.get("/console/login")
    assert login.status_code == 303
    other = Browser(await console_app(console={"keys": KEYS}))
    await other.log_in(ADMIN)
    foreign = form_token((await other.get(INSIDE)).text)
    assert (await browser.send_form(INSIDE, token=foreign)).status_code == 403


async def test_guesses_are_counted_by_whom_the_proxy_names() -> None:
    app = await console_app(console={"keys": KEYS, "proxy": PROXY})

    async def status(key: str, forwarded: str) -> int:
        answer = await Browser(app, address="10.1.2.3").send_form(
            "/console/login", {"x-forwarded-for": forwarded}, key=key
        )
        return answer.status_code

    for _ in range(20):
        await status("guess", "1.1.1.1, 203.0.113.7")
    assert await status(ADMIN, "8.8.8.8, 203.0.113.7") == 429  # what whoever asks wrote before it changes nothing
    assert await status(ADMIN, "203.0.113.8") == 303


async def test_a_line_that_a_client_sent_hides_no_guesses() -> None:
    """Some proxies write a header of their own below it."""
    app = await console_app(console={"keys": KEYS, "proxy": PROXY})
    statuses: list[int] = []
    for number in range(AT_ONCE + 1):
        browser = Browser(app, address="10.1.2.3")
        lines = [("x-forwarded-for", f"1.1.1.{number}"), ("x-forwarded-for", "203.0.113.7")]
        answer = await browser.post("/console/login", data={"key": "guess"}, headers=lines)
        statuses.append(answer.status_code)
    assert statuses == [403] * AT_ONCE + [429]
