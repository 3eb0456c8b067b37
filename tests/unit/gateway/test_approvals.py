"""Presses of buttons and links at the gateway: whose they are, how often, and what a page does by itself."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from counting_server import Webhook
from slack_sdk.signature import SignatureVerifier
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from temporalio.client import Client

from paymaster.gateway.approvals.links import ApproveLinks
from paymaster.gateway.approvals.raising import Outcome, Raising
from paymaster.gateway.approvals.slack import SlackActions
from paymaster.gateway.body_room import BodyRoom, RoomForBodies
from paymaster.keys.api_key import ApiKey, KeyUnavailable
from paymaster.ledger.approving import Approvers
from paymaster.ledger.handle import Ledger
from paymaster.security.raise_tokens import TOKEN_LIVES_MS, OfferedRaise, token_of
from paymaster.settings import Settings

SECRETS = {"slack": "the signing secret of the app", "buttons": "a secret of workers and gateways"}
ENDS_AT_MS = 4_070_908_800_000
OFFERED = OfferedRaise(
    ledger="default",
    epoch="epoch",
    alert=7,
    account="budget:acme",
    window="day",
    by_nanos=5 * 10**9,
    cap_nanos=10 * 10**9,
    window_ends_at_ms=ENDS_AT_MS,
)
SLACK, LINK = "/v1/paymaster/slack/actions", "/v1/paymaster/approve/"


class Keys:
    async def get(self, name: str) -> ApiKey:
        if name not in SECRETS:
            raise KeyUnavailable(f"there is no key {name!r}")
        return ApiKey(SECRETS[name])


class Recorded(Raising):
    """Answers presses without a ledger, and keeps them."""

    def __init__(self, settings: Settings, client: Client) -> None:
        ledger = Ledger(client)
        super().__init__(
            Approvers(settings.approvals, Keys(), ledger.name), ledger, settings.alerts.buttons_key, Keys()
        )
        self.outcome = Outcome("raised", "ada raised the cap of acme <day>.")
        self.given: list[tuple[OfferedRaise, str, str, str]] = []

    async def carry_out(self, offered: OfferedRaise, approver: str, where: str, reason: str) -> Outcome:
        self.given.append((offered, approver, where, reason))
        return self.outcome


class Front:
    """What serves presses, and the receiver that stands for Slack."""

    def __init__(self, raising: Recorded, settings: Settings, slack: Webhook) -> None:
        self.raising, self.slack, self.now_s = raising, slack, time.time()
        self.made_at_ms = int(self.now_s * 1_000)
        self.slack_actions = SlackActions(settings.gateway, raising, Keys(), lambda: self.now_s)
        routes = [*self.slack_actions.routes(), *ApproveLinks(settings.gateway, raising).routes()]
        self.http = served(routes)

    async def press(
        self, token: str | None = None, user: str = "U012AB", *, headers: dict[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        body = self.body(token, user, **more)
        return await self.http.post(SLACK, content=body, headers=self.signed(body) if headers is None else headers)

    def body(self, token: str | None = None, user: str = "U012AB", **more: Any) -> str:
        action = {"type": "button", "action_id": "paymaster-raise-0", "value": token or self.token()}
        section = {"type": "section", "text": {"type": "mrkdwn", "text": "parked"}}
        payload = {
            "type": "block_actions",
            "user": {"id": user, "username": "ada"},
            "actions": [action],
            "response_url": self.slack.url,
            "message": {"blocks": [section, {"type": "actions", "elements": []}]},
        }
        return urlencode({"payload": json.dumps(payload | more)})

    def signed(self, body: str, *, secret: str = SECRETS["slack"], at_s: float | None = None) -> dict[str, str]:
        at = str(int(self.now_s if at_s is None else at_s))
        signature = SignatureVerifier(secret).generate_signature(timestamp=at, body=body)
        return {"x-slack-request-timestamp": at, "x-slack-signature": str(signature)}

    def token(self, offered: OfferedRaise = OFFERED, secret: str = SECRETS["buttons"], age_ms: int = 0) -> str:
        return token_of(offered, secret, made_at_ms=self.made_at_ms - age_ms)


def served(routes: list[Route]) -> httpx.AsyncClient:
    app = Starlette(routes=routes, middleware=[Middleware(RoomForBodies, room=BodyRoom(10_000_000))])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway.test")


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    ada = {"budgets": ["acme"], "usd_per_raise": "5", "usd_per_day": "5", "slack_users": ["U012AB"]}
    oncall = {"budgets": ["acme"], "usd_per_raise": "5", "usd_per_day": "5", "by_link": True}
    settings = Settings.model_validate(
        {
            "approvals": {"ada": ada, "oncall": oncall},
            "alerts": {"buttons_key": "buttons", "gateway_url": "http://127.0.0.1:1"},
            "gateway": {"slack": {"signing_secret_key": "slack", "answers_to": ["hooks.slack.com", "127.0.0.1"]}},
        }
    )
    async with Webhook() as slack:
        await slack.listen()
        front = Front(Recorded(settings, await Client.connect("127.0.0.1:1", lazy=True)), settings, slack)
        async with front.http:
            yield front


async def test_a_press_is_taken_and_its_outcome_told_to_everybody(front: Front) -> None:
    """The answer takes the buttons' place, and nothing that others named is markup in it."""
    answer = await front.press()
    assert (answer.status_code, answer.content) == (200, b"")
    assert front.raising.given == [(OFFERED, "ada", "Slack, U012AB", "calls are parked")]
    (told,) = front.slack.took
    assert told["replace_original"] is True
    assert [block["type"] for block in told["blocks"]] == ["section", "section"]
    assert told["text"] == told["blocks"][-1]["text"]["text"] == "ada raised the cap of acme &lt;day&gt;."


