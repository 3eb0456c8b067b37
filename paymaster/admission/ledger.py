"""The books: accounts with caps per window, and holds that end exactly once.

Money is in integer nano-dollars. A hold counts against every account of its call at once, all or nothing, in the
windows in which it was made: what is settled after midnight is charged to yesterday. The `total` of every account is
kept even when it has no cap, so that the books can always be compared with the stored entries.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, get_args

from paymaster.budget_path import budget_ancestors
from paymaster.messages import AccountConfig, BudgetNotice, CallRef, Grant, Window

WINDOWS: tuple[Window, ...] = get_args(Window)


def window_start_ms(window: Window, now_ms: int) -> int:
    """When the calendar window (UTC) around `now_ms` began; 0 for `total`."""
    match window:
        case "minute":
            return now_ms - now_ms % 60_000
        case "hour":
            return now_ms - now_ms % 3_600_000
        case "day":
            return now_ms - now_ms % 86_400_000
        case "month":
            first = datetime.fromtimestamp(now_ms / 1000, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            return int(first.timestamp()) * 1000
        case "total":
            return 0


def window_end_ms(window: Window, now_ms: int) -> int | None:
    """When the window around `now_ms` ends and the next begins; None for `total`, which never ends."""
    match window:
        case "minute":
            return window_start_ms(window, now_ms) + 60_000
        case "hour":
            return window_start_ms(window, now_ms) + 3_600_000
        case "day":
            return window_start_ms(window, now_ms) + 86_400_000
        case "month":
            in_the_next = datetime.fromtimestamp(window_start_ms(window, now_ms) / 1000, UTC) + timedelta(days=32)
            return window_start_ms(window, int(in_the_next.timestamp()) * 1000)
        case "total":
            return None


@dataclass(slots=True)
class Balance:
    """One account's money in one window, as of now."""

    account: str
    window: Window
    cap_nanos: int | None = None
    """What is in force. None: not capped."""
    file_cap_nanos: int | None = None
    """What the configuration said last; a cap that an admin changed stays until the file's own value changes."""
    posted_nanos: int = 0
    pending_nanos: int = 0


@dataclass(slots=True)
class Account:
    """Every window is kept, capped or not, so that a new cap on any of them is exact from its first moment."""

    key: str
    alert_at: tuple[float, ...]
    balances: dict[Window, Balance]


@dataclass(slots=True)
class Hold:
    call: CallRef
    grant: Grant
    accounts: tuple[str, ...]
    """What it was charged to, even if the configuration names other accounts later."""
    state: Literal["pending", "unconfirmed"] = "pending"
    posted_nanos: int = 0
    """When unconfirmed: at what it is posted until somebody knows better."""
    expired: bool = False


@dataclass(slots=True)
class LedgerState:
    """What continue-as-new carries."""

    accounts: dict[str, Account] = field(default_factory=dict[str, Account])
    holds: dict[str, Hold] = field(default_factory=dict[str, Hold])
    window_starts_ms: dict[Window, int] = field(default_factory=lambda: dict.fromkeys(WINDOWS, 0))


class Shortfall(NamedTuple):
    """Why an amount does not fit into an account now."""

    kind: Literal["never", "gone", "held"]
    """never: above the cap itself. gone: posted money is in the way. held: only pending holds are."""
    balance: Balance


_SEVERITY = {"held": 0, "gone": 1, "never": 2}


class _Lines(NamedTuple):
    """The balances that a set of accounts consists of, looked up once."""

    all: tuple[Balance, ...]
    capped: tuple[Balance, ...]


