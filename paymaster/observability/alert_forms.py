"""Alerts in the forms that webhooks take: our own JSON, Slack's, and the adaptive card of a Teams workflow."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from pydantic import JsonValue

from paymaster.messages import Alert, Alerts
from paymaster.values.choices import AlertForm

_SLACK_CHARACTERS_MAX = 2_900
"""Slack refuses a text block above 3,000 characters (Block Kit reference, "section")."""


def document(form: AlertForm, batch: Alerts, alert: Alert) -> JsonValue:
    """What is sent to the webhook for one of the batch's alerts."""
    return _FORMS[form](batch, alert)


def _json(batch: Alerts, alert: Alert) -> JsonValue:
    """Every field, for programs. `text` is a sentence, which Slack would show; `id` is the same when it is sent
    again."""
    return alert.model_dump(mode="json", exclude={"kind"}) | {
        "text": f"Paymaster: {alert.text}",
        "ledger": batch.ledger,
        "id": f"{batch.epoch}/{alert.sequence}",
    }


def _slack(batch: Alerts, alert: Alert) -> JsonValue:
    text = _slack_text(f"Paymaster: {alert.text}")
    facts = " · ".join(f"{name} {_slack_text(value)}" for name, value in _facts(batch, alert).items())
    return {
        "text": text,  # in notifications, and where blocks can't be shown
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": f"*{alert.what.replace('_', ' ')}*\n{text}"}},
            {"type": "context", "elements": [{"type": "mrkdwn", "text": facts}]},
        ],
    }


def _slack_text(text: str) -> str:
    """Text in which Slack sees no links or mentions (`<!channel>`): the three characters that make them are escaped."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # Escaped, a character is up to five.
    return (
        escaped if len(escaped) <= _SLACK_CHARACTERS_MAX else _slack_text(text[: _SLACK_CHARACTERS_MAX // 5 - 1] + "…")
    )


def _teams(batch: Alerts, alert: Alert) -> JsonValue:
    """What the trigger "When a Teams webhook request is received" takes: a message with one adaptive card."""
    facts: list[JsonValue] = [{"title": name, "value": value} for name, value in _facts(batch, alert).items()]
    return {
        "type": "message",
        "attachments": [
            {
                "contentType": "application/vnd.microsoft.card.adaptive",
                "content": {
                    "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                    "type": "AdaptiveCard",
                    "version": "1.4",
                    "body": [
                        {
                            "type": "TextBlock",
                            "text": f"Paymaster: {alert.what.replace('_', ' ')}",
                            "weight": "Bolder",
                            "size": "Medium",
                            "wrap": True,
                        },
                        # Not a TextBlock, which reads Markdown: what others named must not become a link.
                        {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": alert.text}]},
                        {"type": "FactSet", "facts": facts},
                    ],
                },
            }
        ],
    }


def _facts(batch: Alerts, alert: Alert) -> dict[str, str]:
    return {
        **({"account": alert.account} if alert.account else {}),
        **({"window": alert.window} if alert.window else {}),
        "ledger": batch.ledger,
        "at": f"{datetime.fromtimestamp(alert.at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC",
    }


_FORMS: Mapping[AlertForm, Callable[[Alerts, Alert], JsonValue]] = {"json": _json, "slack": _slack, "teams": _teams}