async def test_what_was_not_raised_only_who_pressed_sees(front: Front) -> None:
    front.raising.outcome = Outcome("refused", "Not raised: too much.")
    await front.press()
    assert front.slack.took == [
        {"response_type": "ephemeral", "replace_original": False, "text": "Not raised: too much."}
    ]


async def test_a_press_that_slack_did_not_sign_does_nothing(front: Front) -> None:
    body = front.body()
    good = front.signed(body)
    for headers in (
        {},
        front.signed(body, secret="another secret"),
        front.signed(front.body(user="U999ZZ")),
        front.signed(body, at_s=front.now_s - 301),
        front.signed(body, at_s=front.now_s + 301),
        good | {"x-slack-request-timestamp": "soon"},
        {"x-slack-signature": good["x-slack-signature"]},
    ):
        assert (await front.press(headers=headers)).status_code == 401
    strange = {b"x-slack-request-timestamp": str(int(front.now_s)).encode(), b"x-slack-signature": b"v0=\xe4"}
    for content, headers in ((b"\xff", good), (body.encode(), strange)):
        assert (await front.http.post(SLACK, content=content, headers=headers)).status_code == 401
    assert (front.raising.given, front.slack.took) == ([], [])


async def test_a_request_that_comes_again_is_refused(front: Front) -> None:
    """Also later, while its time is still good, and among others."""
    headers = front.signed(front.body())
    assert (await front.press(headers=headers)).status_code == 200
    assert (await front.press(headers=headers)).status_code == 409
    front.now_s += 290
    assert (await front.press(user="U999ZZ")).status_code == 200
    assert (await front.press(headers=headers)).status_code == 409
    front.now_s += 20
    assert (await front.press(headers=headers)).status_code == 401
    assert len(front.raising.given) == 1


async def test_a_request_has_one_signature(front: Front) -> None:
    """Two, of which one is remembered and the other one checked, would have it taken again and again."""
    headers = front.signed(front.body())
    for number in range(2):
        twice = [("x-slack-signature", f"v0={number}"), *headers.items()]
        assert (await front.http.post(SLACK, content=front.body(), headers=twice)).status_code == 401
    assert front.raising.given == []


async def test_a_user_who_is_no_approver_is_told_so(front: Front) -> None:
    assert (await front.press(user="U999ZZ")).status_code == 200
    assert front.raising.given == []
    assert "no approver has U999ZZ among slack_users" in front.slack.took[0]["text"]


