"""Parked calls: in which accounts they wait, for what and until when, and each of them."""

from collections.abc import Mapping

from paymaster.console.accounts import Offer, ShownAccount, exact_offer
from paymaster.console.lately import ShownLately
from paymaster.console.opened import Opened, Paged
from paymaster.console.pages import View
from paymaster.gateway.admin.site import AdminSite
from paymaster.observability.temporal_links import TemporalLinks
from paymaster.storage.parked_rows import Needs, needs_of_parked, parked_page

_ACCOUNTS_SHOWN = 50
_CALLS_SHOWN = 100
_NEVER = float("inf")
"""No cap is used up so far that its account is listed although nobody waits there."""


class ParkedPages:
    def __init__(self, site: AdminSite, links: TemporalLinks, lately: ShownLately) -> None:
        self._administrated = site
        self._links = links
        self._lately = lately

    async def all(self, opened: Opened) -> View:
        status = (await self._administrated.whole()).status
        engine, ledger = self._administrated.engine, self._administrated.ledger.name
        accounts = [] if opened.page > 1 else await self._administrated.copy.short(_NEVER, _ACCOUNTS_SHOWN)
        needs = await needs_of_parked(engine, ledger) if accounts else {}
        waiting, of = await parked_page(engine, ledger, (opened.page - 1) * _CALLS_SHOWN, _CALLS_SHOWN)
        shown = await self._lately.shown(accounts, opened.now_ms)
        shows = {
            "accounts": [(each, _offers(each, needs)) for each in shown],
            "services": {f"service:{each.service}": each for each in status.services},
            "waiting": [(each, self._links.workflow(each.workflow_id)) for each in waiting],
            "paged": Paged(opened.page, _CALLS_SHOWN, len(waiting), of, {}),
            "parked": status.parked,
            "all_parked": self._links.parked(),
            "is_live": True,
        }
        return View("parked.html", shows)


def _offers(account: ShownAccount, needs: Mapping[tuple[str, str], Needs]) -> list[tuple[str, int, int, Offer | None]]:
    """For each cap that has no room for calls: its window, how many they are, what they need beyond what is left, and
    the raise by exactly that."""
    found: list[tuple[str, int, int, Offer | None]] = []
    for window in account.windows:
        need = needs.get((account.key, window.status.window))
        missing_nanos = 0 if need is None or window.left_nanos is None else need.nanos - window.left_nanos
        if need is not None and missing_nanos > 0:
            offer = exact_offer(account.status, window.status, missing_nanos)
            found.append((window.status.window, need.calls, missing_nanos, offer))
    return found
