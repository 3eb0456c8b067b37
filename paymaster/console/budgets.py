"""Budgets: the tree of them with what is used of each cap, and one with all that is known of it."""

from paymaster.console.accounts import ShownAccount
from paymaster.console.lately import ShownLately
from paymaster.console.opened import Opened, Paged
from paymaster.console.pages import View
from paymaster.gateway.admin.problems import Problem
from paymaster.gateway.admin.site import AdminSite
from paymaster.storage.ledger_log import logged_changes
from paymaster.values.budget_path import budget_ancestors, check_budget_path

_BUDGETS_SHOWN = 100
_CHANGES_SHOWN = 10
_SHORT_SHOWN = 10
SHORT_FROM = 0.95
"""The part of a cap from which on it is said to be short."""
_FIND_CHARACTERS_MAX = 200


class BudgetPages:
    def __init__(self, site: AdminSite, lately: ShownLately) -> None:
        self._administrated = site
        self._lately = lately

    async def all(self, opened: Opened) -> View:
        find = opened.query.get("find", "").strip()[:_FIND_CHARACTERS_MAX]
        await self._administrated.whole()
        paged, budgets = await self._tree(opened, find=find)
        short = [] if find or opened.page > 1 else await self._administrated.copy.short(SHORT_FROM, _SHORT_SHOWN)
        shows = {
            "find": find,
            "budgets": budgets,
            "paged": paged,
            "short": await self._lately.shown(short, opened.now_ms),
            "is_live": True,
        }
        return View("budgets.html", shows)

    async def one(self, opened: Opened) -> View:
        try:
            budget = check_budget_path(opened.path["budget"])
        except ValueError as error:
            raise Problem(404, "not_found", str(error)) from None
        await self._administrated.whole()
        paged, budgets = await self._tree(opened, below=budget)
        if not budgets and paged.number == 1:
            detail = f"the ledger has no budget {budget!r} now; one of a template is there while somebody uses it"
            raise Problem(404, "not_found", detail)
        own = next((each for each in budgets if each.name == budget), None)
        engine, ledger = self._administrated.engine, self._administrated.ledger.name
        shows = {
            "budget": budget,
            "own": own,
            "above": budget_ancestors(budget)[:0:-1],
            "budgets": [each for each in budgets if each is not own],
            "paged": paged,
            "is_live": True,
            "changes": (await logged_changes(engine, ledger, f"budget:{budget}", _CHANGES_SHOWN))[::-1],
        }
        return View("budget.html", shows)

    async def _tree(self, opened: Opened, *, below: str = "", find: str = "") -> tuple[Paged, list[ShownAccount]]:
        offset = (opened.page - 1) * _BUDGETS_SHOWN
        found, budgets = await self._administrated.copy.tree(
            below=below, find=find, offset=offset, limit=_BUDGETS_SHOWN
        )
        paged = Paged(opened.page, _BUDGETS_SHOWN, len(found), budgets, {"find": find} if find else {})
        return paged, await self._lately.shown(found, opened.now_ms, below)
