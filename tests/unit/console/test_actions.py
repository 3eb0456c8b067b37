"""What people may ask for, how it is confirmed, and what is refused before the ledger hears of it."""

import re
from typing import Any

import pytest
from console_pages import (
    ADMIN,
    APPROVER,
    HOSTILE,
    VIEWER,
    Browser,
    account,
    console_app,
    opened,
    run,
    service,
    store_copy,
    window,
)
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from paymaster.console.accounts import shown
from paymaster.devstack import EmbeddedStack
from paymaster.errors import LedgerNotFound
from paymaster.ledger.handle import Ledger
from paymaster.messages import CapState, RaiseCap

RAISE = "do/raise?budget=acme&window=day&by=5&lapses=1&reason=launch"
OF_ADMINS = (
    "do/unset?budget=made&window=day",
    "do/set?budget=acme&window=day&usd=5",
    "do/pause?service=s",
    "do/resume?service=s",
    "do/end-run?run=r",
)
OF_APPROVERS = (RAISE, "do/raise-run?run=r&calls=5", "do/resume-run?run=r")


@pytest.fixture
async def stored(engine: AsyncEngine) -> AsyncEngine:
    accounts = [
        account("budget:acme", window("day", 50, 50), window("total", None, 60), parked=3),
        account("budget:made", window("day", 9, 1, cap_from="admin")),
        account("budget:free", window("total", None, 1)),
        account("run:r", window("total", 2, 1), run=run("r", held="too quick")),
    ]
    await store_copy(engine, accounts, [service("s")])
    return engine


async def logged_in(engine: AsyncEngine, key: str, **tables: Any) -> Browser:
    browser = Browser(await console_app(engine, **tables))
    await browser.log_in(key)
    return browser


async def test_one_press_leads_to_what_will_be_so(stored: AsyncEngine) -> None:
    page = await opened(stored, "parked", APPROVER)
    found = re.search(r'class="button main" href="([^"]+)">Raise the day cap by \$10.00<', page)
    assert found is not None
    asked = await opened(stored, found[1].replace("&amp;", "&").removeprefix("/console/"), APPROVER)
    assert "rises by $10.00, from $50.00 to $60.00 until the window ends" in asked
    assert 'name="reason" value="calls wait"' in asked
    assert "Raise the cap</button>" in asked


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (RAISE, "from $50.00 to $55.00 until the window ends"),
        ("do/raise?budget=acme&window=day&by=$1,000.5", "is not an amount"),
        ("do/raise?budget=acme&window=day&by=0.000000001", "to $50.000000001."),
        ("do/set?budget=acme&window=day&usd=0", "becomes $0.00; it is $50.00 now"),
        ("do/set?budget=acme&window=day&usd=0", "$50.00 are spent or held already"),
        ("do/set?budget=new/one&window=week&usd=7", "becomes $7.00; there is none now"),
        ("do/unset?budget=made&window=day", "is $9.00, as admins made it. Afterwards the configuration"),
        ("do/pause?service=s", "Nothing more is sent to s"),
        ("do/resume?service=s", "Calls go to s again"),
        ("do/raise-run?run=r&by=1&calls=20&minutes=30", "gets more: $1.00, 20 calls, 30 minutes"),
        ("do/resume-run?run=r", "goes on; what it did so far counts no more"),
        ("do/end-run?run=r", "This cannot be taken back"),
    ],
)
async def test_a_confirmation_says_what_will_be_so(stored: AsyncEngine, path: str, says: str) -> None:
    browser = await logged_in(stored, ADMIN)
    answer = await browser.get(f"/console/{path}")
    assert answer.status_code == (400 if says == "is not an amount" else 200)
    assert says in answer.text


@pytest.mark.parametrize(
    "path", ["do/raise?budget=acme", "do/set?budget=acme", "do/set?budget=new", "do/raise-run?run=r"]
)
async def test_what_was_not_said_is_asked_for(stored: AsyncEngine, path: str) -> None:
    page = await opened(stored, path)
    assert "Go on</button>" in page
    assert 'method="get"' in page


@pytest.mark.parametrize(
    ("path", "status", "why"),
    [
        ("do/raise?budget=acme&window=day&by=x", 400, "is not an amount"),
        ("do/raise?budget=acme&window=day&by=-1", 400, "less than nothing"),
        ("do/raise?budget=acme&window=day&by=0", 400, "more than zero"),
        ("do/raise?budget=acme&window=week&by=1", 400, "has no cap for week"),
        ("do/raise?budget=acme&window=fortnight&by=1", 400, "there is no window"),
        ("do/raise?budget=free&window=total&by=1", 400, "has no cap for total"),
        ("do/raise?budget=a//b&window=day&by=1", 404, "is not a segment"),
        ("do/raise-run?run=r&calls=-1", 400, "is no number of calls"),
        ("do/raise-run?run=r&minutes=1e3", 400, "is no number of minutes"),
        ("do/raise-run?run=none&calls=1", 404, "has no run"),
        ("do/unset?budget=acme&window=day", 409, "nothing of an admin to take back"),
        ("do/pause?service=none", 404, "there is no service"),
        ("do/nothing", 404, "no such page"),
        (f"do/raise?budget={HOSTILE}&window=day&by=1", 404, "is not a segment"),
        (f"do/raise?budget=acme&window=day&by={HOSTILE}", 400, "is not an amount"),
    ],
)
async def test_what_cannot_be_is_said_at_once(stored: AsyncEngine, path: str, status: int, why: str) -> None:
    browser = await logged_in(stored, ADMIN)
    answer = await browser.get(f"/console/{path}")
    assert (answer.status_code, why in answer.text) == (status, True), answer.text
    assert "<script>alert" not in answer.text


