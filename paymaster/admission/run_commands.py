"""Runs that admins give more than their limits, or end."""

from paymaster.admission import alert_texts
from paymaster.admission.accounts import Account
from paymaster.admission.alert_policy import AlertPolicy
from paymaster.admission.authority import signed
from paymaster.admission.books import Ledger
from paymaster.admission.caps import Caps
from paymaster.admission.held_runs import is_of
from paymaster.admission.outbox import Outbox
from paymaster.admission.parking import Parking
from paymaster.admission.runs import Run
from paymaster.admission.state import DeskState
from paymaster.admission.status import run_state
from paymaster.messages import EndRun, RaiseCap, RaiseRun, ResumeRun, RunState, Window
from paymaster.messages.temporal_names import END_RUN, RAISE_RUN, RESUME_RUN
from paymaster.values.limits import ACCOUNTS_MAX
from paymaster.values.run_path import check_run_path


class RunCommands:
    def __init__(
        self,
        state: DeskState,
        ledger: Ledger,
        outbox: Outbox,
        alerts: AlertPolicy,
        caps: Caps,
        parking: Parking,
    ) -> None:
        self._state, self._ledger, self._outbox = state, ledger, outbox
        self._alerts, self._caps, self._parking = alerts, caps, parking

    def raise_run(self, change: RaiseRun) -> RunState:
        """Gives a run more than its limits. Raises ValueError, which says why, where it has no such limit."""
        change = signed(self._state, RAISE_RUN.name, change)
        account, run = self._known(change.run)
        if change.by is None and not change.calls and not change.lasts_ms:
            raise ValueError("a run is given more money, calls or time: name at least one")
        limited = [period for period in run.periods if period.calls_max is not None]
        if change.calls and run.calls_max is None and not limited:
            raise ValueError(f"the calls of run {change.run} are not limited")
        if change.lasts_ms and run.lasts_ms is None:
            raise ValueError(f"the time of run {change.run} is not limited")
        if change.by is not None:
            self._raise_money(account, change.by, change)
        for period in limited if change.calls else ():
            period.roll(self._state.now_ms)
            period.more_calls += change.calls
        if run.calls_max is not None:
            run.more_calls += change.calls
        run.more_ms += change.lasts_ms
        self._ledger.mark([account.key])
        self._alerts.run_changed(alert_texts.run_raised(change), account.key)
        self._state.freed.add(account.key)
        return run_state(account, self._state.now_ms)

    def _raise_money(self, account: Account, by: str, change: RaiseRun) -> None:
        """In the open window alone where the cap is renewed."""
        assert account.run is not None  # the caller has looked
        windows: list[Window] = [*(period.window for period in account.run.periods), "total"]
        capped: list[Window] = [window for window in windows if account.balances[window].cap_nanos is not None]
        for window in capped or windows[-1:]:
            lapses, who, why = window != "total", change.who, change.reason
            self._caps.carry_out(
                RaiseCap(account=account.key, window=window, by=by, until_window_end=lapses, who=who, reason=why)
            )

    def resume_run(self, change: ResumeRun) -> RunState:
        """Lets a run go on that is held as a runaway. Raises ValueError for one that is not."""
        change = signed(self._state, RESUME_RUN.name, change)
        account, run = self._known(change.run)
        if not run.held:
            raise ValueError(f"run {change.run} is not held")
        run.go_on()
        self._ledger.mark([account.key])
        self._alerts.run_changed(alert_texts.run_resumed(change), account.key)
        self._state.freed.add(account.key)
        return run_state(account, self._state.now_ms)

    def end_run(self, change: EndRun) -> RunState:
        """Lets no further call of a run begin; those that wait are denied, and grants that were not used are taken
        back."""
        change = signed(self._state, END_RUN.name, change)
        if self._state.rules < 2:
            raise ValueError(alert_texts.RUNS_NEED_RULES)
        check_run_path(change.run)
        key = f"run:{change.run}"
        by, account = alert_texts.by_whom(change), self._ledger.accounts.get(key)
        state = None if account is None else self._ended(account, by)
        has_room = self._parking.on_demand.has_room_for_stopped()
        if state is None:
            state = self._ended(self._open(key), by) if has_room else self._ended_by_name(change.run, by)
        for hold in self._ledger.pending.values():
            if is_of(hold, change.run):
                self._outbox.withdraw(hold, f"{key} was ended by {by}")
        self._ledger.mark([key])
        self._alerts.run_changed(alert_texts.run_ended(change), key)
        self._parking.look_at_everybody()
        return state

    def _ended_by_name(self, path: str, by: str) -> RunState:
        """One that gets no account: so many were ended of late."""
        self._parking.on_demand.remember_ended(path)
        return RunState(run=path, cap_nanos=None, calls=0, calls_max=None, began_at_ms=0, ends_at_ms=None, ended_by=by)

    def _open(self, key: str) -> Account:
        if not self._parking.on_demand.has_room():
            raise ValueError(
                f"the ledger has {ACCOUNTS_MAX:,} accounts, and none is idle that could be forgotten: ask again later"
            )
        self._state.ended_runs.pop(key.removeprefix("run:"), None)
        return self._parking.on_demand.open_run(key, Run())

    def _known(self, path: str) -> tuple[Account, Run]:
        account = self._ledger.accounts.get(f"run:{path}")
        if account is None or account.run is None:
            raise ValueError(
                f"the ledger has no limited run {path!r} now; `paymaster runs list` shows those that it has"
            )
        return account, account.run

    def _ended(self, account: Account, by: str) -> RunState:
        assert account.run is not None  # the key says it
        account.run.ended_by = by
        return run_state(account, self._state.now_ms)
