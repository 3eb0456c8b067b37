"""A call is parked, Slack shows a button, somebody who may presses it, and the call goes on: real processes, signed."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from console_pages import APPROVER, KEYS
from console_people import logged_in
from counting_server import CountingServer, Webhook
from gateway_process import running_gateway
from paymaster_process import Databases, Site, configuration, results_of, running_site, until
from slack_sdk.signature import SignatureVerifier

from paymaster import LLMRequest, Outcome
from paymaster.client import generate, start
from paymaster.devstack import EmbeddedStack
from paymaster.messages import RaiseCap
from paymaster.security.raise_tokens import read_token, token_of
from paymaster.security.signing_key import SigningKey
from paymaster.values.money import TokenUsage

pytestmark = pytest.mark.timeout(120)
SLACK_SECRET, BUTTONS_SECRET = "the-signing-secret-of-the-app", "shared-by-workers-and-gateways"
CALL = LLMRequest(route="approving", budget="acme", prompt="question")
"""It costs $0.0015: one fits into the cap of $0.002."""
SLACK = "/v1/paymaster/slack/actions"


@dataclass(frozen=True)
class Approving:
    site: Site
    slack: Webhook
    gateway: httpx.AsyncClient

    async def shown(self, number: int) -> list[str]:
        """The values of the buttons of the alert of this number that has some."""

        def messages() -> list[dict[str, Any]]:
            return [each for each in self.slack.took if self._buttons(each)]

        await until(lambda: len(messages()) >= number, "Slack shows an alert with buttons")
        return self._buttons(messages()[number - 1])

    def _buttons(self, message: dict[str, Any]) -> list[str]:
        actions = [block for block in message.get("blocks", ()) if block["type"] == "actions"]
        return [each["value"] for block in actions for each in block["elements"]]

    async def press(self, token: str, user: str = "U0ADA1", **more: Any) -> httpx.Response:
        body = pressed(token, user, self.slack.url)
        return await self.gateway.post(SLACK, content=body, headers=signed(body, **more))

    async def told(self, words: str) -> dict[str, Any]:
        """The answer to a press that has these words."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            found[:] = [each for each in self.slack.took if words in each.get("text", "")]
            return bool(found)

        await until(is_there, f"Slack is told {words!r}")
        return found[-1]

    async def cap(self) -> int | None:
        return (await self.site.balance("budget:acme", "month")).cap_nanos


def pressed(token: str, user: str, response_url: str) -> str:
    payload = {
        "type": "block_actions",
        "user": {"id": user},
        "actions": [{"type": "button", "action_id": "paymaster-raise-0", "value": token}],
        "response_url": response_url,
        "message": {"blocks": []},
    }
    return urlencode({"payload": json.dumps(payload)})


def signed(body: str, secret: str = SLACK_SECRET, ago_s: int = 0, now_s: int | None = None) -> dict[str, str]:
    """The headers of a press that Slack signed `ago_s` seconds before `now_s`, by the clock if that is not given."""
    at = str((int(time.time()) if now_s is None else now_s) - ago_s)
    signature = SignatureVerifier(secret).generate_signature(timestamp=at, body=body)
    return {"x-slack-request-timestamp": at, "x-slack-signature": str(signature)}


@pytest.fixture(scope="module")
async def approving(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Approving]:
    service = server.service("approving")
    service.usage = lambda request: TokenUsage(input_tokens=1_100, output_tokens=100)
    keys = {name: SigningKey.create(module_folder / f"{name}.pem") for name in ("alice", "ada", "oncall", "otto")}
    environment = {"PAYMASTER_KEY_SLACK": SLACK_SECRET, "PAYMASTER_KEY_BUTTONS": BUTTONS_SECRET} | {
        f"PAYMASTER_KEY_{name.upper()}": (module_folder / f"{name}.pem").read_text().splitlines()[1] for name in keys
    }
    async with Webhook() as slack:
        await slack.listen()
        budgets = {"acme": {"cap_usd": {"month": "0.002"}, "alert_at": []}, "desk": {"cap_usd": {"month": "1"}}}
        tables = configuration([service], budgets=budgets)
        tables["console"] = {"keys": KEYS}
        tables["alerts"] = {"webhook_url": slack.url, "webhook_format": "slack", "buttons_key": "buttons"}
        tables["admin"] = {"require_signature": True, "keys": {"alice": keys["alice"].public}}
        limits = {"budgets": ["acme"], "usd_per_raise": "0.002", "usd_per_day": "0.0025"}
        tables["approvals"] = {
            name: limits | {"public_key": keys[name].public, "signing_key": name, **more}
            for name, more in (
                ("ada", {"slack_users": ["U0ADA1"]}),
                ("oncall", {"by_link": True}),
                ("otto", {"budgets": ["desk"]}),
            )
        }
        tables["gateway"] = {"slack": {"signing_secret_key": "slack", "answers_to": ["127.0.0.1"]}}
        url = await databases.create()
        async with (
            running_site(
                stack.temporal_address, url, module_folder, tables, workers=1, environment=environment
            ) as site,
            running_gateway(site) as gateway,
            httpx.AsyncClient(base_url=gateway.url, timeout=30) as http,
        ):
            yield Approving(site, slack, http)