class Ledger:
    """Accounts and holds. Every method is all or nothing."""

    def __init__(self, state: LedgerState) -> None:
        self.accounts = state.accounts
        self.holds = state.holds
        self._window_starts_ms = state.window_starts_ms
        self._lines: dict[tuple[str, ...], _Lines] = {}

    def roll_windows(self, now_ms: int) -> set[str]:
        """Starts the windows of `now_ms`, and returns the accounts of which a capped window ended."""
        rolled: set[str] = set()
        for window in WINDOWS:
            start = window_start_ms(window, now_ms)
            if start <= self._window_starts_ms[window]:
                continue
            self._window_starts_ms[window] = start
            for account in self.accounts.values():
                balance = account.balances[window]
                balance.posted_nanos = balance.pending_nanos = 0
                if balance.cap_nanos is not None:
                    rolled.add(account.key)
        return rolled

    def configure(self, key: str, config: AccountConfig) -> None:
        """Sets what the file says about an account, new or known. A cap that an admin changed is left alone."""
        account = self.accounts.get(key)
        if account is None:
            account = Account(key, config.alert_at, {window: Balance(key, window) for window in WINDOWS})
            self.accounts[key] = account
        account.alert_at = config.alert_at
        for window, balance in account.balances.items():
            file_cap = config.caps_nanos.get(window)
            if file_cap != balance.file_cap_nanos:
                balance.cap_nanos = balance.file_cap_nanos = file_cap
        self._lines.clear()

    def set_cap(self, key: str, window: Window, cap_nanos: int) -> None:
        """An admin's cap. It may be below what is posted: then it blocks until the window ends, and breaks nothing."""
        self.accounts[key].balances[window].cap_nanos = cap_nanos
        self._lines.clear()

    def charged_accounts(self, budget: str, service: str) -> tuple[str, ...] | None:
        """The accounts that a call charges, or None when neither the budget nor an ancestor is configured."""
        budgets = tuple(key for path in budget_ancestors(budget) if (key := f"budget:{path}") in self.accounts)
        return (*budgets, f"service:{service}") if budgets else None

    def shortfall(self, accounts: tuple[str, ...], amount_nanos: int) -> Shortfall | None:
        """The most lasting reason why the amount does not fit, or None when it fits everywhere."""
        worst: Shortfall | None = None
        for balance in self._lines_of(accounts).capped:
            cap = balance.cap_nanos
            if cap is None or balance.posted_nanos + balance.pending_nanos + amount_nanos <= cap:
                continue
            kind = "never" if amount_nanos > cap else "gone" if balance.posted_nanos + amount_nanos > cap else "held"
            if worst is None or _SEVERITY[kind] > _SEVERITY[worst.kind]:
                worst = Shortfall(kind, balance)
        return worst

    def hold(self, hold: Hold) -> None:
        """Sets the bound aside. The caller has asked `shortfall` at the same moment."""
        self.holds[hold.grant.hold_id] = hold
        for balance in self._lines_of(hold.accounts).all:
            balance.pending_nanos += hold.grant.bound_nanos

    def post(self, hold_id: str, cost_nanos: int, *, confirmed: bool) -> tuple[BudgetNotice, ...]:
        """pending → posted at the real cost, or a correction of what was posted unconfirmed. Confirmed holds are over.

        The cost may be above the bound (overage): it is posted all the same, because it was spent.
        """
        hold = self.holds[hold_id]
        freed = hold.grant.bound_nanos if hold.state == "pending" else 0
        change = cost_nanos - hold.posted_nanos
        notices: list[BudgetNotice] = []
        for balance in self._open_lines(hold):
            before = balance.posted_nanos
            balance.pending_nanos -= freed
            balance.posted_nanos += change
            if balance.cap_nanos is not None:
                notices.append(self._notice(balance, balance.cap_nanos, before))
        if confirmed:
            del self.holds[hold_id]
        else:
            hold.state, hold.posted_nanos = "unconfirmed", cost_nanos
        return tuple(notices)

    def _lines_of(self, accounts: tuple[str, ...]) -> _Lines:
        lines = self._lines.get(accounts)
        if lines is None:
            every = tuple(balance for key in accounts for balance in self.accounts[key].balances.values())
            lines = _Lines(every, tuple(balance for balance in every if balance.cap_nanos is not None))
            self._lines[accounts] = lines
        return lines

    def _open_lines(self, hold: Hold) -> Iterable[Balance]:
        """The balances that the hold is part of: those of windows that have not ended since it was made."""
        lines = self._lines_of(hold.accounts).all
        made_at_ms, starts = hold.grant.granted_at_ms, self._window_starts_ms
        if made_at_ms >= starts["minute"]:  # no longer window ends before the minute does
            return lines
        return [balance for balance in lines if made_at_ms >= starts[balance.window]]

    def _notice(self, balance: Balance, cap_nanos: int, posted_before: int) -> BudgetNotice:
        return BudgetNotice(
            account=balance.account,
            window=balance.window,
            cap_nanos=cap_nanos,
            posted_nanos=balance.posted_nanos,
            pending_nanos=balance.pending_nanos,
            crossed=tuple(
                part
                for part in self.accounts[balance.account].alert_at
                if posted_before < cap_nanos * part <= balance.posted_nanos
            ),
        )
