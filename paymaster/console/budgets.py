"""Budgets: the tree of them with what is used of each cap, and one with all that is known of it."""

from typing import NamedTuple

from paymaster.admission.burn_rate import available_nanos, burn_nanos_per_hour, cap_reached_at_ms
from paymaster.bars import colour, used_share
from paymaster.console.opened import Opened, Paged
from paymaster.console.pages import View
from paymaster.console.plans import action_address
from paymaster.console.words import exact_usd
from paymaster.gateway.admin.problems import Problem
from paymaster.gateway.admin.site import AdminSite
from paymaster.messages import AccountStatus, WindowStatus
from paymaster.storage.ledger_log import logged_changes
from paymaster.values.budget_path import budget_ancestors
from paymaster.values.money import NANOS_PER_USD, format_usd
from paymaster.values.windows import ROLLING_MS

_BUDGETS_SHOWN = 100
_CHANGES_SHOWN = 10
_SHORT_SHOWN = 10
SHORT_FROM = 0.95
"""The part of a cap from which on it is said to be short."""
_OFFERED_FROM = 0.8
"""The part of a cap from which on a raise of it is offered; where calls wait, of the fullest one in any case."""
_FIND_CHARACTERS_MAX = 200


class Offer(NamedTuple):
    """A raise that one press asks for."""

    by: str
    address: str


class ShownWindow(NamedTuple):
    status: WindowStatus
    share: float | None
    """Of the cap that is spent or held. None: no cap."""
    colour: str
    left_nanos: int | None
    rate_nanos: int | None
    """Spent in an hour, on average since the window began."""
    reached_at_ms: int | None
    """When nothing is left at this rate. None: not before the window ends."""
    offer: Offer | None
    """None: there is enough left, or it is no budget's."""


class ShownAccount(NamedTuple):
    key: str
    name: str
    depth: int
    status: AccountStatus
    windows: tuple[ShownWindow, ...]


def shown(status: AccountStatus, now_ms: int, below: str = "") -> ShownAccount:
    """`below`: the budget from which on the tree is shown."""
    kind, _, name = status.account.partition(":")
    depth = name.count("/") - (below.count("/") + 1 if below else 0) if kind == "budget" else 0
    short = max((used_share(each) or 0.0 for each in status.windows), default=0.0) if status.parked else _OFFERED_FROM
    windows = tuple(_window(status, each, now_ms, min(short, _OFFERED_FROM)) for each in status.windows)
    # The sum of all time says nothing about a cap beside windows that have one.
    capped = tuple(each for each in windows if each.share is not None)
    return ShownAccount(status.account, name, max(0, depth), status, capped or windows)


def _window(account: AccountStatus, status: WindowStatus, now_ms: int, offered_from: float) -> ShownWindow:
    return ShownWindow(
        status,
        used_share(status),
        colour(status) or "none",
        available_nanos(status),
        burn_nanos_per_hour(status, now_ms),
        cap_reached_at_ms(status, now_ms),
        _offer(account, status, offered_from),
    )


def _offer(account: AccountStatus, status: WindowStatus, offered_from: float) -> Offer | None:
    """A fifth of the cap, rounded to one digit; until the window ends, where it does."""
    share, cap = used_share(status), status.cap_nanos
    if cap is None or share is None or share < offered_from or not account.account.startswith("budget:"):
        return None
    fifth = max(cap // 5, NANOS_PER_USD // 100)
    unit = 10 ** (len(str(fifth)) - 1)
    by_nanos = fifth // unit * unit
    fields = {
        "budget": account.account.removeprefix("budget:"),
        "window": status.window,
        "by": exact_usd(by_nanos),
        "lapses": "1" if status.window != "total" and status.window not in ROLLING_MS else "",
        "reason": "calls wait" if account.parked else "",
    }
    return Offer(format_usd(by_nanos), action_address("raise", **fields))


class BudgetPages:
    def __init__(self, site: AdminSite) -> None:
        self._administrated = site

    async def all(self, opened: Opened) -> View:
        find = opened.query.get("find", "").strip()[:_FIND_CHARACTERS_MAX]
        await self._administrated.whole()
        paged, budgets = await self._tree(opened, find=find)
        short = [] if find or opened.page > 1 else await self._administrated.copy.short(SHORT_FROM, _SHORT_SHOWN)
        shows = {
            "find": find,
            "budgets": budgets,
            "paged": paged,
            "short": [shown(each, opened.now_ms) for each in short],
            "is_live": True,
        }
        return View("budgets.html", shows)

    async def one(self, opened: Opened) -> View:
        budget = opened.path["budget"]
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
        return paged, [shown(each, opened.now_ms, below) for each in found]
