"""Alerts in the forms that webhooks take: our own JSON, Slack's, and the adaptive card of a Teams workflow."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import cast

from pydantic import JsonValue
from slack_sdk.models.blocks import ActionsBlock, ButtonElement, ConfirmObject, PlainTextObject

from paymaster.messages import Alert, Alerts
from paymaster.messages.temporal_names import DEFAULT_LEDGER
from paymaster.observability.alert_buttons import RaiseButton
from paymaster.security.raise_tokens import OfferedRaise
from paymaster.values.choices import AlertForm
from paymaster.values.money import format_usd, nanos_to_usd

RAISE_ACTION = "paymaster-raise"
"""What the ids of Slack's buttons begin with."""
_SLACK_CHARACTERS_MAX = 2_900
"""Slack refuses a text block above 3,000 characters (Block Kit reference, "section")."""
_SLACK_CONFIRM_MAX = 300
"""Slack refuses a longer text of a question ("confirmation dialog")."""
_COMMAND = re.compile(r"`(paymaster [^`]+)`")


def document(form: AlertForm, batch: Alerts, alert: Alert, buttons: Sequence[RaiseButton] = ()) -> JsonValue:
    """What is sent to the webhook for one of the batch's alerts.

    Many ledgers may tell one channel: the commands in the text of another than the default one's name it.
    """
    if batch.ledger != DEFAULT_LEDGER:
        named = _COMMAND.sub(rf"`\1 --ledger {batch.ledger}`", alert.text)
        alert = alert.model_copy(update={"text": named})
    return _FORMS[form](batch, alert, buttons)


def offer_in_words(offered: OfferedRaise) -> str:
    """One sentence, without its end."""
    cap = f"the cap of {offered.budget} ({offered.window}), {format_usd(offered.cap_nanos)}"
    return f"raise {cap}, by {format_usd(offered.by_nanos)} until {time_in_words(offered.window_ends_at_ms)}"


def time_in_words(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _json(batch: Alerts, alert: Alert, buttons: Sequence[RaiseButton]) -> JsonValue:
    """Every field, for programs. `text` is a sentence, which Slack would show; `id` is the same when it is sent
    again."""
    raises: list[JsonValue] = [
        {"by_usd": str(nanos_to_usd(each.offered.by_nanos)), "until": _iso(each.offered), "url": each.url}
        for each in buttons
    ]
    return alert.model_dump(mode="json", exclude={"kind", "offer"}) | {
        "text": f"Paymaster: {alert.text}",
        "ledger": batch.ledger,
        "id": f"{batch.epoch}/{alert.sequence}",
        **({"raises": raises} if raises else {}),
    }


def _iso(offered: OfferedRaise) -> str:
    return f"{datetime.fromtimestamp(offered.window_ends_at_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _slack(batch: Alerts, alert: Alert, buttons: Sequence[RaiseButton]) -> JsonValue:
    text = slack_text(f"Paymaster: {alert.text}")
    facts = " · ".join(f"{name} {slack_text(value)}" for name, value in _facts(batch, alert).items())
    return {
        "text": text,  # in notifications, and where blocks can't be shown
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": f"*{alert.what.replace('_', ' ')}*\n{text}"}},
            {"type": "context", "elements": [{"type": "mrkdwn", "text": facts}]},
            *([_slack_buttons(buttons)] if buttons else []),
        ],
    }


def _slack_buttons(buttons: Sequence[RaiseButton]) -> JsonValue:
    """Each asks once more before it does anything."""
    elements = [
        ButtonElement(
            text=_label(each),
            action_id=f"{RAISE_ACTION}-{number}",
            value=each.token,
            confirm=ConfirmObject(
                title="Raise the cap?",
                text=PlainTextObject(text=_capital(offer_in_words(each.offered))[:_SLACK_CONFIRM_MAX]),
                confirm="Raise",
                deny="Cancel",
            ),
        )
        for number, each in enumerate(buttons)
    ]
    return cast(dict[str, JsonValue], ActionsBlock(elements=elements).to_dict())


def _label(button: RaiseButton) -> str:
    return f"Raise by {format_usd(button.offered.by_nanos)}"


def _capital(sentence: str) -> str:
    return f"{sentence[0].upper()}{sentence[1:]}"


def slack_text(text: str) -> str:
    """Text in which Slack sees no links or mentions (`<!channel>`): the three characters that make them are escaped."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # Escaped, a character is up to five.
    return (
        escaped if len(escaped) <= _SLACK_CHARACTERS_MAX else slack_text(text[: _SLACK_CHARACTERS_MAX // 5 - 1] + "…")
    )


def _teams(batch: Alerts, alert: Alert, buttons: Sequence[RaiseButton]) -> JsonValue:
    """What the trigger "When a Teams webhook request is received" takes: a message with one adaptive card."""
    facts: list[JsonValue] = [{"title": name, "value": value} for name, value in _facts(batch, alert).items()]
    links: list[JsonValue] = [{"type": "Action.OpenUrl", "title": _label(each), "url": each.url} for each in buttons]
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
                    **({"actions": links} if links else {}),
                },
            }
        ],
    }


def _facts(batch: Alerts, alert: Alert) -> dict[str, str]:
    return {
        **({"account": alert.account} if alert.account else {}),
        **({"window": alert.window} if alert.window else {}),
        "ledger": batch.ledger,
        "at": time_in_words(alert.at_ms),
    }


_Form = Callable[[Alerts, Alert, Sequence[RaiseButton]], JsonValue]
_FORMS: Mapping[AlertForm, _Form] = {"json": _json, "slack": _slack, "teams": _teams}
