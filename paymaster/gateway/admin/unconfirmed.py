"""Attempts of which nobody knows whether they were billed: listed, and resolved by what the provider's bill says."""

from paymaster.errors import AdminRefused
from paymaster.gateway.admin.asked import Answer, Asked, command
from paymaster.gateway.admin.documents import ResolvedDocument, UnconfirmedPage, unconfirmed_document, usd
from paymaster.gateway.admin.problems import Problem
from paymaster.gateway.admin.site import AdminSite
from paymaster.gateway.admin.wanted import ResolveWanted
from paymaster.ledger.resolving import (
    AboveBound,
    CannotResolve,
    NotUnconfirmed,
    Resolution,
    find_resolution,
    settle_resolution,
    store_resolution,
)
from paymaster.messages import CorrectSpend
from paymaster.storage.usage_rows import unconfirmed_entries
from paymaster.values.budget_path import is_within
from paymaster.values.money import usd_to_nanos


class UnconfirmedEndpoints:
    def __init__(self, site: AdminSite) -> None:
        self._administrated = site

    async def all(self, asked: Asked) -> Answer:
        below = asked.admin.budget
        found = await unconfirmed_entries(self._administrated.engine, self._administrated.ledger.name)
        shown = [each for each in found if below is None or is_within(each.budget, below)]
        return Answer(UnconfirmedPage(items=tuple(map(unconfirmed_document, shown))))

    async def resolve(self, asked: Asked) -> Answer:
        asked.admin.check("budgets", asked.admin.budget)
        wanted, site, attempt = asked.read(ResolveWanted), self._administrated, asked.path["attempt"]
        try:
            found = await find_resolution(site.engine, site.ledger.name, attempt, usd_to_nanos(wanted.cost_usd))
            for budget in found.budgets:
                asked.admin.check("budgets", budget)
            await store_resolution(site.engine, site.ledger, found, force=wanted.force)
        except NotUnconfirmed as error:
            raise Problem(404, "not_found", str(error)) from None
        except AboveBound as error:
            raise Problem(409, "refused", f"{error} If the provider did bill it, say `force: true`") from None
        except CannotResolve as error:
            raise Problem(409, "refused", str(error)) from None
        posted = await self._post(asked, wanted, found)
        return Answer(ResolvedDocument(attempt=attempt, cost_usd=usd(found.cost_nanos), posted=posted))

    async def _post(self, asked: Asked, wanted: ResolveWanted, found: Resolution) -> bool:
        """Whether the books have it. A ledger that wants a signature of a correction does not take it from here."""
        ledger, epoch = self._administrated.ledger, (await self._administrated.whole()).status.epoch
        if await settle_resolution(ledger, epoch, found):
            return True
        said = {"reason": wanted.reason, "who": asked.admin.name}
        try:
            return bool((await ledger.correct_spend(command(CorrectSpend, **found.correction(), **said))).accounts)
        except AdminRefused:
            return False
