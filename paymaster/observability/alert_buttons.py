"""The raises that an alert offers, as buttons and links for those who may give them."""

import logging
from typing import NamedTuple, Protocol

from paymaster.keys.api_key import ApiKey, KeyUnavailable
from paymaster.messages import Alert, Alerts
from paymaster.security.raise_tokens import OfferedRaise, offered_raises, token_of
from paymaster.settings import Settings
from paymaster.settings.approvals import ApproverSettings
from paymaster.values.budget_path import is_within

APPROVE_PATH = "/v1/paymaster/approve/"
"""Of a gateway, before the token."""
logger = logging.getLogger(__name__)


class RaiseButton(NamedTuple):
    """One raise that an alert offers."""

    offered: OfferedRaise
    token: str
    """The value of Slack's button."""
    url: str | None
    """The link for others. None: Slack shows buttons."""


class Keys(Protocol):
    """Where the secret is that buttons are signed with."""

    async def get(self, name: str) -> ApiKey:
        """Raises KeyUnavailable."""
        ...


class AlertButtons:
    def __init__(self, settings: Settings, keys: Keys) -> None:
        self._alerts = settings.alerts
        self._approvers = tuple(settings.approvals.values())
        self._keys = keys

    async def of(self, batch: Alerts, alert: Alert) -> tuple[RaiseButton, ...]:
        """Empty: nobody could press one. An alert without its buttons is better than none, so the log says what is
        missing."""
        offered = [each for each in offered_raises(batch.ledger, batch.epoch, alert) if self._is_for_somebody(each)]
        name, base = self._alerts.buttons_key, self._alerts.gateway_url
        if not offered or name is None or (base is None and not self._in_slack):
            return ()
        try:
            secret = (await self._keys.get(name)).reveal()
        except KeyUnavailable as error:
            logger.warning("an alert goes without buttons: %s", error)
            return ()
        tokens = [(each, token_of(each, secret, made_at_ms=alert.at_ms)) for each in offered]
        return tuple(
            RaiseButton(each, token, None if self._in_slack else f"{base}{APPROVE_PATH}{token}")
            for each, token in tokens
        )

    @property
    def _in_slack(self) -> bool:
        return self._alerts.webhook_format == "slack"

    def _is_for_somebody(self, offered: OfferedRaise) -> bool:
        return any(
            bool(each.slack_users) if self._in_slack else each.by_link
            for each in self._approvers
            if may_give(each, offered)
        )


def may_give(approver: ApproverSettings, offered: OfferedRaise) -> bool:
    """Whether it is worth asking the ledger, which decides."""
    within = any(is_within(offered.budget, own) for own in approver.budgets)
    return within and offered.by_nanos <= approver.usd_per_raise
