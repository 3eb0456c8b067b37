"""The tables `[approvals.NAME]`: who may raise caps by the buttons and links of alerts, and in the console."""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from paymaster.settings.kinds import BudgetPath, KeyName, PublicKey, each_once
from paymaster.settings.problems import Location
from paymaster.settings.table import Table
from paymaster.values.choices import AlertForm
from paymaster.values.limits import OFFERS_MAX
from paymaster.values.money import UsdAsNanos, format_usd

SlackUser = Annotated[str, Field(pattern=r"^[UW][A-Z0-9]{5,30}$")]


class ApproverSettings(Table):
    """Who may raise caps until their window ends, without being an admin ([page](approvals.md)). The ledger, and not
    whoever shows the button, sees to the limits."""

    budgets: Annotated[tuple[BudgetPath, ...], AfterValidator(each_once), Field(min_length=1)]
    """The budgets whose caps may be raised, with those below them. No default."""
    usd_per_raise: UsdAsNanos
    """The most that one raise adds to a cap, US dollars as exact text. No default."""
    usd_per_day: UsdAsNanos
    """The most that all raises of a day (UTC) add to caps, US dollars as exact text. No default."""
    offers_usd: Annotated[tuple[UsdAsNanos, ...], Field(max_length=OFFERS_MAX)] = ()
    """The raises that alerts offer, US dollars as exact text, at most 5. Default []: `usd_per_raise`."""
    slack_users: Annotated[tuple[SlackUser, ...], AfterValidator(each_once)] = ()
    """The ids of Slack users, such as "U012AB3CD" (in a profile: "Copy member ID"), who press buttons in this name.
    Default []: nobody."""
    by_link: bool = False
    """Whoever has the link of an alert (Teams, plain webhooks) raises in this name: whoever reads that channel. Default
    false."""
    public_key: PublicKey | None = None
    """The public key that the ledger checks this approver's raises with, where `[admin] require_signature` is set; the
    line that `paymaster admin new-key FILE` prints. None, the default: they are not signed."""
    signing_key: KeyName | None = None
    """The NAME of a key (see `[keys]`) with the second line of that FILE, which gateways sign with. None, the default:
    they are not signed."""

    @property
    def offers(self) -> tuple[int, ...]:
        """In nano-dollars."""
        return self.offers_usd or (self.usd_per_raise,)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if not 0 < self.usd_per_raise <= self.usd_per_day:
            raise ValueError("usd_per_raise is more than 0, and not more than usd_per_day")
        if any(not 0 < each <= self.usd_per_raise for each in self.offers_usd):
            raise ValueError(f"offers_usd: each is more than 0, and at most {format_usd(self.usd_per_raise)} a raise")
        if (self.public_key is None) != (self.signing_key is None):
            raise ValueError("public_key and signing_key belong together; set both, or neither")
        return self


def wrong_with_approvers(
    approvers: Mapping[str, ApproverSettings], *, require_signature: bool
) -> list[tuple[Location, str]]:
    """What no table says of itself."""
    of_users = Counter(user for each in approvers.values() for user in each.slack_users)
    problems: list[tuple[Location, str]] = []
    for name, each in approvers.items():
        if require_signature and each.public_key is None:
            what = "[admin] require_signature is set, and nobody signs for this approver; set public_key, signing_key"
            problems.append(((name,), what))
        for number, user in enumerate(each.slack_users):
            if of_users[user] > 1:
                what = f"{user} is in the tables of several approvers; a Slack user presses in one name"
                problems.append(((name, "slack_users", number), what))
    return problems


def missing_for_buttons(
    approvers: Mapping[str, ApproverSettings], form: AlertForm, buttons_key: str | None, gateway_url: str | None
) -> list[tuple[Location, str]]:
    """What `[alerts]` lacks so that somebody could press what it shows."""
    by_button = any(each.slack_users for each in approvers.values())
    by_link = any(each.by_link for each in approvers.values())
    problems: list[tuple[Location, str]] = []
    if buttons_key is None and (by_button if form == "slack" else by_link):
        what = "approvers press buttons or links of alerts, which are signed; set the NAME of a key with a secret"
        problems.append((("buttons_key",), what))
    if gateway_url is None and by_link and form != "slack":
        problems.append((("gateway_url",), "approvers follow links of alerts; say how browsers reach a gateway"))
    return problems
