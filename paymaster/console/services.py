"""Services with their breakers, pauses and limits, and runs that somebody uses now."""

from paymaster.console.accounts import shown
from paymaster.console.lately import ShownLately
from paymaster.console.opened import Opened
from paymaster.console.pages import View
from paymaster.gateway.admin.site import AdminSite

_RUNS_SHOWN = 100


class ServicePages:
    def __init__(self, site: AdminSite, lately: ShownLately) -> None:
        self._administrated = site
        self._lately = lately

    async def all(self, opened: Opened) -> View:
        status = (await self._administrated.whole()).status
        keys = [f"service:{each.service}" for each in status.services]
        found = await self._administrated.copy.accounts(keys)
        accounts = await self._lately.shown([] if found is None else found.accounts, opened.now_ms)
        by_key = {each.key: each for each in accounts}
        services = [(each, by_key.get(f"service:{each.service}")) for each in status.services]
        return View("services.html", {"services": services, "is_live": True})


class RunPages:
    def __init__(self, site: AdminSite) -> None:
        self._administrated = site

    async def all(self, opened: Opened) -> View:
        after = opened.query.get("after", "")
        await self._administrated.whole()
        found = await self._administrated.page("run", after, _RUNS_SHOWN + 1)
        runs = [shown(each, opened.now_ms) for each in found[:_RUNS_SHOWN]]
        next_ = runs[-1].name if len(found) > _RUNS_SHOWN else None
        return View("runs.html", {"runs": runs, "after": after, "next": next_, "is_live": True})
