"""What admins and configurations changed, and what the ledger told people."""

from paymaster.console.opened import Opened
from paymaster.console.pages import View
from paymaster.gateway.admin.site import AdminSite
from paymaster.storage.ledger_log import logged_alerts, logged_changes

_SHOWN, _MORE = 50, 500


class ChangePages:
    def __init__(self, site: AdminSite) -> None:
        self._engine, self._ledger = site.engine, site.ledger.name

    async def all(self, opened: Opened) -> View:
        limit = _MORE if "more" in opened.query else _SHOWN
        shows = {
            "changes": (await logged_changes(self._engine, self._ledger, None, limit))[::-1],
            "alerts": await logged_alerts(self._engine, self._ledger, limit),
            "limit": limit,
            "more": None if limit == _MORE else _MORE,
            "is_live": limit == _SHOWN,
        }
        return View("changes.html", shows)
