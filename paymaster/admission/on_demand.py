"""Accounts of templates: made at their first use, and forgotten when nobody has used them for a while.

What a forgotten account has spent is in the stored rows, and is read from them when its name comes back. Memory follows
who is active, and not who exists.
"""

from collections.abc import Callable, Iterable, Set
from operator import attrgetter

from paymaster.admission.account_rows import account_configs, template_key
from paymaster.admission.accounts import Account
from paymaster.admission.alert_policy import AlertPolicy
from paymaster.admission.books import Ledger
from paymaster.admission.routing import Obstacle
from paymaster.admission.state import DeskState
from paymaster.messages import AccountConfig, DeskConfig, Reserve
from paymaster.values.budget_path import budgets_charged, is_template
from paymaster.values.limits import ACCOUNTS_MAX

FORGOTTEN_AFTER_MINUTES = 10
"""How long an account stays that nobody uses."""
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
        self._has_templates = False

    def open_for(self, request: Reserve) -> Obstacle | None:
        """Opens the accounts that a call needs and that templates stand for. Says why that cannot be now."""
        self._take_config()
        if not self._has_templates:
            return None
        for path in budgets_charged(request.budgets):
            key = f"budget:{path}"
            account = self._ledger.accounts.get(key)
            if account is None and self.stands_for(key):
                if not self._has_room(request):
                    return self._full(path, request)
                account = self.open(key)
            if account is not None and account.is_on_demand:
                account.used_minute = self._minute()
        return None

    def open(self, key: str) -> Account:
        """Opens an account that a template stands for. Raises KeyError where none does."""
        self._take_config()
        account = self._ledger.open_on_demand(key, self._configs[template_key(key)])
        account.used_minute = self._minute()
        return account

    def stands_for(self, key: str) -> bool:
        """Whether a template stands for the account, and no table of its own."""
        self._take_config()
        return key not in self._configs and template_key(key) in self._configs

    def forget(self) -> None:
        """Takes accounts out of the books that nobody has used for a while."""
        self._forget(self._idle(self._minute() - FORGOTTEN_AFTER_MINUTES, self._parked()))

    def _has_room(self, request: Reserve) -> bool:
        """Where there is none, those that nobody uses now make room, the longest unused first."""
        if self._ledger.is_full and self._ledger.may_have_room(self._state.now_ms):
            self._ledger.looks_for_room(self._state.now_ms)
            idle = self._idle(self._minute(), [request, *self._parked()])
            self._forget(sorted(idle, key=attrgetter("used_minute"))[:_ROOM])
        return not self._ledger.is_full

    def _idle(self, latest_minute: int, needed_by: Iterable[Reserve]) -> list[Account]:
        """Accounts that nobody has used since, and of which everything is stored.

        None whose money is on hold, unconfirmed, or missing in the database, whose cap an admin has changed, whose
        limits are not drained, or which a call needs that waits.
        """
        now_ms = self._state.now_ms
        idle = [
            account
            for account in self._ledger.accounts.values()
            if account.is_on_demand and account.used_minute <= latest_minute and _is_at_rest(account, now_ms)
        ]
        if not idle:
            return []
        needed = self._needed(needed_by)
        return [account for account in idle if account.key not in needed]

    def _needed(self, requests: Iterable[Reserve]) -> Set[str]:
        held = {key for hold in self._ledger.holds.values() for key in hold.accounts}
        return held | {f"budget:{path}" for request in requests for path in budgets_charged(request.budgets)}

    def _forget(self, accounts: Iterable[Account]) -> None:
        if gone := {account.key for account in accounts}:
            self._ledger.close_accounts(gone)

    def _full(self, path: str, request: Reserve) -> Obstacle:
        detail = f"budget {path!r}: the ledger has {ACCOUNTS_MAX:,} accounts, and none is idle that could be forgotten"
        self._alerts.accounts_full(detail)
        until_ms = self._ledger.may_have_room_ms
        return Obstacle("transient", "accounts_full", detail, f"service:{request.candidates[0].service}", until_ms)

    def _minute(self) -> int:
        return self._state.now_ms // 60_000

    def _take_config(self) -> None:
        config = self._state.config
        if self._of is not config:
            self._of, self._configs = config, account_configs(config)
            self._has_templates = any(map(is_template, config.budgets))


def _is_at_rest(account: Account, now_ms: int) -> bool:
    unsettled = any(balance.missing_nanos or balance.let_through for balance in account.balances.values())
    return not (account.loading or unsettled or account.is_changed_by_admin) and account.limiter.is_idle(now_ms)
