"""send_alerts: to the webhook, one POST for each alert."""

import asyncio
import time
from datetime import timedelta

import httpx
from temporalio import activity
from temporalio.exceptions import ApplicationError

from paymaster.messages import Alerts, Delivery
from paymaster.observability.alert_buttons import AlertButtons
from paymaster.observability.alert_forms import AlertForm, document
from paymaster.providers.proxies import proxy_for
from paymaster.providers.retry_after import retry_after_ms
from paymaster.redaction import remember

WEBHOOK_ANSWERS_WITHIN_S = 5.0
STOPS_AFTER_S = 15.0
"""Before its time is over it must say what was taken, or a slow webhook would get the same alerts again and again."""
RETRY_AFTER_MAX = timedelta(seconds=60)
"""The longest Retry-After that is followed; after it the webhook is just asked again."""


class SendAlertsActivities:
    def __init__(self, webhook_url: str | None, form: AlertForm = "json", buttons: AlertButtons | None = None) -> None:
        """None: there is no webhook; alerts are in the log and in the database. `buttons` None: alerts have none."""
        if webhook_url is not None:
            remember(httpx.URL(webhook_url).raw_path.decode())  # whoever knows it may post; HTTP libraries log it
        self._webhook_url = webhook_url
        self._form: AlertForm = form
        self._buttons = buttons

    @activity.defn
    async def send_alerts(self, batch: Alerts) -> Delivery:
        """What the webhook took. Raises when it took none, so that it is left alone for a while."""
        if self._webhook_url is None:
            return Delivery(delivered=tuple(alert.sequence for alert in batch.alerts))
        sent: list[int] = []
        problem, again_after = "", None
        stop_at = time.monotonic() + STOPS_AFTER_S
        proxy = proxy_for(self._webhook_url)
        async with httpx.AsyncClient(
            timeout=WEBHOOK_ANSWERS_WITHIN_S, proxy=proxy, trust_env=False, verify=httpx.create_ssl_context()
        ) as client:
            for alert in batch.alerts:
                buttons = () if self._buttons is None else await self._buttons.of(batch, alert)
                content = document(self._form, batch, alert, buttons)
                try:
                    async with (
                        asyncio.timeout(2 * WEBHOOK_ANSWERS_WITHIN_S),  # for one that sends its head byte by byte
                        client.stream("POST", self._webhook_url, json=content) as response,  # its body is not read
                    ):
                        if not response.is_success:
                            problem = f"HTTP {response.status_code}"
                            again_after = _again_after(response)
                            break
                except (httpx.HTTPError, TimeoutError) as error:  # its own text has the URL, which is a secret
                    problem = type(error).__name__
                    break
                sent.append(alert.sequence)
                if time.monotonic() > stop_at:
                    break
        if problem and not sent:
            raise ApplicationError(
                f"the webhook does not take alerts: {problem}", type="WebhookFailed", next_retry_delay=again_after
            )
        return Delivery(delivered=tuple(sent))


def _again_after(response: httpx.Response) -> timedelta | None:
    """When the webhook takes the next message, if it says so: Slack takes one a second. None: as the policy says."""
    wait_ms = retry_after_ms(response.headers, int(time.time() * 1000))
    return min(timedelta(milliseconds=wait_ms), RETRY_AFTER_MAX) if wait_ms else None
