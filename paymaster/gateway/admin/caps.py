"""Caps of budgets and services: set, taken back, raised; and raises of runs."""

from paymaster.gateway.admin.asked import Answer, Asked, command
from paymaster.gateway.admin.documents import cap_document, run_document
from paymaster.gateway.admin.problems import Problem
from paymaster.gateway.admin.site import AdminSite
from paymaster.gateway.admin.wanted import CapWanted, RaiseWanted
from paymaster.messages import RaiseCap, RaiseRun, SetCap, UnsetCap, Window
from paymaster.settings.gateway_admins import AdminRight
from paymaster.values.budget_path import check_budget_path
from paymaster.values.windows import ALL_WINDOWS

_RAISE_ID_MAX = 200


class CapEndpoints:
    def __init__(self, site: AdminSite) -> None:
        self._administrated = site

    async def one(self, asked: Asked) -> Answer:
        account, window = _account(asked, "read"), _window(asked)
        status = await self._administrated.account(account)
        return Answer(cap_document(account, window, status), status.tag)

    async def put(self, asked: Asked) -> Answer:
        account, window, wanted = _account(asked, "budgets"), _window(asked), asked.read(CapWanted)
        said = asked.said(wanted)
        if wanted.usd is None:
            return await self._unset(command(UnsetCap, account=account, window=window, **said))
        change = command(SetCap, account=account, window=window, to=wanted.usd, **said)
        await self._administrated.carry_out(self._administrated.ledger.set_cap(change))
        return await self._told(account, window)

    async def delete(self, asked: Asked) -> Answer:
        account, window = _account(asked, "budgets"), _window(asked)
        said = {"reason": asked.query.get("reason", ""), "who": asked.admin.name, "if_tag": asked.tag}
        return await self._unset(command(UnsetCap, account=account, window=window, **said))

    async def _unset(self, change: UnsetCap) -> Answer:
        await self._administrated.carry_out(self._administrated.ledger.unset_cap(change))
        return await self._told(change.account, change.window)

    async def raise_(self, asked: Asked) -> Answer:
        """Under an id that whoever asks has chosen: sent again it raises nothing again."""
        wanted, command_id = asked.read(RaiseWanted), _command_id(asked.path["raise_id"])
        if sum(each is not None for each in (wanted.budget, wanted.service, wanted.run)) != 1:
            raise Problem(400, "bad_request", "a raise names either a budget, a service or a run")
        if wanted.run is not None:
            asked.admin.check("runs")
            return await self._raise_run(asked, wanted, wanted.run, command_id)
        asked.admin.check("budgets", wanted.budget)
        if wanted.window is None or wanted.by_usd is None or wanted.calls or wanted.lasts_s:
            raise Problem(400, "bad_request", "the raise of a cap has `window` and `by_usd`, neither calls nor time")
        account = f"service:{wanted.service}" if wanted.budget is None else f"budget:{wanted.budget}"
        change = command(
            RaiseCap,
            account=account,
            window=wanted.window,
            by=wanted.by_usd,
            until_window_end=wanted.until_window_end,
            **asked.said(wanted),
        )
        await self._administrated.carry_out(self._administrated.ledger.raise_cap(change, command_id))
        return await self._told(account, wanted.window)

    async def _raise_run(self, asked: Asked, wanted: RaiseWanted, run: str, command_id: str) -> Answer:
        change = command(
            RaiseRun,
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

    async def _told(self, account: str, window: Window) -> Answer:
        """A budget that only an admin's cap had named is gone with it."""
        status = await self._administrated.find(account)
        return Answer(cap_document(account, window, status), None if status is None else status.tag)


def _command_id(raise_id: str) -> str:
    """Raises Problem."""
    if len(raise_id) > _RAISE_ID_MAX:
        raise Problem(400, "bad_request", f"the id of a raise has at most {_RAISE_ID_MAX} characters")
    return f"raise-{raise_id}"


def _account(asked: Asked, right: AdminRight) -> str:
    """What the path names, where the admin has this right. A service's caps are everybody's. Raises Problem."""
    if (service := asked.path.get("service")) is not None:
        asked.admin.check(right)
        return f"service:{service}"
    budget = budget_of(asked)
    asked.admin.check(right, budget)
    return f"budget:{budget}"


def budget_of(asked: Asked) -> str:
    """Raises Problem."""
    try:
        return check_budget_path(asked.path["budget"])
    except ValueError as error:
        raise Problem(400, "bad_request", str(error)) from None


def _window(asked: Asked) -> Window:
    for window in ALL_WINDOWS:
        if window == asked.path["window"]:
            return window
    raise Problem(404, "not_found", f"there is no window {asked.path['window']!r}: {', '.join(ALL_WINDOWS)}")
