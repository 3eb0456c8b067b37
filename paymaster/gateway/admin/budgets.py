"""Budgets: how they stand, their caps, and raises of them and of runs."""

from paymaster.gateway.admin.asked import Answer, Asked
from paymaster.gateway.admin.documents import (
    BudgetPage,
    CapWanted,
    ChangePage,
    RaiseWanted,
    budget_document,
    change_document,
    ledger_document,
    run_document,
)
from paymaster.gateway.admin.problems import Problem
from paymaster.gateway.admin.site import AdminSite
from paymaster.messages import RaiseCap, RaiseRun, SetCap, Window
from paymaster.storage.ledger_log import logged_changes
from paymaster.values.budget_path import check_budget_path
from paymaster.values.windows import ALL_WINDOWS


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
        budget = _budget(asked)
        asked.admin.check("read", budget)
        return await self._told(budget)

    async def set_cap(self, asked: Asked) -> Answer:
        budget, wanted = _budget(asked), asked.read(CapWanted)
        asked.admin.check("budgets", budget)
        window: Window | None = next((each for each in ALL_WINDOWS if each == asked.path["window"]), None)
        if window is None:
            raise Problem(404, "not_found", f"there is no window {asked.path['window']!r}: {', '.join(ALL_WINDOWS)}")
        change = SetCap(
            account=f"budget:{budget}",
            window=window,
            to=wanted.usd,
            **asked.said(wanted),
        )
        await self._administrated.carry_out(self._administrated.ledger.set_cap(change))
        return await self._told(budget)

    async def raise_(self, asked: Asked) -> Answer:
        """Under an id that whoever asks has chosen: sent again it raises nothing again."""
        wanted, command_id = asked.read(RaiseWanted), f"raise-{asked.path['raise_id']}"
        if (wanted.budget is None) == (wanted.run is None):
            raise Problem(400, "bad_request", "a raise names either a budget or a run")
        if wanted.run is not None:
            asked.admin.check("runs")
            return await self._raise_run(asked, wanted, wanted.run, command_id)
        budget = wanted.budget or ""
        asked.admin.check("budgets", budget)
        if wanted.window is None or wanted.by_usd is None or wanted.calls or wanted.lasts_s:
            raise Problem(
                400, "bad_request", "the raise of a budget has `window` and `by_usd`, and neither calls nor time"
            )
        change = RaiseCap(
            account=f"budget:{budget}",
            window=wanted.window,
            by=wanted.by_usd,
            until_window_end=wanted.until_window_end,
            **asked.said(wanted),
        )
        await self._administrated.carry_out(self._administrated.ledger.raise_cap(change, command_id))
        return await self._told(budget)

    async def _raise_run(self, asked: Asked, wanted: RaiseWanted, run: str, command_id: str) -> Answer:
        change = RaiseRun(
            run=run,
            by=wanted.by_usd,
            calls=wanted.calls,
            lasts_ms=wanted.lasts_s * 1_000,
            **asked.said(wanted),
        )
        await self._administrated.carry_out(self._administrated.ledger.raise_run(change, command_id))
        status = await self._administrated.account(f"run:{run}")
        assert status.run is not None  # the key says it
        return Answer(run_document(status, status.run), status.tag)

    async def changes(self, asked: Asked) -> Answer:
        budget = asked.query.get("budget")
        asked.admin.check("read", budget)
        account = None if budget is None else f"budget:{budget}"
        found = await logged_changes(self._administrated.engine, self._administrated.ledger.name, account, asked.limit)
        return Answer(ChangePage(items=tuple(map(change_document, found))))

    async def ledger(self, asked: Asked) -> Answer:
        return Answer(ledger_document(await self._administrated.whole()))

    async def _told(self, budget: str) -> Answer:
        status = await self._administrated.account(f"budget:{budget}")
        return Answer(budget_document(status), status.tag)


def _budget(asked: Asked) -> str:
    try:
        return check_budget_path(asked.path["budget"])
    except ValueError as error:
        raise Problem(400, "bad_request", str(error)) from None
