"""The books: accounts with caps per window, and holds that end exactly once.

Money is in integer nano-dollars. A hold counts against every account of its call at once, all or nothing, in the
windows in which it was made: what is settled after midnight is charged to yesterday. The `total` of every account is
kept even when it has no cap, so that the books can always be compared with the stored entries.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from paymaster.admission.accounts import Account, Balance, new_balance
from paymaster.admission.book_changes import SEVERITY, Crossed, Posted, Rolled, Shortfall, why_short
from paymaster.admission.calendars import Calendars
from paymaster.admission.held_runs import count_anew, is_held, runs_of
from paymaster.admission.holds import Hold
from paymaster.admission.lines import Lines, lines_of
from paymaster.admission.rolling import roll_windows
from paymaster.admission.runs import Run
from paymaster.admission.timers import Timers
from paymaster.admission.token_counts import BYTES_PER_TOKEN, TOKENS_NOT_ESTIMATED_MAX
from paymaster.messages import AccountConfig, BudgetNotice, Window
from paymaster.messages.base import CountsForBudgets
from paymaster.values.budget_path import accounts_charged
from paymaster.values.limits import ACCOUNTS_MAX
from paymaster.values.time_zones import UTC_NAME, Offsets
from paymaster.values.windows import ALL_WINDOWS, LOCAL_WINDOWS, ROLLING_MS, STEPS_MS, WINDOWS

CHARGED_MAX = 20_000
"""How many budgets' accounts are remembered, to look them up only once."""
LOOK_FOR_ROOM_MS = 1_000
"""Between two looks for accounts that can be forgotten: each looks at all of them."""


@dataclass(slots=True)
class LedgerState:
    """What continue-as-new carries."""

    accounts: dict[str, Account] = field(default_factory=dict[str, Account])
    holds: dict[str, Hold] = field(default_factory=dict[str, Hold])
    window_starts_ms: dict[Window, int] = field(default_factory=lambda: dict.fromkeys(WINDOWS, 0))
    """Of the windows that these books know, in their order."""
    zone_starts_ms: dict[str, dict[Window, int]] = field(default_factory=dict[str, dict[Window, int]])
    """By time zone, those that do not begin in UTC."""
    looked_for_room_ms: int = 0
    """When accounts were looked for last that could be forgotten, because there was no room for new ones."""
    changed: dict[str, None] = field(default_factory=dict[str, None])
    """Accounts that changed, or went, since they were copied, in the order of their first change."""
    all_changed: bool = False
    """More than are kept one by one: all are copied anew."""
    folded_purchases: int = 0
    """Unconfirmed purchases that are no holds any more: no account of a service counts them."""

    def mark(self, keys: Iterable[str]) -> None:
        """Something changed in these accounts that a status shows."""
        if not self.all_changed:
            self.changed.update(dict.fromkeys(keys))
            if len(self.changed) > ACCOUNTS_MAX:
                self.mark_all()

    def mark_all(self) -> None:
        """Takes no room, however many accounts there are and were."""
        self.changed.clear()
        self.all_changed = True


