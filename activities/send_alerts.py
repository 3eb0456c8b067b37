"""send_alerts: to the webhook, one POST for each alert, as JSON whose `text` Slack shows."""

import time
from typing import Any

import httpx
from temporalio import activity
from temporalio.exceptions import ApplicationError

from paymaster.messages import Alert, Alerts, Delivery

WEBHOOK_ANSWERS_WITHIN_S = 5.0
STOPS_AFTER_S = 15.0
"""Before its time is over it must say what was taken, or a slow webhook would get the same alerts again and again."""


class SendAlertsActivities:
    def __init__(self, webhook_url: str | None) -> None:
        """None: there is no webhook; alerts are in the log and in the database."""
        self._webhook_url = webhook_url

    @activity.defn
    async def send_alerts(self, batch: Alerts) -> Delivery:
        """What the webhook took. Raises when it took none, so that it is left alone for a while."""
        if self._webhook_url is None:
            return Delivery(delivered=tuple(alert.sequence for alert in batch.alerts))
        sent: list[int] = []
        problem = ""
        stop_at = time.monotonic() + STOPS_AFTER_S
        async with httpx.AsyncClient(timeout=WEBHOOK_ANSWERS_WITHIN_S) as client:
            for alert in batch.alerts:
                try:
                    response = await client.post(self._webhook_url, json=_document(batch, alert))
                    response.raise_for_status()
                except httpx.HTTPStatusError as error:  # its own text has the URL, which is a secret
                    problem = f"HTTP {error.response.status_code}"
                    break
                except httpx.HTTPError as error:
                    problem = type(error).__name__
                    break
                sent.append(alert.sequence)
                if time.monotonic() > stop_at:
                    break
        if problem and not sent:
            raise ApplicationError(f"the webhook does not take alerts: {problem}", type="WebhookFailed")
        return Delivery(delivered=tuple(sent))


def _document(batch: Alerts, alert: Alert) -> dict[str, Any]:
    return alert.model_dump(mode="json", exclude={"kind"}) | {
        "text": f"Paymaster: {alert.text}",
        "ledger": batch.ledger,
        "id": f"{batch.epoch}/{alert.sequence}",  # the same when it is sent again
    }
