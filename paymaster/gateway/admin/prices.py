"""Prices: those in force, what a newer list would change, and bringing it to the workers."""

from datetime import UTC, datetime

from paymaster.gateway.admin.asked import Answer, Asked
from paymaster.gateway.admin.documents import ListChangeDocument, NewerPricesDocument, PricesDocument, price_document
from paymaster.gateway.admin.problems import Problem
from paymaster.gateway.admin.site import AdminSite
from paymaster.gateway.admin.wanted import PricesWanted
from paymaster.ledger.newer_prices import NewerList, bring_list, fetch_newer
from paymaster.ledger.price_lists import KeptPrices
from paymaster.providers.list_changes import used_models
from paymaster.providers.list_fetching import ListUnavailable
from paymaster.providers.listings import newest
from paymaster.providers.price_list import price_of
from paymaster.settings import split_candidate
from paymaster.storage.price_lists import newest_price_list


class PriceEndpoints:
    def __init__(self, site: AdminSite) -> None:
        self._administrated = site
        self._kept = KeptPrices(site.engine, site.ledger.name)

    async def in_force(self, asked: Asked) -> Answer:
        asked.admin.check("read")
        return await self._told()

    async def newer(self, asked: Asked) -> Answer:
        asked.admin.check("read")
        newer = await self._fetched()
        changes = (ListChangeDocument(**each._asdict()) for each in newer.changes)
        return Answer(
            NewerPricesDocument(url=newer.url, sha256=newer.digest, in_force=newer.is_in_force, changes=tuple(changes))
        )

    async def bring(self, asked: Asked) -> Answer:
        asked.admin.check("prices")
        wanted = asked.read(PricesWanted)
        newer = await self._fetched()
        if newer.digest != wanted.sha256:
            raise Problem(412, "stale", f"the list at {newer.url} is another one by now: read /prices/newer again")
        if newer.is_in_force:
            return await self._told()
        if newer.needs_consent and not wanted.accept_falls:
            falls = "; ".join(change.text for change in newer.changes if change.needs_consent)[:1_000]
            raise Problem(409, "refused", f"say `accept_falls: true` where this is right: {falls}")
        said = f" ({wanted.reason})" if wanted.reason else ""
        await bring_list(self._administrated.settings, self._administrated.engine, newer, f"{asked.admin.name}{said}")
        return await self._told()

    async def _fetched(self) -> NewerList:
        """Raises Problem."""
        await self._kept.look()
        try:
            return await fetch_newer(self._administrated.settings, self._administrated.engine)
        except ListUnavailable as error:
            raise Problem(502, "no_list", str(error)) from None

    async def _told(self) -> Answer:
        await self._kept.look()
        settings, now = self._administrated.settings, datetime.now(UTC)
        stored = await newest_price_list(self._administrated.engine, settings.ledger.name)
        prices = {name: price_of(settings, *split_candidate(name), now) for name in sorted(used_models(settings))}
        return Answer(
            PricesDocument(
                list=newest().name,
                sha256=None if stored is None else stored.sha256,
                brought_at=None if stored is None else stored.at,
                brought_by=None if stored is None else stored.who,
                source=None if stored is None else stored.source,
                prices=tuple(price_document(name, price) for name, price in prices.items()),
            )
        )
