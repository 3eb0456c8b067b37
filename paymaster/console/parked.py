"""Parked calls: in which accounts they wait, for what and until when, and those that are served first."""

from paymaster.console.budgets import shown
from paymaster.console.opened import Opened
from paymaster.console.pages import View
from paymaster.gateway.admin.site import AdminSite
from paymaster.observability.temporal_links import TemporalLinks

_ACCOUNTS_SHOWN = 50
_NEVER = float("inf")
"""No cap is used up so far that its account is listed although nobody waits there."""


class ParkedPages:
    def __init__(self, site: AdminSite, links: TemporalLinks) -> None:
        self._administrated = site
        self._links = links

    async def all(self, opened: Opened) -> View:
        status = (await self._administrated.whole()).status
        accounts = await self._administrated.copy.short(_NEVER, _ACCOUNTS_SHOWN)
        shows = {
            "accounts": [shown(each, opened.now_ms) for each in accounts],
            "services": {f"service:{each.service}": each for each in status.services},
            "waiting": [(each, self._links.workflow(each.workflow_id)) for each in status.waiting],
            "parked": status.parked,
            "all_parked": self._links.parked(),
            "is_live": True,
        }
        return View("parked.html", shows)
