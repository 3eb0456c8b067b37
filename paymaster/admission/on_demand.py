"""Accounts of templates and of runs: made at their first use, and forgotten when nobody has used them for a while.

What a forgotten account has spent is in the stored rows, and is read from them when its name comes back. Memory follows
who is active, and not who exists.
"""

from collections.abc import Callable, Iterable
from operator import attrgetter

from paymaster.admission import alert_texts
from paymaster.admission.account_rows import account_configs, limiting_runs, template_key
from paymaster.admission.accounts import Account
from paymaster.admission.alert_policy import AlertPolicy
from paymaster.admission.book_changes import yet_to_tell
from paymaster.admission.books import CHARGED_MAX, Ledger
from paymaster.admission.routing import Obstacle
from paymaster.admission.runs import Limits, Run, limits_of, run_levels
from paymaster.admission.state import DeskState
from paymaster.messages import AccountConfig, Candidate, DeskConfig, Reserve, RunTerms
from paymaster.values.budget_path import accounts_charged, budgets_charged, is_template
from paymaster.values.limits import ACCOUNTS_MAX, ENDED_RUNS_MAX, RUNS_KEPT_MAX
from paymaster.values.run_path import run_ancestors

FORGOTTEN_AFTER_MINUTES = 10
"""How long an account stays that nobody uses."""
CHANGED_RUN_KEPT_MINUTES = 7 * 24 * 60
"""How long a run stays that an admin changed, or that is held: nothing else remembers it."""
_ROOM = ACCOUNTS_MAX // 10
"""How many of those that are idle go at once where there is no room for new ones."""


