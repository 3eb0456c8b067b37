"""The table `[gateway.slack]`: presses of buttons that Slack sends."""

from typing import Annotated

from pydantic import AfterValidator, Field

from paymaster.settings.kinds import KeyName, is_loopback
from paymaster.settings.table import Table

SLACK_HOST = "hooks.slack.com"


def _check_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    for host in hosts:
        if host != SLACK_HOST and not is_loopback(host) and not host.endswith((".slack.com", ".slack-gov.com")):
            raise ValueError(f"{host!r} is neither a host of Slack's nor this machine, for tests")
    return hosts


class GatewaySlackSettings(Table):
    """What the gateway takes from Slack at `/v1/paymaster/slack/actions`: presses of the buttons of alerts
    ([page](approvals.md))."""

    signing_secret_key: KeyName | None = None
    """The NAME of a key (see `[keys]`) with the signing secret of the Slack app ("Basic Information"), by which a
    request is known to be Slack's. None, the default: no presses are taken."""
    answers_to: Annotated[tuple[str, ...], AfterValidator(_check_hosts), Field(min_length=1)] = (SLACK_HOST,)
    """The hosts to which the gateway sends what became of a press. Default ["hooks.slack.com"]."""
