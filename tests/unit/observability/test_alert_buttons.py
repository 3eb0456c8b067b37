"""Which alerts have buttons or links, for whom, and how each form shows them."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from paymaster.keys.api_key import ApiKey, KeyUnavailable
from paymaster.messages import Alert, Alerts, RaiseOffer
from paymaster.observability.alert_buttons import AlertButtons, RaiseButton
from paymaster.observability.alert_forms import document
from paymaster.security.raise_tokens import read_token, token_of
from paymaster.settings import Settings
from paymaster.values.choices import AlertForm

USD = 10**9
OFFER = RaiseOffer(cap_nanos=10 * USD, window_ends_at_ms=4_070_908_800_000, by_nanos=(2 * USD, 5 * USD))
ALERT = Alert(
    sequence=7,
    at_ms=4_070_900_000_000,
    what="parked",
    account="budget:acme/team",
    window="day",
    text="calls are parked",
    offer=OFFER,
)
BATCH = Alerts(ledger="books", epoch="epoch", alerts=(ALERT,))
URL = "https://paymaster.example.com"


class Keys:
    async def get(self, name: str) -> ApiKey:
        if name != "buttons":
            raise KeyUnavailable(f"there is no key {name!r}")
        return ApiKey("a secret of both")


async def buttons(form: AlertForm, alert: Alert = ALERT, key: str = "buttons", **ada: object) -> Sequence[RaiseButton]:
    table = {"budgets": ["acme"], "usd_per_raise": "5", "usd_per_day": "5", "slack_users": ["U012AB"], "by_link": True}
    alerts = {"webhook_format": form, "buttons_key": key, "gateway_url": URL}
    settings = Settings.model_validate({"approvals": {"ada": table | ada}, "alerts": alerts})
    return await AlertButtons(settings, Keys()).of(BATCH, alert)


async def test_each_offer_is_a_button_that_says_what_it_does() -> None:
    found = await buttons("slack")
    message = cast(dict[str, Any], document("slack", BATCH, ALERT, found))
    *_, actions = message["blocks"]
    assert actions["type"] == "actions"
    assert [each["text"]["text"] for each in actions["elements"]] == ["Raise by $2.00", "Raise by $5.00"]
    assert len({each["action_id"] for each in actions["elements"]}) == 2
    question = actions["elements"][1]["confirm"]["text"]
    assert question["type"] == "plain_text"
    assert question["text"] == "Raise the cap of acme/team (day), $10.00, by $5.00 until 2099-01-01 00:00:00 UTC"
    read = [read_token(each["value"], "a secret of both", "books") for each in actions["elements"]]
    assert [each.by_nanos for each in read] == [2 * USD, 5 * USD]


async def test_a_card_of_teams_has_links() -> None:
    found = await buttons("teams")
    card = cast(dict[str, Any], document("teams", BATCH, ALERT, found))["attachments"][0]["content"]
    assert [(each["type"], each["title"]) for each in card["actions"]] == [
        ("Action.OpenUrl", "Raise by $2.00"),
        ("Action.OpenUrl", "Raise by $5.00"),
    ]
    assert card["actions"][0]["url"] == f"{URL}/v1/paymaster/approve/{found[0].token}"


async def test_a_plain_webhook_gets_links_and_amounts() -> None:
    found = await buttons("json")
    message = cast(dict[str, Any], document("json", BATCH, ALERT, found))
    assert [(each["by_usd"], each["until"]) for each in message["raises"]] == [
        ("2.000000000", "2099-01-01T00:00:00Z"),
        ("5.000000000", "2099-01-01T00:00:00Z"),
    ]
    assert "offer" not in message
    assert "raises" not in cast(dict[str, Any], document("json", BATCH, ALERT))


@pytest.mark.parametrize(
    ("form", "ada"),
    [
        ("slack", {"slack_users": []}),
        ("teams", {"by_link": False}),
        ("slack", {"budgets": ["other"]}),
        ("slack", {"usd_per_raise": "1"}),
    ],
)
async def test_what_nobody_could_press_is_not_shown(form: AlertForm, ada: dict[str, Any]) -> None:
    assert await buttons(form, **ada) == ()


async def test_only_what_somebody_may_raise_is_shown() -> None:
    assert [each.offered.by_nanos for each in await buttons("slack", usd_per_raise="4")] == [2 * USD]


async def test_without_their_secret_alerts_go_without_buttons(caplog: pytest.LogCaptureFixture) -> None:
    assert await buttons("slack", key="gone") == ()
    assert "an alert goes without buttons: there is no key 'gone'" in caplog.text


async def test_an_alert_that_offers_nothing_has_no_buttons() -> None:
    assert await buttons("slack", ALERT.model_copy(update={"offer": None})) == ()


async def test_a_token_of_one_worker_is_that_of_another() -> None:
    """An alert that is sent again has the same buttons."""
    (first, _), (again, _) = await buttons("slack"), await buttons("slack")
    assert first.token == again.token == token_of(first.offered, "a secret of both", made_at_ms=ALERT.at_ms)