class OnDemand:
    def __init__(
        self,
        state: DeskState,
        ledger: Ledger,
        alerts: AlertPolicy,
        parked: Callable[[], Iterable[Reserve]],
    ) -> None:
        self._state, self._ledger, self._alerts, self._parked = state, ledger, alerts, parked
        self._of: DeskConfig | None = None
        self._configs: dict[str, AccountConfig] = {}
        self._accounts: dict[tuple[str, ...], tuple[tuple[str, bool], ...]] = {}
        """By budgets, the accounts that they charge, and whether a template stands for each."""
        self._has_templates = self._limits_runs = False

    def open_for(self, request: Reserve) -> Obstacle | None:
        """Opens the accounts that a call needs and that nobody has named. Says why that cannot be now."""
        self._take_config()
        if request.run is not None and (ended := self.ended(request.run)) is not None:
            return ended
        if not any(map(self._may_be_called, request.candidates)):
            return None
        in_the_way = self._open_budgets(request) if self._has_templates else None
        if in_the_way is None and request.run is not None:
            return self._open_runs(request, request.run)
        return in_the_way

    def ended(self, path: str) -> Obstacle | None:
        """Whether an admin ended the run, or what it is a part of, and only its name is left."""
        for level in run_ancestors(path) if self._state.ended_runs else ():
            if level in self._state.ended_runs:
                return Obstacle("impossible", "run_ended", f"run:{level} was ended by an admin")
        return None

    def _open_budgets(self, request: Reserve) -> Obstacle | None:
        for key, is_of_template in self._accounts_of(request.budgets):
            account = self._ledger.accounts.get(key)
            if account is None and is_of_template:
                if not self.has_room(request):
                    return self._full(key)
                account = self.open(key)
            if account is not None and account.is_on_demand:
                account.used_minute = self._minute()
        return None

    def _accounts_of(self, budgets: tuple[str, ...]) -> tuple[tuple[str, bool], ...]:
        found = self._accounts.get(budgets)
        if found is None:
            if len(self._accounts) >= CHARGED_MAX:
                self._accounts.clear()
            keys = (f"budget:{path}" for path in budgets_charged(budgets))
            found = self._accounts[budgets] = tuple((key, self.stands_for(key)) for key in keys)
        return found

    def _open_runs(self, request: Reserve, path: str) -> Obstacle | None:
        """The accounts of the run and its parts, as far as anything limits them."""
        limiting = needed = self._limiting(request)
        for level, asked in run_levels(path, request.run_terms):
            key, accounts = f"run:{level}", self._ledger.accounts
            if key not in accounts and (asked is not None or needed):
                if not self.has_room(request):
                    return self._full(key)
                self.open_run(key, Run(asked, limiting))
            elif key in accounts and (differs := self._named_anew(accounts[key], asked, limiting)):
                return differs
            if key in accounts:
                accounts[key].used_minute = self._minute()
            limiting, needed = self._renewing(limiting), ()  # a part may take what is asked for it, as often as its run
        return None

    def _limiting(self, request: Reserve) -> tuple[str, ...]:
        """The accounts of budgets that limit each run below them."""
        if not self._limits_runs:
            return ()
        keys = [f"budget:{path}" for path in budgets_charged(request.budgets)]
        return tuple(key for key in keys if limiting_runs([key], self._configs))

    def _renewing(self, limiting: tuple[str, ...]) -> tuple[str, ...]:
        """Of these accounts those that renew each run."""
        each = ((key, limiting_runs([key], self._configs)[0].per_run) for key in limiting)
        return tuple(key for key, per_run in each if per_run is not None and per_run.renews is not None)

    def _limits(self, key: str, run: Run) -> Limits:
        return limits_of(run, limiting_runs(run.budgets, self._configs), is_part="/" in key)

    def open_run(self, key: str, run: Run) -> Account:
        """Opens the account of a run that has none."""
        self._take_config()
        limits = self._limits(key, run)
        run.limit(limits)
        return self._is_open(self._ledger.open_run(key, run, limits.account()))

    def _named_anew(self, account: Account, asked: RunTerms | None, limiting: tuple[str, ...]) -> Obstacle | None:
        """The first limits that a request names stand, and each budget that limits its runs may lower them."""
        run = account.run
        assert run is not None  # the key says it
        if asked is not None and run.asked is not None and asked != run.asked:
            signs = self._state.config.admin.require_signature
            detail = alert_texts.other_limits(account.key.removeprefix("run:"), signs=signs)
            return Obstacle("impossible", "run_limits_differ", detail, account.key)
        more = tuple(key for key in limiting if key not in run.budgets)
        if more or (asked is not None and run.asked is None):
            run.asked, run.budgets = asked or run.asked, (*run.budgets, *more)
            limits = self._limits(account.key, run)
            self._ledger.configure(account.key, limits.account())
            if run.limit(limits):
                self._ledger.start_loading([account.key])
                self._state.loading = None
        return None

    def open(self, key: str) -> Account:
        """Opens an account that a template stands for. Raises KeyError where none does."""
        self._take_config()
        return self._is_open(self._ledger.open_on_demand(key, self._configs[template_key(key)]))

    def _is_open(self, account: Account) -> Account:
        """Others may have waited for it."""
        account.used_minute = self._minute()
        self._state.freed.add(account.key)
        return account

    def stands_for(self, key: str) -> bool:
        """Whether a template stands for the account, and no table of its own."""
        self._take_config()
        return key not in self._configs and template_key(key) in self._configs

    def forget(self) -> None:
        """Takes accounts out of the books that nobody has used for a while, and names of ended runs."""
        idle = self._idle(self._minute() - FORGOTTEN_AFTER_MINUTES, self._parked())
        self._forget(account for account in idle if not yet_to_tell(account))
        ended, latest_minute = self._state.ended_runs, self._minute() - CHANGED_RUN_KEPT_MINUTES
        for path in [path for path, minute in ended.items() if minute <= latest_minute]:
            del ended[path]

    def has_room_for_stopped(self, *needed_by: Reserve) -> bool:
        """Where runs that were ended, or are held, have more than their share of the accounts, some of those at rest
        leave it, the longest unused first: ended ones, whose names stay, then held ones."""
        runs = [(account, account.run) for account in self._ledger.accounts.values() if account.run is not None]
        stopped = {account.key: run for account, run in runs if run.is_stopped}
        if len(stopped) < RUNS_KEPT_MAX:
            return True
        accounts = (self._ledger.accounts[key] for key in stopped)
        resting = self._unneeded((each for each in accounts if self._is_at_rest(each)), [*needed_by, *self._parked()])
        resting.sort(key=lambda account: (not stopped[account.key].ended_by, account.used_minute))
        leaving = resting[: len(stopped) - RUNS_KEPT_MAX + max(1, RUNS_KEPT_MAX // 10)]
        for account in leaving:
            path = account.key.removeprefix("run:")
            if stopped[account.key].ended_by:
                self.remember_ended(path, account.used_minute)
            else:
                self._alerts.runaway_forgotten(path)
        self._forget(leaving)
        return len(stopped) - len(leaving) < RUNS_KEPT_MAX

    def remember_ended(self, path: str, minute: int | None = None) -> None:
        """That a run was ended which has no account, the oldest of too many no more."""
        ended = self._state.ended_runs
        ended[path] = self._minute() if minute is None else minute
        if len(ended) > ENDED_RUNS_MAX:
            del ended[min(ended, key=ended.__getitem__)]

    def has_room(self, *needed_by: Reserve) -> bool:
        """Where there is none, those that nobody uses now make room, the longest unused first; none that these need."""
        if self._ledger.is_full and self._ledger.may_have_room(self._state.now_ms):
            self._ledger.looks_for_room(self._state.now_ms)
            idle = self._idle(self._minute(), [*needed_by, *self._parked()])
            leaving = sorted(idle, key=attrgetter("used_minute"))[:_ROOM]
            self._alerts.watched(told for account in leaving for told in yet_to_tell(account))
            self._forget(leaving)
        return not self._ledger.is_full

    def _idle(self, latest_minute: int, needed_by: Iterable[Reserve]) -> list[Account]:
        """Accounts that nobody has used since, and of which everything is stored.

        None whose money is on hold, unconfirmed, or missing in the database, whose cap an admin has changed, whose
        limits are not drained, or which a call needs that waits. Runs that an admin changed stay for a week.
        """
        idle = (
            account
            for account in self._ledger.accounts.values()
            if account.is_on_demand and _kept_until(account) <= latest_minute and self._is_at_rest(account)
        )
        return self._unneeded(idle, needed_by)

    def _is_at_rest(self, account: Account) -> bool:
        is_missing = any(balance.missing_nanos for balance in account.balances.values())
        by_admin = account.run is None and account.is_changed_by_admin
        return not (account.loading or is_missing or by_admin) and account.limiter.is_idle(self._state.now_ms)

    def _unneeded(self, accounts: Iterable[Account], needed_by: Iterable[Reserve]) -> list[Account]:
        """Those that no hold is charged to, and that none of these requests needs."""
        if not (accounts := list(accounts)):
            return []
        held = {key for hold in self._ledger.holds.values() for key in hold.accounts}
        needed = held.union(*(accounts_charged(each.budgets, "", each.run) for each in needed_by))
        return [account for account in accounts if account.key not in needed]

    def _forget(self, accounts: Iterable[Account]) -> None:
        if gone := {account.key for account in accounts}:
            self._ledger.close_accounts(gone)

    def _full(self, key: str) -> Obstacle:
        detail = f"{key}: the ledger has {ACCOUNTS_MAX:,} accounts, and none is idle that could be forgotten"
        self._alerts.accounts_full(detail)
        until_ms = self._ledger.may_have_room_ms
        return Obstacle("transient", "accounts_full", detail, key, until_ms)

    def _may_be_called(self, candidate: Candidate) -> bool:
        return candidate.purchase or f"service:{candidate.service}" in self._ledger.accounts

    def _minute(self) -> int:
        return self._state.now_ms // 60_000

    def _take_config(self) -> None:
        config = self._state.config
        if self._of is not config:
            self._of, self._configs, self._accounts = config, account_configs(config), {}
            self._has_templates = any(map(is_template, config.budgets))
            self._limits_runs = any(budget.limits_runs for budget in config.budgets.values())


def _kept_until(account: Account) -> int:
    """In minutes since 1970."""
    changed = account.run is not None and account.is_changed_by_admin
    return account.used_minute + CHANGED_RUN_KEPT_MINUTES * changed