@pytest.mark.parametrize("path", [*OF_ADMINS, *OF_APPROVERS])
async def test_each_role_does_its_own(stored: AsyncEngine, path: str) -> None:
    """Also when somebody sends a form that no page showed."""
    action, _, query = path.removeprefix("do/").partition("?")
    fields = dict(pair.split("=") for pair in query.split("&"))
    for key, may in ((VIEWER, False), (APPROVER, path in OF_APPROVERS), (ADMIN, True)):
        browser = await logged_in(stored, key)
        answer = await browser.get(f"/console/{path}")
        assert answer.status_code == (200 if may else 403)
        token = re.search(r'name="token" value="([0-9a-f]+)"', answer.text)
        assert token is not None
        sent = await browser.post(f"/console/do/{action}", data={**fields, "token": token[1], "reason": ""})
        assert sent.status_code == (400 if may else 403)  # a reason is missing: nothing was done
        assert ("Say why" in sent.text) is may


async def test_pages_offer_what_somebody_may_do(stored: AsyncEngine) -> None:
    for page in ("budgets", "budgets/acme", "parked", "services", "runs"):
        assert "/console/do/" not in await opened(stored, page, VIEWER)
    assert "do/pause" not in await opened(stored, "services", APPROVER)
    assert "do/set" not in await opened(stored, "budgets/acme", APPROVER)
    assert "do/end-run" not in await opened(stored, "runs", APPROVER)
    assert "do/resume-run" in await opened(stored, "runs", APPROVER)
    assert "do/end-run" in await opened(stored, "runs", ADMIN)


async def test_nothing_is_done_without_the_forms_token(stored: AsyncEngine) -> None:
    """CSRF of an action."""
    browser = await logged_in(stored, ADMIN)
    fields = {"budget": "acme", "window": "day", "by": "5", "reason": "x", "once": "1"}
    assert (await browser.post("/console/do/raise", data=fields)).status_code == 403
    page = (await browser.get(f"/console/{RAISE}")).text
    token = re.findall(r'name="token" value="([0-9a-f]+)"', page)[0]
    foreign = {"origin": "https://evil.example"}
    assert (
        await browser.post("/console/do/raise", data={**fields, "token": token}, headers=foreign)
    ).status_code == 403
    assert (await browser.get("/console/do/raise", params={**fields, "token": token})).status_code == 200  # only asks


async def test_a_ledger_that_is_not_there_is_said(stored: AsyncEngine, stack: EmbeddedStack) -> None:
    browser = Browser(await console_app(stored, await Client.connect(stack.temporal_address)))
    await browser.log_in(ADMIN)
    page = (await browser.get(f"/console/{RAISE}")).text
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))
    answer = await browser.post("/console/do/raise", data={**fields, "reason": "launch"})
    assert answer.status_code == 503
    assert "The ledger does not answer" in answer.text


@pytest.mark.parametrize(("command_id", "unknown"), [("console-1", True), (None, False)])
async def test_what_nobody_knows_is_said(
    stored: AsyncEngine, monkeypatch: pytest.MonkeyPatch, command_id: str | None, unknown: bool
) -> None:
    async def unanswered(ledger: Ledger, change: RaiseCap, id_: str | None = None) -> CapState:
        raise LedgerNotFound("no ledger answered", command_id)

    monkeypatch.setattr(Ledger, "raise_cap", unanswered)
    browser = await logged_in(stored, ADMIN)
    page = (await browser.get(f"/console/{RAISE}")).text
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))
    answer = await browser.post("/console/do/raise", data={**fields, "reason": "launch"})
    assert answer.status_code == 503
    assert ("Nobody knows whether it was carried out" in answer.text) == unknown


async def test_with_signatures_the_command_to_sign_is_shown(stored: AsyncEngine) -> None:
    keys = {"ada": "A" * 43 + "="}
    admin = {"require_signature": True, "keys": keys}
    page = await opened(stored, RAISE.replace("launch", "it's%20time"), admin=admin)
    shown = "paymaster budget raise acme --window day --by 5.00 --until-window-end --reason &#39;it&#39;&#34;&#39;&#34;"
    assert shown in page
    assert "--sign-with YOUR-KEY.pem" in page
    assert "Raise the cap</button>" not in page
    browser = await logged_in(stored, ADMIN, admin=admin)
    token = re.findall(r'name="token" value="([0-9a-f]+)"', (await browser.get(f"/console/{RAISE}")).text)[0]
    fields = {"budget": "acme", "window": "day", "by": "5", "reason": "x", "once": "1", "token": token}
    assert (await browser.post("/console/do/raise", data=fields)).status_code == 403


def test_an_offer_is_a_fifth_of_the_cap() -> None:
    offers = {50: "$10.00", 7.3: "$1.00", 0.0001: "$0.01", 0: "$0.01", 1_234_567: "$200,000.00"}
    for cap, by in offers.items():
        (window_,) = shown(account("budget:a", window("day", cap, cap)), 0).windows
        assert window_.offer is not None
        assert window_.offer.by == by
    (plenty,) = shown(account("budget:a", window("day", 10, 7)), 0).windows
    (of_service,) = shown(account("service:a", window("day", 10, 10)), 0).windows
    assert plenty.offer is None
    assert of_service.offer is None
