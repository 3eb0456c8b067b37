"""Budgets and the ledger as a whole: how they stand, and who changed what."""

from paymaster.gateway.admin.asked import Answer, Asked
from paymaster.gateway.admin.caps import budget_of
from paymaster.gateway.admin.documents import BudgetPage, ChangePage, budget_document, change_document, ledger_document
from paymaster.gateway.admin.site import AdminSite
from paymaster.storage.ledger_log import logged_changes


class BudgetEndpoints:
    def __init__(self, site: AdminSite) -> None:
        self._administrated = site

    async def all(self, asked: Asked) -> Answer:
        below, limit = asked.admin.budget, asked.limit
        if below is not None:
            asked.admin.check("read", below)
        found = await self._administrated.page("budget", asked.after, limit, below)
        items = tuple(map(budget_document, found))
        return Answer(BudgetPage(items=items, next=items[-1].budget if len(items) == limit else None))

    async def one(self, asked: Asked) -> Answer:
        budget = budget_of(asked)
        asked.admin.check("read", budget)
        status = await self._administrated.account(f"budget:{budget}")
        return Answer(budget_document(status), status.tag)

    async def changes(self, asked: Asked) -> Answer:
        budget = asked.query.get("budget")
        asked.admin.check("read", budget)
        account = None if budget is None else f"budget:{budget}"
        found = await logged_changes(self._administrated.engine, self._administrated.ledger.name, account, asked.limit)
        return Answer(ChangePage(items=tuple(map(change_document, found))))

    async def ledger(self, asked: Asked) -> Answer:
        return Answer(ledger_document(await self._administrated.whole()))
