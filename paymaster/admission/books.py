"""The books: accounts with caps per window, and holds that end exactly once.

Money is in integer nano-dollars. A hold counts against every account of its call at once, all or nothing, in the
windows in which it was made: what is settled after midnight is charged to yesterday. The `total` of every account is
kept even when it has no cap, so that the books can always be compared with the stored entries.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from paymaster.admission.accounts import Account, Balance, new_balance, next_threshold, reached
from paymaster.admission.book_changes import SEVERITY, Crossed, LetThrough, Posted, Rolled, Shortfall, why_short
from paymaster.admission.calendars import Calendars
from paymaster.admission.holds import Hold
from paymaster.admission.limiter import Limiter
from paymaster.admission.runs import Run
from paymaster.admission.timers import Timers
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

BYTES_PER_TOKEN = 4
"""For the estimate that rate limits are charged with before the call: English text has about 4.5 bytes a token. What it
is wrong by is corrected when the call has ended."""
INPUT_OVERHEAD_TOKENS = 1_024
"""Input tokens never exceeded the request's bytes plus this in 1,259 of 1,260 recorded text-only calls to 12 hosts; the
one exception searched the web by itself. The largest overhead seen over the bytes was 629 (a hidden system prompt)."""
TOKENS_NOT_ESTIMATED_MAX = INPUT_OVERHEAD_TOKENS + BYTES_PER_TOKEN - 1
"""No attempt has more tokens than its estimate times `BYTES_PER_TOKEN`, and these."""


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


class _Lines(NamedTuple):
    """What a set of accounts consists of, looked up once."""

    all: tuple[Balance, ...]
    capped: tuple[Balance, ...]
    """Those whose caps bind."""
    watched: tuple[Balance, ...]
    """Those whose caps are watched only."""
    limits: tuple[tuple[str, Limiter], ...]
    """Of the accounts that have any."""
    binding_limits: tuple[tuple[str, Limiter], ...]


class Ledger:
    """Accounts and holds. Every method is all or nothing."""

    def __init__(self, state: LedgerState, time_zones: Mapping[str, Offsets]) -> None:
        """`time_zones` are those of the configuration in force."""
        self._state = state
        self.accounts = state.accounts
        self.holds = state.holds
        self.unconfirmed = sum(hold.state == "unconfirmed" for hold in state.holds.values())
        """Of the holds here."""
        self.calendars = Calendars(state.window_starts_ms, state.zone_starts_ms)
        self.calendars.know(time_zones)
        self._lines: dict[tuple[str, ...], _Lines] = {}
        self._charged: dict[tuple[tuple[str, ...], str, str | None], tuple[str, ...]] = {}
        self.pending = {hold_id: hold for hold_id, hold in self.holds.items() if hold.state == "pending"}
        """The holds that were not settled yet, in the order of their grants."""
        self._expiries = Timers((hold_id, hold.grant.expires_at_ms) for hold_id, hold in self.pending.items())
        self.running_at = Counter(hold.grant.service for hold in self.holds.values() if hold.running)
        """By service, the calls at once, also where no limit counts them."""

    def roll_windows(self, now_ms: int) -> Rolled:
        """Starts the windows of `now_ms`."""
        rolled: set[str] = set()
        lapsed, let_through = False, list[LetThrough]()
        if not (ended := self.calendars.ended(now_ms)):
            return Rolled(rolled, let_through, lapsed)
        self.calendars.begin(now_ms)
        rolling: list[tuple[Account, Balance]] = []
        for account in self.accounts.values():
            for window in ended.get(account.time_zone, ()):
                balance = account.balances.get(window)
                if balance is None:
                    continue
                if balance.let_through:
                    let_through.append(LetThrough(account.key, window, balance.cap_nanos or 0, balance.let_through))
                    balance.let_through = 0
                if balance.steps is not None:
                    rolling.append((account, balance))
                    rolled.add(account.key)
                    continue
                balance.posted_nanos = balance.pending_nanos = balance.alert_from_nanos = 0
                balance.kept_nanos = balance.missing_nanos = 0
                balance.alerted = frozenset()
                if balance.cap_nanos is not None:
                    lapsed = lapsed or balance.lapsing_nanos > 0
                    balance.cap_nanos -= balance.lapsing_nanos
                    balance.lapsing_nanos = 0
                    rolled.add(account.key)
        self._roll_on(rolling)
        return Rolled(rolled, let_through, lapsed)

    def _roll_on(self, rolling: Sequence[tuple[Account, Balance]]) -> None:
        """The oldest steps of rolling windows leave them, and with them what is held since then; in one pass over the
        holds."""
        found: dict[str, list[tuple[int, Balance]]] = {}
        for account, balance in rolling:
            start_ms = self.calendars.starts_ms(account.time_zone)[balance.window]
            balance.leave_steps_before(start_ms)
            balance.missing_nanos = min(balance.missing_nanos, balance.posted_nanos)
            balance.pending_nanos = 0
            found.setdefault(account.key, []).append((start_ms, balance))
            self._tell_again(account, balance)
        for hold in self.pending.values() if found else ():
            for key in hold.accounts:
                for start_ms, balance in found.get(key, ()):
                    if hold.grant.granted_at_ms >= start_ms:
                        balance.pending_nanos += hold.grant.bound_nanos

    def _tell_again(self, account: Account, balance: Balance) -> None:
        """Thresholds that are not reached any more alert again."""
        balance.alert_from_nanos = 0
        parts = map(str, account.alert_at)
        balance.alerted = frozenset(part for part in parts if part in balance.alerted and reached(balance, part))

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

    def close_accounts(self, keys: Set[str]) -> None:
        """Takes accounts out of the books, and out of the holds that charge them, in one pass over the holds: the
        reverse of `open_accounts`."""
        for key in keys:
            del self.accounts[key]
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
        return self._state.looked_for_room_ms + LOOK_FOR_ROOM_MS

    def may_have_room(self, now_ms: int) -> bool:
        return not self.is_full or now_ms >= self.may_have_room_ms

    def looks_for_room(self, now_ms: int) -> None:
        self._state.looked_for_room_ms = now_ms

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
        self._charged.clear()
        return account

    def open_run(self, key: str, run: Run, config: AccountConfig) -> Account:
        """The account of a run. Calls of it may be on hold that came before it had any limit."""
        path = key.removeprefix("run:")
        held = any(
            of == path or of.startswith(f"{path}/")
            for hold in self.holds.values()
            if (of := hold.grant.run) is not None
        )
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

    def loaded_run(self, key: str, calls: int, began_ms: int) -> None:
        """Adds the calls of which rows are stored; `began_ms`: when the first of them was granted."""
        run = self.accounts[key].run
        if run is not None and calls:
            run.calls += calls
            run.began_ms = min(run.began_ms or began_ms, began_ms)

    def loaded_steps(self, key: str, window: Window, steps: Mapping[int, int], start_ms: int) -> int:
        """Adds what was spent in each step of a rolling window that begins there; the sum of it."""
        balance = self.accounts[key].balances[window]
        counted = {step: nanos for step, nanos in steps.items() if step >= start_ms}
        for step, nanos in counted.items():
            balance.post(nanos, step)
        return sum(counted.values())

    def tell_no_more(self, account: Account) -> None:
        """What was spent before the account came back into the books has been told then."""
        for balance in account.balances.values():
            if balance.cap_nanos is not None:
                self._newly_crossed(balance)

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
                held = [hold for hold in self.holds.values() if key in hold.accounts]
                run.calls = sum(hold.is_first for hold in held)
                for hold in held:
                    run.began_ms = min(run.began_ms or hold.grant.granted_at_ms, hold.grant.granted_at_ms)

    def set_cap(self, key: str, window: Window, cap_nanos: int, *, lapsing_nanos: int = 0) -> None:
        """An admin's cap, of which a part may lapse when the window ends.

        It may be below what is posted: then it blocks until the window ends, and breaks nothing. Thresholds that are
        not reached any more alert again.
        """
        balance = self.accounts[key].balances[window]
        balance.cap_nanos, balance.lapsing_nanos, balance.by_admin = cap_nanos, lapsing_nanos, True
        self._tell_again(self.accounts[key], balance)
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
        lines, bound, now_ms = self._lines_of(hold.accounts), hold.grant.bound_nanos, hold.grant.granted_at_ms
        for balance in lines.all:
            balance.pending_nanos += bound
        for _, limiter in lines.limits if hold.running else ():
            limiter.start(hold.tokens, now_ms)
        for run in self._runs_of(hold):
            run.granted(now_ms, another_call=hold.is_first)
        over = [b for b in lines.watched if bound and b.posted_nanos + b.pending_nanos > (b.cap_nanos or 0)]
        for balance in over:
            balance.let_through += 1
        return over

    def _runs_of(self, hold: Hold) -> list[Run]:
        if hold.grant.run is None:
            return []
        return [run for key in hold.accounts if (run := self.accounts[key].run) is not None]

    def takes_back(self, hold: Hold) -> None:
        """The call of this hold sent nothing under its first grant: none of its runs has had it."""
        for run in self._runs_of(hold) if hold.is_first else ():
            run.calls -= 1

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
                parts = self._newly_crossed(balance)
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

    def fold(self, keep: int, spared: Set[str]) -> int | None:
        """Takes unconfirmed holds out of the books until `keep` are left, the oldest first: their money stays posted,
        and their place among the calls at once is free. Returns when the latest of them was granted; None: there was
        none.

        `spared` are hold ids of which no entry is stored yet.
        """
        over, latest_ms = self.unconfirmed - keep, None
        for hold_id in [hold_id for hold_id, hold in self.holds.items() if hold.state == "unconfirmed"]:
            if over <= 0:
                break
            if hold_id in spared:
                continue
            hold = self.holds.pop(hold_id)
            self.unconfirmed -= 1
            over -= 1
            self.release(hold, None, 0)
            for key in hold.accounts:
                self.accounts[key].folded += 1
                self.accounts[key].folded_nanos += hold.posted_nanos
            latest_ms = max(latest_ms or 0, hold.grant.granted_at_ms)
        return latest_ms

    def folded(self) -> int:
        """Unconfirmed attempts that are no holds any more. Each is in one service's account."""
        return sum(account.folded for key, account in self.accounts.items() if key.startswith("service:"))

    def correct_folded(self, accounts: tuple[str, ...], granted_at_ms: int, posted_nanos: int, cost_nanos: int) -> bool:
        """Posts what a folded attempt did cost instead of what it was posted at. False, and nothing is changed, where
        an account has not folded so much, or is being loaded."""
        lines = [self.accounts[key] for key in accounts]
        if not lines or any(line.loading or not line.folded or posted_nanos > line.folded_nanos for line in lines):
            return False
        for line in lines:
            line.folded -= 1
            line.folded_nanos -= posted_nanos
            starts = self.calendars.starts_ms(line.time_zone)
            for window, balance in line.balances.items():
                if granted_at_ms >= starts[window]:
                    balance.post(cost_nanos - posted_nanos, granted_at_ms)
        return True

    def _lines_of(self, accounts: tuple[str, ...]) -> _Lines:
        lines = self._lines.get(accounts)
        if lines is None:
            every = tuple(balance for key in accounts for balance in self.accounts[key].balances.values())
            capped = [balance for balance in every if balance.cap_nanos is not None]
            limits = tuple((key, self.accounts[key].limiter) for key in accounts if self.accounts[key].limiter.limits)
            lines = _Lines(
                every,
                tuple(balance for balance in capped if self.accounts[balance.account].enforced),
                tuple(balance for balance in capped if not self.accounts[balance.account].enforced),
                limits,
                tuple(each for each in limits if self.accounts[each[0]].enforced),
            )
            self._lines[accounts] = lines
        return lines

    def _open_lines(self, hold: Hold) -> Iterable[Balance]:
        """The balances that the hold is part of: those of windows that have not ended since it was made."""
        lines = self._lines_of(hold.accounts).all
        made_at_ms, accounts = hold.grant.granted_at_ms, self.accounts
        if made_at_ms >= self.calendars.starts_ms(UTC_NAME)["minute"]:  # no longer window ends before the minute does
            return lines
        starts = {key: self.calendars.starts_ms(accounts[key].time_zone) for key in hold.accounts}
        return [balance for balance in lines if made_at_ms >= starts[balance.account][balance.window]]

    def _newly_crossed(self, balance: Balance) -> tuple[float, ...]:
        """The thresholds that are reached and were not before; each is told once per window."""
        parts = self.accounts[balance.account].alert_at
        crossed = tuple(p for p in parts if str(p) not in balance.alerted and reached(balance, str(p)))
        balance.alerted = balance.alerted.union(map(str, crossed))
        balance.alert_from_nanos = next_threshold(parts, balance)
        return crossed
