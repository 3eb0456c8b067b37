"""Caps that admins change."""

from paymaster.admission import alert_texts
from paymaster.admission.accounts import Account, Balance
from paymaster.admission.approvals import Approvals
from paymaster.admission.authority import signed
from paymaster.admission.books import Ledger
from paymaster.admission.in_force import InForce
from paymaster.admission.outbox import Outbox
from paymaster.admission.parking import Parking
from paymaster.admission.stale import ApprovalRefused
from paymaster.admission.state import DeskState
from paymaster.messages import Approval, CapState, RaiseCap, SetCap, UnsetCap, Window
from paymaster.messages.temporal_names import RAISE_CAP, SET_CAP, UNSET_CAP
from paymaster.values.budget_path import check_budget_path
from paymaster.values.limits import ACCOUNTS_MAX
from paymaster.values.money import NANOS_MAX, format_usd, usd_to_nanos
from paymaster.values.windows import ROLLING_MS, WINDOWS

CHANGES_TOLD_MAX = 100
"""Alerts that wait. Above, cap changes are not told."""
KNOWN_SHOWN_MAX = 20
"""Of the accounts that there are, in the answer to a command about one that is not there."""


def no_such_account(ledger: Ledger, key: str) -> ValueError:
    """Says what there is. There may be thousands: the first ones show how they are written."""
    if ":" not in key:
        named = next((each for each in (f"budget:{key}", f"service:{key}") if each in ledger.accounts), None)
        if named is not None:
            return ValueError(f"{key!r} is no account: write {named!r}")
        return ValueError(f'{key!r} is no account: they are written like "budget:acme/content" and "service:openai"')
    known = sorted(ledger.accounts)
    more = f" and {len(known) - KNOWN_SHOWN_MAX} more" if len(known) > KNOWN_SHOWN_MAX else ""
    there_are = (", ".join(known[:KNOWN_SHOWN_MAX]) or "none") + more
    return ValueError(f"there is no account {key!r}; there are: {there_are}")


