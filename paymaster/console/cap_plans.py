"""Raising and setting caps of budgets, as plans that somebody confirms."""

from collections.abc import Awaitable
from typing import NamedTuple

from paymaster.console.pages import BASE
from paymaster.console.plans import Confirmed, Fields, Plan, action_address, amount
from paymaster.console.words import exact_usd
from paymaster.gateway.admin.problems import Problem
from paymaster.gateway.admin.site import AdminSite
from paymaster.ledger.approving import Approvers, CannotApprove, approval_id
from paymaster.messages import AccountStatus, RaiseCap, SetCap, UnsetCap, Window, WindowStatus
from paymaster.values.budget_path import check_budget_path
from paymaster.values.money import format_usd
from paymaster.values.windows import ALL_WINDOWS, ROLLING_MS


class _Cap(NamedTuple):
    """The cap of a budget in a window, as it stands."""

    budget: str
    window: Window
    status: WindowStatus | None
    tag: str | None

    @property
    def nanos(self) -> int | None:
        return None if self.status is None else self.status.cap_nanos

    @property
    def name(self) -> str:
        return f"The cap of {self.budget} ({self.window})"

    @property
    def is_by_admin(self) -> bool:
        return self.status is not None and self.nanos is not None and self.status.cap_from == "admin"

    @property
    def undo(self) -> str:
        """The address at which a change of it is taken back: to what an admin set before, or to the configuration's."""
        fields = {"budget": self.budget, "window": self.window, "reason": "taken back"}
        if self.is_by_admin and self.nanos is not None:
            return action_address("set", **fields, usd=exact_usd(self.nanos))
        return action_address("unset", **fields)


class CapPlans:
    def __init__(self, site: AdminSite, approvers: Approvers) -> None:
        self._administrated = site
        self._approvers = approvers

    async def account(self, fields: Fields) -> AccountStatus | None:
        """That of the budget in a form. None: it has none yet. Raises Problem."""
        try:
            budget = check_budget_path(fields["budget"])
        except ValueError as error:
            raise Problem(404, "not_found", str(error)) from None
        await self._administrated.whole()
        found = await self._administrated.copy.accounts([f"budget:{budget}"])
        return found.accounts[0] if found is not None and found.accounts else None

    async def _cap(self, fields: Fields) -> _Cap:
        window: Window | None = next((each for each in ALL_WINDOWS if each == fields["window"]), None)
        if window is None:
            raise Problem(400, "bad_request", f"there is no window {fields['window']!r}: {', '.join(ALL_WINDOWS)}")
        account = await self.account(fields)
        windows = () if account is None else account.windows
        status = next((each for each in windows if each.window == window), None)
        return _Cap(fields["budget"], window, status, None if account is None else account.tag or None)

    async def raise_(self, fields: Fields) -> Plan | None:
        if not fields["by"] or not fields["window"]:
            return None
        cap, by_nanos, lapses = await self._cap(fields), amount(fields["by"]), bool(fields["lapses"])
        if cap.nanos is None:
            raise Problem(400, "bad_request", f"{cap.budget} has no cap for {cap.window}, which could be raised")
        if by_nanos == 0:
            raise Problem(400, "bad_request", "a raise is more than zero")
        if lapses and (cap.window == "total" or cap.window in ROLLING_MS):
            raise Problem(400, "bad_request", f"the window {cap.window} never ends: a raise of it is for good")
        until, by, to_nanos = " until the window ends" if lapses else "", exact_usd(by_nanos), cap.nanos + by_nanos

        def send(given: Confirmed) -> Awaitable[object]:
            if given.by_approval:
                return self._approved(cap, by_nanos, given)
            account = f"budget:{cap.budget}"
            change = RaiseCap(account=account, window=cap.window, by=by, until_window_end=lapses, **given.said)
            return self._administrated.carry_out(self._administrated.ledger.raise_cap(change, f"console-{given.once}"))

        option = ("--until-window-end",) if lapses else ()
        return Plan(
            says=f"{cap.name} rises by {format_usd(by_nanos)}, from {format_usd(cap.nanos)} to "
            f"{format_usd(to_nanos)}{until}. Calls that wait for it go on by themselves.",
            done=f"{cap.name} rose by {format_usd(by_nanos)}{until}.",
            command=("budget", "raise", cap.budget, "--window", cap.window, "--by", by, *option),
            send=send,
            back=f"{BASE}/budgets/{cap.budget}",
            tag=cap.tag,
            undo=cap.undo,
            lapses=lapses,
        )

    async def _approved(self, cap: _Cap, by_nanos: int, given: Confirmed) -> None:
        """Raises Problem."""
        copied = await self._administrated.whole()
        assert cap.status is not None
        assert cap.nanos is not None
        assert cap.status.ends_at_ms is not None  # it lapses
        try:
            command = await self._approvers.raise_cap(
                f"budget:{cap.budget}",
                cap.window,
                by_nanos,
                approver=given.said["who"],
                where="console",
                reason=given.said["reason"],
                nonce=f"console-{given.once}",
                cap_nanos=cap.nanos,
                window_ends_at_ms=cap.status.ends_at_ms,
                epoch=copied.status.epoch,
            )
        except CannotApprove as error:
            raise Problem(503, "unavailable", f"the gateway cannot sign in your name: {error}") from None
        await self._administrated.carry_out(self._administrated.ledger.raise_cap(command, approval_id(command)))

    async def set_(self, fields: Fields) -> Plan | None:
        if not fields["usd"] or not fields["window"]:
            return None
        cap, to_nanos = await self._cap(fields), amount(fields["usd"])
        to, was = (
            exact_usd(to_nanos),
            "there is none now" if cap.nanos is None else f"it is {format_usd(cap.nanos)} now",
        )

        def send(given: Confirmed) -> Awaitable[object]:
            change = SetCap(account=f"budget:{cap.budget}", window=cap.window, to=to, **given.said)
            return self._administrated.carry_out(self._administrated.ledger.set_cap(change))

        used_nanos = 0 if cap.status is None else cap.status.posted_nanos + cap.status.pending_nanos
        warns = f"{format_usd(used_nanos)} are spent or held already: its calls will wait at once."
        return Plan(
            says=f"{cap.name} becomes {format_usd(to_nanos)}; {was}. It stays until the configuration's value changes.",
            done=f"{cap.name} is {format_usd(to_nanos)}.",
            command=("budget", "set", cap.budget, "--window", cap.window, "--to", to),
            send=send,
            back=f"{BASE}/budgets/{cap.budget}",
            tag=cap.tag,
            undo=cap.undo,
            warns=warns if used_nanos >= to_nanos else "",
        )

    async def unset(self, fields: Fields) -> Plan:
        cap = await self._cap(fields)
        if not cap.is_by_admin or cap.nanos is None:
            detail = f"{cap.name} is the configuration's: there is nothing of an admin to take back"
            raise Problem(409, "refused", detail)

        def send(given: Confirmed) -> Awaitable[object]:
            change = UnsetCap(account=f"budget:{cap.budget}", window=cap.window, **given.said)
            return self._administrated.carry_out(self._administrated.ledger.unset_cap(change))

        return Plan(
            says=f"{cap.name} is {format_usd(cap.nanos)}, as admins made it. Afterwards the configuration's own value "
            "is in force again; where it has none, there is no cap.",
            done=f"{cap.name} is the configuration's own.",
            command=("budget", "unset", cap.budget, "--window", cap.window),
            send=send,
            back=f"{BASE}/budgets",
            tag=cap.tag,
            undo=cap.undo,
        )
