"""What a webhook gets: the fields for programs, and messages in which nothing that others named does anything."""

from typing import Any, cast

import pytest

from paymaster.messages import Alert, Alerts
from paymaster.observability.alert_forms import document

HOSTILE = "<!channel> <https://evil.example|free> [free](https://evil.example) **x** & <b>"
ALERT = Alert(sequence=7, at_ms=1_772_323_200_000, what="threshold", account="budget:acme", window="day", text=HOSTILE)
BATCH = Alerts(ledger="books", epoch="epoch", alerts=(ALERT,))


def test_json_has_every_field_and_an_id_that_stays() -> None:
    assert document("json", BATCH, ALERT) == {
        "what": "threshold",
        "account": "budget:acme",
        "window": "day",
        "text": f"Paymaster: {HOSTILE}",
        "sequence": 7,
        "at_ms": 1_772_323_200_000,
        "ledger": "books",
        "id": "epoch/7",
    }


@pytest.mark.parametrize(
    ("ledger", "command"),
    [
        ("default", "`paymaster budget raise acme --by USD --reason …`"),
        ("acme", "`paymaster budget raise acme --by USD --reason … --ledger acme`"),
    ],
)
def test_a_command_that_is_told_is_one_for_its_own_ledger(ledger: str, command: str) -> None:
    """Typed where another ledger is configured, it would raise the cap of a budget of that name there."""
    alert = ALERT.model_copy(update={"text": "3 calls wait: `paymaster budget raise acme --by USD --reason …`, `x`"})
    told = cast(dict[str, Any], document("json", BATCH.model_copy(update={"ledger": ledger}), alert))
    assert told["text"] == f"Paymaster: 3 calls wait: {command}, `x`"


def test_slack_gets_text_and_blocks_without_a_link_or_a_mention() -> None:
    message = cast(dict[str, Any], document("slack", BATCH, ALERT))
    assert message.keys() == {"text", "blocks"}, "Slack refuses what it does not know"
    section, context = message["blocks"]
    assert message["text"].startswith("Paymaster: &lt;!channel&gt; &lt;https://evil.example|free&gt;")
    assert message["text"].endswith("&amp; &lt;b&gt;")
    assert section["text"] == {"type": "mrkdwn", "text": f"*threshold*\n{message['text']}"}
    facts = "account budget:acme · window day · ledger books · at 2026-03-01 00:00:00 UTC"
    assert context == {"type": "context", "elements": [{"type": "mrkdwn", "text": facts}]}


@pytest.mark.parametrize("character", ["x", "<", "&"])
def test_a_slack_block_is_never_longer_than_slack_takes(character: str) -> None:
    long = ALERT.model_copy(update={"text": character * 5_000})
    message = cast(dict[str, Any], document("slack", BATCH, long))
    assert len(message["blocks"][0]["text"]["text"]) <= 3_000
    assert "<" not in message["text"]


def test_teams_gets_an_adaptive_card_whose_text_is_no_markdown() -> None:
    message = cast(dict[str, Any], document("teams", BATCH, ALERT))
    assert message["type"] == "message"
    (attachment,) = message["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    title, text, facts = card["body"]
    assert title["text"] == "Paymaster: threshold"
    assert text == {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": HOSTILE}]}
    assert {fact["title"]: fact["value"] for fact in facts["facts"]} == {
        "account": "budget:acme",
        "window": "day",
        "ledger": "books",
        "at": "2026-03-01 00:00:00 UTC",
    }


def test_an_alert_about_no_account_has_no_empty_fact() -> None:
    alert = Alert(sequence=1, at_ms=0, what="refused_message", text="raise_cap: nonsense")
    card = cast(dict[str, Any], document("teams", BATCH, alert))["attachments"][0]["content"]
    assert [fact["title"] for fact in card["body"][2]["facts"]] == ["ledger", "at"]