class Caps:
    def __init__(self, state: DeskState, ledger: Ledger, outbox: Outbox, in_force: InForce, parking: Parking) -> None:
        self._state, self._ledger, self._outbox = state, ledger, outbox
        self._in_force, self._parking = in_force, parking
        self._approvals = Approvals(state)

    def raise_cap(self, change: RaiseCap) -> CapState:
        """Adds to a cap. Raises ValueError, which says what exists, for an account or a cap that does not, and
        ApprovalRefused for what an approver may not do."""
        change = signed(self._state, RAISE_CAP.name, change)
        raised = self.carry_out(change) if change.approval is None else self._approve(change, change.approval)
        self._tell(change, (raised.cap_nanos or 0) - usd_to_nanos(change.by), raised.cap_nanos)
        return raised

    def carry_out(self, change: RaiseCap) -> CapState:
        """Adds to a cap, on a command that was signed as it must be. Raises as `raise_cap`."""
        account, balance, by = self._raisable(change)
        return self._raise(change, account, balance, by)

    def _tell(self, change: RaiseCap | SetCap | UnsetCap, before_nanos: int | None, after_nanos: int | None) -> None:
        """Admins, of what one of them did. A flood of changes leaves room for other alerts: all are in the log."""
        if self._state.rules >= 2 and self._outbox.alerts_waiting < CHANGES_TOLD_MAX:
            text = alert_texts.cap_changed(change, before_nanos, after_nanos)
            self._outbox.alert(self._state.now_ms, "cap_changed", text, change.account, change.window)

    def _approve(self, change: RaiseCap, approval: Approval) -> CapState:
        self._approvals.check(change, approval, usd_to_nanos(change.by))  # before anything is opened for it
        try:
            account, balance, by = self._raisable(change)
        except ValueError as error:
            raise ApprovalRefused(str(error)) from None
        ends_at_ms = self._ledger.calendars.end_ms(account.time_zone, change.window, self._state.now_ms)
        self._approvals.check_now(change, approval, by, balance, ends_at_ms)
        change = change.model_copy(update={"who": f"{approval.by} ({approval.where})"})
        raised = self._raise(change, account, balance, by)
        self._approvals.keep(approval, by)
        return raised

    def _raisable(self, change: RaiseCap) -> tuple[Account, Balance, int]:
        """What it raises, and by how many nano-dollars."""
        self._in_force.check_cap_changes()
        account = self._ledger.accounts.get(change.account)
        if account is None and self._parking.on_demand.stands_for(change.account):
            account = self._account(change.account)
        if account is None:
            raise no_such_account(self._ledger, change.account)
        balance = account.balances.get(change.window)
        if balance is None or balance.cap_nanos is None:
            capped = ", ".join(w for w, b in account.balances.items() if b.cap_nanos is not None) or "none"
            raise ValueError(f"{change.account} has no cap for {change.window!r}; capped windows: {capped}")
        by = usd_to_nanos(change.by)
        if by <= 0:
            raise ValueError(f"a cap is raised by a positive amount, not by {change.by}")
        if change.until_window_end and (change.window == "total" or change.window in ROLLING_MS):
            raise ValueError(f"the window `{change.window}` never ends; a raise of it cannot lapse")
        return account, balance, by

    def _raise(self, change: RaiseCap, account: Account, balance: Balance, by: int) -> CapState:
        lapsing = balance.lapsing_nanos + (by if change.until_window_end else 0)
        return self._set(account, change, (balance.cap_nanos or 0) + by, by, lapsing)

    def set_cap(self, change: SetCap) -> CapState:
        """Sets a cap, also on a budget that had none. Raises ValueError for a bad account or amount."""
        self._in_force.check_cap_changes()
        change = signed(self._state, SET_CAP.name, change)
        to = usd_to_nanos(change.to)
        if to < 0:
            raise ValueError(f"a cap is not negative: {change.to}")
        if change.window not in self._ledger.calendars.windows and (self._state.rules < 2 or change.window in WINDOWS):
            raise ValueError(f"the ledger still runs by the rules of version 0.1.0, which know no {change.window}")
        account = self._account(change.account)
        balance = account.balances.get(change.window)
        before = None if balance is None else balance.cap_nanos
        state = self._set(account, change, to, None, 0)
        self._tell(change, before, to)
        return state

    def unset_cap(self, change: UnsetCap) -> CapState:
        """Ends what admins made of a cap: the configuration's value is in force, or none. A cap that no admin changed
        stays as it is. Raises ValueError for an account that is not there."""
        self._in_force.check_cap_changes()
        change = signed(self._state, UNSET_CAP.name, change)
        if self._state.rules < 2:
            raise ValueError("the ledger still runs by the rules of version 0.1.0: `paymaster upgrade`, then unset it")
        if not self._state.began:  # what was stored may bring other caps of admins
            raise ValueError("the ledger is still reading what was stored before it began; ask again in a moment")
        account = self._ledger.accounts.get(change.account)
        if account is None:
            raise no_such_account(self._ledger, change.account)
        balance = account.balances.get(change.window)
        if balance is not None and balance.by_admin:
            self._unset(account, balance, change)
        cap_nanos = None if balance is None else balance.cap_nanos
        return CapState(account=account.key, window=change.window, cap_nanos=cap_nanos)

    def _unset(self, account: Account, balance: Balance, change: UnsetCap) -> None:
        before = balance.cap_nanos
        self._ledger.uncap(balance)
        account.tell_again(balance)
        self._outbox.cap_changed(
            self._state.now_ms,
            account.key,
            change.window,
            before,
            None,
            by_nanos=None,
            file_nanos=balance.file_cap_nanos,
            until_window_end=False,
            who=change.who,
            reason=change.reason,
        )
        self._tell(change, before, balance.cap_nanos)
        if balance.cap_nanos is not None:
            self._withdraw_above(account, change.window)
        elif change.window in ROLLING_MS:
            del account.balances[change.window]
        self._in_force.close_unnamed()
        if account.key not in self._ledger.accounts:
            self._parking.file_again()
        self._parking.look_at_everybody()

    def _set(
        self, account: Account, change: RaiseCap | SetCap, to_nanos: int, by_nanos: int | None, lapsing_nanos: int
    ) -> CapState:
        if to_nanos > NANOS_MAX:
            raise ValueError(f"a cap of {format_usd(to_nanos)} is more than the books can hold")
        state = self._state
        balance = account.balances.get(change.window)
        if balance is None:  # a rolling window, which nothing has capped so far
            balance = self._ledger.open_window(account.key, change.window)
            state.loading = None
        before = balance.cap_nanos
        self._ledger.set_cap(account.key, change.window, to_nanos, lapsing_nanos=lapsing_nanos)
        kept = self._outbox.cap_changed(
            state.now_ms,
            account.key,
            change.window,
            before,
            to_nanos,
            by_nanos=by_nanos,
            file_nanos=balance.file_cap_nanos,
            until_window_end=isinstance(change, RaiseCap) and change.until_window_end,
            who=change.who,
            reason=change.reason,
        )
        if not state.began:
            state.early.append(kept)
        self._withdraw_above(account, change.window)
        if state.rules < 2 or before is None or to_nanos < before:
            self._parking.look_at_everybody()
        state.freed.add(account.key)
        return CapState(account=account.key, window=change.window, cap_nanos=to_nanos)

    def _withdraw_above(self, account: Account, window: Window) -> None:
        """Takes back the latest grants until what is left fits under a cap that was lowered."""
        balance = account.balances[window]
        above = balance.posted_nanos + balance.pending_nanos - (balance.cap_nanos or 0)
        start_ms = self._ledger.calendars.starts_ms(account.time_zone)[window]
        for hold in reversed(self._ledger.pending.values()):
            if above <= 0:
                return
            if hold.grant.granted_at_ms >= start_ms and account.key in hold.accounts:
                self._outbox.withdraw(hold, f"the cap of {account.key} ({window}) was lowered")
                above -= hold.grant.bound_nanos

    def _account(self, key: str) -> Account:
        """An admin may cap any budget, also one that the configuration does not name."""
        account = self._ledger.accounts.get(key)
        if account is not None:
            return account
        kind, _, path = key.partition(":")
        if kind != "budget":
            raise no_such_account(self._ledger, key)
        check_budget_path(path)
        if self._state.rules >= 2 and (count := len(self._ledger.accounts)) >= ACCOUNTS_MAX:
            raise ValueError(
                f"the ledger has {count:,} accounts and may have {ACCOUNTS_MAX:,}: give a cap to a "
                "budget of the configuration, or remove some from it"
            )
        if self._parking.on_demand.stands_for(key):
            return self._parking.on_demand.open(key)
        account = self._ledger.open_account(key)
        self._parking.account_opened(path)
        return account