class Ledger:
    """Accounts and holds. Every method is all or nothing."""

    def __init__(self, state: LedgerState, time_zones: Mapping[str, Offsets]) -> None:
        """`time_zones` are those of the configuration in force."""
        self.state = state
        self.accounts = state.accounts
        self.holds = state.holds
        self.unconfirmed = sum(hold.state == "unconfirmed" for hold in state.holds.values())
        """Of the holds here."""
        self.calendars = Calendars(state.window_starts_ms, state.zone_starts_ms)
        self.calendars.know(time_zones)
        self._lines: dict[tuple[str, ...], Lines] = {}
        self._charged: dict[tuple[tuple[str, ...], str, str | None], tuple[str, ...]] = {}
        self.pending = {hold_id: hold for hold_id, hold in self.holds.items() if hold.state == "pending"}
        """The holds that were not settled yet, in the order of their grants."""
        self._expiries = Timers((hold_id, hold.grant.expires_at_ms) for hold_id, hold in self.pending.items())
        self.running_at = Counter(hold.grant.service for hold in self.holds.values() if hold.running)
        """By service, the calls at once, also where no limit counts them."""

    def roll_windows(self, now_ms: int) -> Rolled:
        """Starts the windows of `now_ms`."""
        rolled = roll_windows(self.accounts, self.pending, self.calendars, now_ms)
        self.mark(sorted(rolled.accounts))
        return rolled

    def mark(self, keys: Iterable[str]) -> None:
        """Something changed in these accounts that a status shows."""
        self.state.mark(keys)

    def end_ms(self, balance: Balance) -> int | None:
        """When the window ends whose money the balance has; None for `total`."""
        zone = self.accounts[balance.account].time_zone
        began_ms = self.calendars.starts_ms(zone)[balance.window] + ROLLING_MS.get(balance.window, 0)
        return self.calendars.end_ms(zone, balance.window, began_ms)

    def move(self, zones: Mapping[str, str]) -> None:
        """Gives accounts, by their keys, other time zones: what was spent in other days, weeks and months is loaded."""
        for key, time_zone in zones.items():
            self.accounts[key].time_zone = time_zone
        self.start_loading(zones.keys())
        for key in zones:
            for window, balance in self.accounts[key].balances.items():
                if window in LOCAL_WINDOWS:
                    balance.kept_nanos = balance.missing_nanos = balance.alert_from_nanos = 0
                    balance.alerted = frozenset()

    def configure(
        self, key: str, config: AccountConfig, *, all_of_them: bool = False
    ) -> list[tuple[Window, int | None]]:
        """Sets what the file says about an account, new or known.

        A cap that an admin changed is left alone until the file's own value changes; of those that this ended, it
        returns the windows and what they were. `all_of_them`: of all caps that the file changed.
        """
        ended = self.caps_that_end(key, config, all_of_them=all_of_them)
        account = self.accounts.get(key) or self.open_account(key)
        for window in config.caps_nanos.keys() - account.balances.keys():
            self.open_window(key, window)
        account.alert_at, account.enforced = config.alert_at, config.enforce
        account.limiter.configure(config.limits())
        for window, balance in account.balances.items():
            file_cap = config.caps_nanos.get(window)
            balance.alert_from_nanos = 0
            if file_cap != balance.file_cap_nanos:
                balance.file_cap_nanos = file_cap
                self.uncap(balance)
        for balance in account.rolling():
            if balance.cap_nanos is None:
                del account.balances[balance.window]
        self._lines.clear()
        self.mark([key])
        return ended

    def open_window(self, key: str, window: Window) -> Balance:
        """A rolling window that is capped from now on. What was spent in it must be loaded."""
        balance = self.accounts[key].balances[window] = new_balance(key, window)
        self._lines.clear()
        self.start_loading([key])
        return balance

    def caps_that_end(
        self, key: str, config: AccountConfig, *, all_of_them: bool = False
    ) -> list[tuple[Window, int | None]]:
        """The windows, and their caps, in which the file's own value changes and so ends what an admin made of it."""
        account = self.accounts.get(key)
        if account is None:
            return [(window, None) for window in config.caps_nanos] if all_of_them else []
        return [
            (window, balance.cap_nanos)
            for window, balance in account.balances.items()
            if (balance.by_admin or all_of_them) and config.caps_nanos.get(window) != balance.file_cap_nanos
        ]

    def uncap(self, balance: Balance) -> None:
        """What admins did to this cap is over: the file's value is in force."""
        balance.cap_nanos = balance.file_cap_nanos
        balance.lapsing_nanos, balance.by_admin = 0, False
        balance.alerted = frozenset()
        self._lines.clear()
        self.mark([balance.account])

    def close_accounts(self, keys: Set[str]) -> None:
        """Takes accounts out of the books, and out of the holds that charge them, in one pass over the holds: the
        reverse of `open_accounts`."""
        for key in keys:
            del self.accounts[key]
        self.mark(sorted(keys))
        self._charged.clear()
        self._lines.clear()
        for hold in self.holds.values() if keys else ():
            if not keys.isdisjoint(hold.accounts):
                hold.accounts = tuple(account for account in hold.accounts if account not in keys)

    def count_running(self) -> None:
        """Counts the calls at once of every account anew: limits may have come or gone."""
        running = Counter(key for hold in self.holds.values() if hold.running for key in hold.accounts)
        for key, account in self.accounts.items():
            account.limiter.running = running[key]

    def open_account(self, key: str) -> Account:
        """A new account. Holds that it would have been charged with join it; what was spent before must be loaded."""
        self.open_accounts([key])
        return self.accounts[key]

    def open_accounts(self, keys: Sequence[str]) -> None:
        """New accounts, in one pass over the holds."""
        for key in keys:
            self.accounts[key] = Account(
                key, (), {window: new_balance(key, window) for window in self.calendars.windows}, loading=True
            )
        self.mark(keys)
        self._charged.clear()
        new = set(keys)
        for hold in self.holds.values() if new else ():
            charged = self.charged_accounts(hold.grant, hold.grant.service)
            hold.accounts = (*hold.accounts, *(key for key in charged if key in new))
        self._restate(new)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for accounts that are made at their first use."""
        return len(self.accounts) >= ACCOUNTS_MAX

    @property
    def may_have_room_ms(self) -> int:
        """When it is worth another look whether accounts can be forgotten."""
        return self.state.looked_for_room_ms + LOOK_FOR_ROOM_MS

    def may_have_room(self, now_ms: int) -> bool:
        return not self.is_full or now_ms >= self.may_have_room_ms

    def looks_for_room(self, now_ms: int) -> None:
        self.state.looked_for_room_ms = now_ms

    def open_on_demand(self, key: str, config: AccountConfig) -> Account:
        """An account at its first use. No hold is charged to it: those that would be keep theirs in the books."""
        caps = config.caps_nanos
        windows: list[Window] = [*WINDOWS, *(window for window in STEPS_MS if window in caps)]
        account = Account(
            key,
            config.alert_at,
            {window: new_balance(key, window, caps.get(window)) for window in windows},
            time_zone=config.time_zone,
            enforced=config.enforce,
            loading=True,
            fresh=True,
        )
        account.limiter.configure(config.limits())
        self.accounts[key] = account
        self.mark([key])
        self._charged.clear()
        return account

    def open_run(self, key: str, run: Run, config: AccountConfig) -> Account:
        """The account of a run. Calls of it may be on hold that came before it had any limit."""
        held = is_held(key.removeprefix("run:"), self.holds.values())
        if held:
            self.configure(key, config)
        else:
            self.open_on_demand(key, config)
        account = self.accounts[key]
        account.run = run
        self._restate({key} if held else set())
        return account

    def start_loading(self, keys: Collection[str]) -> None:
        """Sets aside what is posted in these accounts, but for what the holds here say, until `loaded` brings what is
        stored."""
        for key in keys:
            self.accounts[key].loading = True
        self.mark(keys)
        self._restate({key for key in keys if not self.accounts[key].fresh})  # no hold is charged to a fresh one

    def loaded(self, key: str, window: Window, posted_nanos: int, at_ms: int = 0) -> int:
        """Adds what was spent in this window under holds that were not here when the loading began.

        The books may have known more: then that stays, in a rolling window as spent at `at_ms`. Returns how much of it
        is newly missing in what is stored.
        """
        balance = self.accounts[key].balances[window]
        missing, before = max(0, balance.kept_nanos - posted_nanos), balance.missing_nanos
        if balance.steps is None:
            balance.posted_nanos += posted_nanos
        balance.post(missing, at_ms)
        balance.kept_nanos, balance.kept_steps, balance.missing_nanos = 0, None, missing
        return max(0, missing - before)

    def accept_less(self, account: Account, less_nanos: int | None, made_at_ms: int = 0) -> None:
        """Lets what is loaded next be lower than the books by so much (None: by any amount), in the windows around
        `made_at_ms` that have not ended (0: in all)."""
        starts = self.calendars.starts_ms(account.time_zone)
        for window, balance in account.balances.items():
            if not made_at_ms or made_at_ms >= starts[window]:
                balance.kept_nanos = 0 if less_nanos is None else max(0, balance.kept_nanos - less_nanos)

    def go_back(self, now_ms: int) -> None:
        """Makes the windows around an earlier time the open ones. Every account must be loaded anew."""
        self.calendars.begin(now_ms)
        self.start_loading(self.accounts.keys())

    def _restate(self, keys: Set[str]) -> None:
        balances = [balance for key in keys for balance in self.accounts[key].balances.values()]
        before = [(balance.posted_nanos, balance.steps) for balance in balances]
        for balance in balances:
            balance.begin_anew()
        for hold in self.holds.values() if keys else ():
            for key in hold.accounts:
                if key in keys:
                    account = self.accounts[key]
                    starts = self.calendars.starts_ms(account.time_zone)
                    for window, balance in account.balances.items():
                        if hold.grant.granted_at_ms >= starts[window]:
                            balance.post(hold.posted_nanos, hold.grant.granted_at_ms)
                            balance.pending_nanos += hold.grant.bound_nanos if hold.state == "pending" else 0
        for balance, (posted_nanos, steps) in zip(balances, before, strict=True):
            balance.keep(posted_nanos, steps)
        for key in keys:
            if (run := self.accounts[key].run) is not None:
                count_anew(key, run, self.holds.values(), self.calendars.starts_ms(UTC_NAME))

    def set_cap(self, key: str, window: Window, cap_nanos: int, *, lapsing_nanos: int = 0) -> None:
        """An admin's cap, of which a part may lapse when the window ends.

        It may be below what is posted: then it blocks until the window ends, and breaks nothing. Thresholds that are
        not reached any more alert again.
        """
        balance = self.accounts[key].balances[window]
        balance.cap_nanos, balance.lapsing_nanos, balance.by_admin = cap_nanos, lapsing_nanos, True
        self.mark([key])
        self.accounts[key].tell_again(balance)
        self._lines.clear()

    def charged_accounts(self, counted: CountsForBudgets, service: str) -> tuple[str, ...]:
        """The accounts that a call charges: the service, and of its run, its budgets and their ancestors those that
        exist."""
        named = counted.budgets, service, counted.run
        found = self._charged.get(named)
        if found is None:
            found = tuple(key for key in accounts_charged(*named) if key in self.accounts)
            if len(self._charged) >= CHARGED_MAX:
                self._charged.clear()
            self._charged[named] = found
        return found

    def is_loading(self, accounts: tuple[str, ...]) -> str | None:
        """One of the accounts for which nothing is granted yet, or None."""
        return next((key for key in accounts if self.accounts[key].loading), None)

    def full_or_wait_ms(self, accounts: tuple[str, ...], tokens: int, now_ms: int) -> tuple[str, int | None] | None:
        """The account whose limits are in the way longest, and for how long (None: until one of its calls ends)."""
        worst: tuple[str, int | None] | None = None
        for key, limiter in self._lines_of(accounts).binding_limits:
            if limiter.is_full:
                return key, None
            wait_ms = limiter.wait_ms(tokens, now_ms)
            if wait_ms > 0 and (worst is None or wait_ms > (worst[1] or 0)):
                worst = key, wait_ms
        return worst

    def shortfalls(self, accounts: tuple[str, ...], amount_nanos: int) -> list[Shortfall]:
        """Every cap that has no room for the amount.

        Nothing always fits: a free call goes on when a bill above its bound, or a lowered cap, left an account above
        it.
        """
        if amount_nanos == 0:
            return []
        return [
            Shortfall(why_short(balance, cap, amount_nanos), balance)
            for balance in self._lines_of(accounts).capped
            if (cap := balance.cap_nanos) is not None
            and balance.posted_nanos + balance.pending_nanos + amount_nanos > cap
        ]

    def shortfall(self, accounts: tuple[str, ...], amount_nanos: int) -> Shortfall | None:
        """The most lasting reason why the amount does not fit, or None when it fits everywhere."""
        return max(self.shortfalls(accounts, amount_nanos), key=self._lasts, default=None)

    def _lasts(self, shortfall: Shortfall) -> tuple[int, float, int]:
        """Orders reasons: of two that are the same, the one whose window ends later lasts longer. A week may end after
        its month."""
        end_ms = self.end_ms(shortfall.balance)
        lasts = math.inf if end_ms is None else end_ms
        return SEVERITY.index(shortfall.kind), lasts, ALL_WINDOWS.index(shortfall.balance.window)

    def hold(self, hold: Hold) -> list[Balance]:
        """Sets the bound aside and takes from the limits. The caller has asked whether it fits at the same moment.

        Returns the balances that have no room for it and are watched only.
        """
        self.holds[hold.grant.hold_id] = self.pending[hold.grant.hold_id] = hold
        self._expiries.set(hold.grant.hold_id, hold.grant.expires_at_ms)
        self.running_at[hold.grant.service] += 1
        self.mark(hold.accounts)
        lines, bound, now_ms = self._lines_of(hold.accounts), hold.grant.bound_nanos, hold.grant.granted_at_ms
        for balance in lines.all:
            balance.pending_nanos += bound
        for _, limiter in lines.limits if hold.running else ():
            limiter.start(hold.tokens, now_ms)
        for run in runs_of(hold, self.accounts):
            run.granted(now_ms, another_call=hold.is_first)
        over = [b for b in lines.watched if bound and b.posted_nanos + b.pending_nanos > (b.cap_nanos or 0)]
        for balance in over:
            balance.let_through += 1
        return over

    def next_expiry_ms(self) -> int:
        """When the first hold expires; NEVER_MS if none is pending."""
        return self._expiries.first_ms()

    def take_expired(self, now_ms: int, most: int | None) -> list[Hold]:
        """Pending holds whose time is over, so many at most, in the order of their grants."""
        due = set(self._expiries.take_due(now_ms, most))
        return [hold for hold_id, hold in self.pending.items() if hold_id in due] if due else []

    def release(self, hold: Hold, tokens: int | None, now_ms: int) -> None:
        """The call of this hold has ended: its place is free, and its rate limits learn what it really used."""
        if not hold.running:
            return
        hold.running = False
        self.running_at[hold.grant.service] -= 1
        for _, limiter in self._lines_of(hold.accounts).limits:
            limiter.running -= 1
            if tokens is not None:
                # What a provider claims blocks nobody for longer than this attempt could have by itself.
                tokens_max = hold.tokens * BYTES_PER_TOKEN + TOKENS_NOT_ESTIMATED_MAX
                limiter.use(0, min(tokens, tokens_max) - hold.tokens, now_ms)

    def post(self, hold_id: str, cost_nanos: int, *, confirmed: bool) -> Posted:
        """pending → posted at the real cost, or a correction of what was posted unconfirmed. Confirmed holds are over.

        The cost may be above the bound (overage): it is posted all the same, because it was spent.
        """
        hold = self.holds[hold_id]
        freed = hold.grant.bound_nanos if hold.state == "pending" else 0
        change = cost_nanos - hold.posted_nanos
        self.mark(hold.accounts)
        notices: list[BudgetNotice] = []
        crossed: list[Crossed] = []
        for balance in self._open_lines(hold):
            balance.pending_nanos -= freed
            balance.post(change, hold.grant.granted_at_ms)
            posted = balance.posted_nanos
            if (cap := balance.cap_nanos) is None:
                continue
            parts: tuple[float, ...] = ()
            if posted >= balance.alert_from_nanos:
                parts = self.accounts[balance.account].newly_crossed(balance)
                crossed += [Crossed(balance, part) for part in parts]
            notices.append(BudgetNotice(balance.account, balance.window, cap, posted, balance.pending_nanos, parts))
        if self.pending.pop(hold_id, None) is not None:
            self._expiries.set(hold_id, None)
        if confirmed:
            self.unconfirmed -= hold.state == "unconfirmed"
            del self.holds[hold_id]
        else:
            self.unconfirmed += hold.state == "pending"
            hold.state, hold.posted_nanos = "unconfirmed", cost_nanos
        return Posted(tuple(notices), tuple(crossed))

    def _lines_of(self, accounts: tuple[str, ...]) -> Lines:
        lines = self._lines.get(accounts)
        if lines is None:
            lines = self._lines[accounts] = lines_of(accounts, self.accounts)
        return lines

    def _open_lines(self, hold: Hold) -> Iterable[Balance]:
        """The balances that the hold is part of: those of windows that have not ended since it was made."""
        lines = self._lines_of(hold.accounts).all
        made_at_ms, accounts = hold.grant.granted_at_ms, self.accounts
        if made_at_ms >= self.calendars.starts_ms(UTC_NAME)["minute"]:  # no longer window ends before the minute does
            return lines
        starts = {key: self.calendars.starts_ms(accounts[key].time_zone) for key in hold.accounts}
        return [balance for balance in lines if made_at_ms >= starts[balance.account][balance.window]]