async def test_a_button_that_was_not_made_here_is_told_so(front: Front) -> None:
    for token, words in (
        (front.token(secret="another"), "was not made here"),
        (front.token(age_ms=TOKEN_LIVES_MS + 2_000), "was good for 24 hours"),
        (front.token(OFFERED.model_copy(update={"ledger": "staging"})), "of the ledger 'staging'"),
    ):
        front.now_s += 1
        assert (await front.press(token)).status_code == 200
        assert words in front.slack.took[-1]["text"]
    assert front.raising.given == []


@pytest.mark.parametrize(
    "more",
    [
        {"type": "view_submission"},
        {"actions": []},
        {"actions": [{"action_id": "other", "value": "x"}]},
        {"user": {}},
        {"response_url": "https://evil.example/"},
        {"response_url": "https://hooks.slack.com.evil.example/"},
        {"response_url": "http://hooks.slack.com/actions/1"},
        {"response_url": "https://hooks.slack.com@evil.example/"},
    ],
    ids=str,
)
async def test_what_is_no_press_of_ours_is_refused(front: Front, more: dict[str, Any]) -> None:
    assert (await front.press(**more)).status_code == 400
    assert front.raising.given == []


async def test_a_large_body_is_not_read(front: Front) -> None:
    answer = await front.http.post(SLACK, content=b"x" * 300_000, headers=front.signed("x"))
    assert answer.status_code == 413


async def test_a_gateway_without_slack_takes_no_press(front: Front) -> None:
    plain = SlackActions(Settings().gateway, front.raising, Keys())
    async with served(plain.routes()) as http:
        body = front.body()
        assert (await http.post(SLACK, content=body, headers=front.signed(body))).status_code == 404


async def test_to_open_a_link_raises_nothing(front: Front) -> None:
    """Chat programs and mail filters open links, and search engines might."""
    url = LINK + front.token()
    for method in ("GET", "HEAD", "GET"):
        page = await front.http.request(method, url)
        assert page.status_code == 200
    assert (
        "Raise the cap of acme (day), $10.00, by $5.00 until 2099-01-01 00:00:00 UTC, in the name of oncall?"
        in page.text
    )
    assert front.raising.given == []
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    for part in ("default-src 'none'", "frame-ancestors 'none'", "form-action 'self'"):
        assert part in page.headers["content-security-policy"]
    assert "<script" not in page.text


async def test_the_form_of_a_link_raises_and_says_by_whom(front: Front) -> None:
    page = await front.http.post(LINK + front.token(), data={"name": "Ann\n<b>" + "x" * 100})
    assert page.status_code == 200
    ((offered, approver, where, reason),) = front.raising.given
    assert (offered, approver, where) == (OFFERED, "oncall", "link, from 127.0.0.1")
    assert reason == "calls are parked; whoever it was wrote: Ann<b>" + "x" * 54
    assert "ada raised the cap of acme &lt;day&gt;." in page.text


async def test_what_a_link_does_not_do_is_said(front: Front) -> None:
    small = OFFERED.model_copy(update={"by_nanos": 6 * 10**9})
    other = OFFERED.model_copy(update={"account": "budget:other"})
    for token, words in (
        (front.token(secret="another"), "was not made here"),
        ("nonsense", "was not made here"),
        (front.token(age_ms=TOKEN_LIVES_MS + 2_000), "was good for 24 hours"),
        (front.token(small), "No approver of [approvals] has by_link"),
        (front.token(other), "No approver of [approvals] has by_link"),
    ):
        for method in ("GET", "POST"):
            page = await front.http.request(method, LINK + token)
            assert page.status_code == 403
            assert words in page.text
    assert front.raising.given == []
    front.raising.outcome = Outcome("refused", "Not raised: ada raised it.")
    assert (await front.http.post(LINK + front.token())).status_code == 409
    front.raising.outcome = Outcome("unknown", "The ledger does not answer.")
    assert (await front.http.post(LINK + front.token())).status_code == 503
