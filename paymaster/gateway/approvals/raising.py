"""A press of a button or a link, carried out by the ledger, which decides, and told in words."""

import logging
from typing import Literal, NamedTuple

from paymaster.errors import AdminRefused, LedgerNotFound
from paymaster.keys.api_key import KeyUnavailable
from paymaster.ledger.approving import Approvers, CannotApprove, Keys, approval_id
from paymaster.ledger.handle import Ledger
from paymaster.observability.alert_buttons import may_give
from paymaster.observability.alert_forms import time_in_words
from paymaster.security.raise_tokens import OfferedRaise, TokenRefused, read_token
from paymaster.values.money import format_usd

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What became of a press."""

    kind: Literal["raised", "refused", "unknown"]
    """`unknown`: nobody knows whether it was raised; asked again, it is raised once."""
    text: str
    """For whoever pressed."""


class Raising:
    def __init__(self, approvers: Approvers, ledger: Ledger, buttons_key: str | None, keys: Keys) -> None:
        """`buttons_key` is the name of the secret that buttons and links are signed with. None: there are none."""
        self._approvers = approvers
        self._ledger = ledger
        self._buttons_key = buttons_key
        self._keys = keys
        self._of_slack = {user: name for name, each in approvers.tables.items() for user in each.slack_users}

    async def offered(self, token: str) -> OfferedRaise:
        """What a token offers. Raises TokenRefused, and KeyUnavailable without the secret."""
        if self._buttons_key is None:
            raise TokenRefused("this gateway has no alerts.buttons_key")
        secret = (await self._keys.get(self._buttons_key)).reveal()
        return read_token(token, secret, self._ledger.name)

    def approver_in_slack(self, user: str) -> str | None:
        """In whose name a user of Slack presses."""
        return self._of_slack.get(user)

    def approver_by_link(self, offered: OfferedRaise) -> str | None:
        """In whose name a link raises, the first one by name."""
        tables = self._approvers.tables
        return next((name for name in sorted(tables) if tables[name].by_link and may_give(tables[name], offered)), None)

    async def press_in_slack(self, token: str, user: str) -> Outcome:
        """Of a button, by a user of Slack."""
        try:
            offered = await self.offered(token)
        except TokenRefused as error:
            return Outcome("refused", f"Not raised: the button is not good: {error}.")
        except KeyUnavailable as error:
            logger.error("a press of a button: %s", error)
            return Outcome("refused", "Not raised: the gateway lacks the secret of buttons; its log says more.")
        approver = self.approver_in_slack(user)
        if approver is None:
            return Outcome("refused", f"Not raised: no approver has {user} among slack_users in [approvals].")
        return await self.carry_out(offered, approver, f"Slack, {user}", "calls are parked")

    async def carry_out(self, offered: OfferedRaise, approver: str, where: str, reason: str) -> Outcome:
        """Once for each alert, however often it is asked for."""
        try:
            command = await self._approvers.raise_cap(
                offered.account,
                offered.window,
                offered.by_nanos,
                approver=approver,
                where=where,
                reason=reason,
                nonce=offered.nonce,
                cap_nanos=offered.cap_nanos,
                window_ends_at_ms=offered.window_ends_at_ms,
                epoch=offered.epoch,
            )
            raised = await self._ledger.raise_cap(command, approval_id(command))
        except CannotApprove as error:
            logger.error("a raise by %s cannot be given: %s", approver, error)
            return Outcome("refused", "Not raised: the gateway cannot sign for this approver; its log says more.")
        except AdminRefused as error:
            return Outcome("refused", f"Not raised: {error}.")
        except LedgerNotFound as error:
            logger.error("a raise by %s: %s", approver, error)
            return Outcome("unknown", "The ledger does not answer. Press again: it raises once, however often.")
        by, cap = format_usd(offered.by_nanos), format_usd(raised.cap_nanos or 0)
        until = time_in_words(offered.window_ends_at_ms)
        text = f"{approver} raised the cap of {offered.budget} ({offered.window}) by {by} to {cap}, until {until}."
        return Outcome("raised", text)