async def test_a_parked_call_goes_on_by_a_button(approving: Approving) -> None:
    """Forged, replayed, late and doubled presses raise nothing; a press raises once, whoever presses how often."""
    site = approving.site
    await generate(site.client, CALL)
    parked = await start(site.client, CALL)
    (token,) = await approving.shown(1)
    offered = read_token(token, BUTTONS_SECRET, site.ledger.name)

    assert (await approving.press(token, secret="forged")).status_code == 401
    assert (await approving.press(token, ago_s=301)).status_code == 401
    assert (await approving.press(token, "U0EVE1")).status_code == 200
    await approving.told("no approver has U0EVE1")
    now_ms = int(time.time() * 1_000)
    large = offered.model_copy(update={"by_nanos": 10**9})
    await approving.press(token_of(large, "forged", made_at_ms=now_ms))
    await approving.told("was not made here")
    await approving.press(token_of(large, BUTTONS_SECRET, made_at_ms=now_ms))
    await approving.told("ada may raise by $0.002 at once, and not by $1.00")
    late = offered.model_copy(update={"window_ends_at_ms": offered.window_ends_at_ms - 40 * 86_400_000})
    await approving.press(token_of(late, BUTTONS_SECRET, made_at_ms=now_ms))
    await approving.told("this was for the month of budget:acme that ended at")
    assert await approving.cap() == 2_000_000

    body = pressed(token, "U0ADA1", approving.slack.url)
    now_s = int(time.time())  # read once: a press signed in the second of another is that press, sent again
    first = signed(body, now_s=now_s)
    began = time.monotonic()
    assert (await approving.gateway.post(SLACK, content=body, headers=first)).status_code == 200
    assert time.monotonic() - began < 3.0
    again = [approving.press(token, ago_s=ago_s, now_s=now_s) for ago_s in (1, 2, 3)]
    assert [each.status_code for each in await asyncio.gather(*again)] == [200, 200, 200]
    assert (await approving.gateway.post(SLACK, content=body, headers=first)).status_code == 409
    (result,) = await results_of([parked])
    assert result.outcome is Outcome.COMPLETED
    said = await approving.told("ada raised the cap of acme (month) by $0.002 to $0.004, until")
    assert said["replace_original"] is True
    assert await approving.cap() == 4_000_000

    async def stored() -> bool:
        return len(await site.cap_changes()) == 1

    await until(stored, "the raise is kept")
    (row,) = await site.cap_changes()
    assert (row["who"], row["until_window_end"], row["reason"]) == ("ada (Slack, U0ADA1)", True, "calls are parked")
    assert "ada (Slack, U0ADA1)" in (await site.command("budget", "log")).output


async def test_a_parked_call_goes_on_by_a_link(approving: Approving) -> None:
    """To open it raises nothing, to send its form twice raises once; the approver's day has its end."""
    site = approving.site
    parked = await start(site.client, CALL)
    (token,) = await approving.shown(2)
    await approving.press(token)
    await approving.told("ada has raised by $0.002 today and may by $0.0025: $0.0005 is left")
    link = f"/v1/paymaster/approve/{token}"
    page = await approving.gateway.get(link)
    assert "Raise the cap of acme (month), $0.004, by $0.002 until" in page.text
    assert await approving.cap() == 4_000_000
    answers = [await approving.gateway.post(link, data={"name": "Ann"}) for _ in range(2)]
    assert [each.status_code for each in answers] == [200, 200]
    assert "oncall raised the cap of acme (month) by $0.002 to $0.006, until" in answers[1].text
    (result,) = await results_of([parked])
    assert result.outcome is Outcome.COMPLETED
    assert await approving.cap() == 6_000_000
    other = await approving.gateway.post(link, data={"name": "Ben"})
    assert other.status_code == 409
    assert "oncall (link, from 127.0.0.1) raised budget:acme by $0.002 with it at" in other.text


async def test_a_press_after_an_admins_raise_changes_nothing(approving: Approving) -> None:
    site = approving.site
    await generate(site.client, CALL)
    parked = await start(site.client, CALL)
    (token,) = await approving.shown(3)
    change = RaiseCap(account="budget:acme", window="month", by="0.01", reason="more")
    alice = SigningKey.read(site.folder / "alice.pem")
    epoch = await site.ledger.epoch()
    await site.ledger.raise_cap(alice.sign("raise_cap", change, by="alice", ledger=site.ledger.name, epoch=epoch))
    await results_of([parked])
    answer = await approving.gateway.post(f"/v1/paymaster/approve/{token}")
    assert answer.status_code == 409
    assert "the cap of budget:acme (month) is $0.016 now and was $0.006: somebody changed it" in answer.text
    assert await approving.cap() == 16_000_000


async def test_an_approver_raises_in_the_console(approving: Approving) -> None:
    """Signed by the gateway, within the limits that the ledger counts, and until the window ends."""
    asked = "do/raise?budget={budget}&window=month&by={by}&reason=night"
    url, site = str(approving.gateway.base_url).rstrip("/"), approving.site
    async with logged_in(url, APPROVER) as otto:

        async def is_copied() -> bool:
            return "desk" in await otto.open("budgets")

        await until(is_copied, "the ledger has copied how it stands")
        for_good = await otto.http.get(f"/console/{asked.format(budget='desk', by='0.001')}")
        assert (for_good.status_code, "raises caps until their window ends" in for_good.text) == (400, True)
        await otto.do(f"{asked.format(budget='desk', by='0.002')}&lapses=1")
        assert (await site.balance("budget:desk", "month")).cap_nanos == 1_002_000_000
        for budget, by, why in (
            ("desk", "0.003", "otto may raise by $0.002 at once"),
            ("desk", "0.001", "otto has raised by $0.002 today and may by $0.0025"),
            ("acme", "0.001", "otto may raise caps of desk and below"),
        ):
            status, page = await otto.confirm(f"{asked.format(budget=budget, by=by)}&lapses=1")
            assert (status, why in page) == (409, True), page
    assert (await site.balance("budget:desk", "month")).cap_nanos == 1_002_000_000
    assert "otto (console)" in (await site.command("budget", "log")).output
