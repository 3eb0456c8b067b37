"""The configuration in force: what a new one changes in the books, and how a ledger that begins anew finds it again.

Rules 1, those of version 0.1.0, let every configuration remove what it lacks, left removed accounts open without a cap,
and told nobody.
"""

from collections.abc import Iterable

from paymaster.admission import alert_texts
from paymaster.admission.account_rows import account_configs, config_of, limiting_runs, named_accounts
from paymaster.admission.accounts import Account, Balance, new_balance
from paymaster.admission.books import Ledger
from paymaster.admission.breaker import Breaker, Gate
from paymaster.admission.configuration import differences, in_words, without_removals
from paymaster.admission.outbox import Outbox
from paymaster.admission.runs import Limits, Run, limits_of
from paymaster.admission.signed_commands import changes_money
from paymaster.admission.state import DeskState, begin_new_windows
from paymaster.messages import AccountConfig, CapChange, DeskConfig, LoadedSpend, Window, config_too_large
from paymaster.values.budget_path import budgets_charged, is_template
from paymaster.values.limits import CAP_CHANGES_WAITING_MAX, CAPS_ENDED_MAX, SUPERSEDED_MAX

Place = tuple[str, Window]
"""A cap: its account and its window."""


class InForce:
    """The configuration of a desk, with the accounts and gates that follow from it."""

    def __init__(self, state: DeskState, ledger: Ledger, outbox: Outbox) -> None:
        self._state = state
        self._ledger = ledger
        self._outbox = outbox

    def bring(self, config: DeskConfig, *, who: str, may_remove: bool) -> set[Place]:
        """Puts a configuration in force; what it lacks goes only where that `may_remove`.

        Returns where it ended what admins had done to a cap.
        """
        state = self._state
        before, old_rules = state.config, state.rules < 2
        wanted = self._wanted(config, may_remove=may_remove)
        changed, kept = differences(before, wanted, self.admin_caps()), differences(wanted, config)
        if before.digest not in ("", config.digest):
            others = [digest for digest in state.superseded if digest != config.digest]
            state.superseded = [*others, before.digest][-SUPERSEDED_MAX:]
        ended = self._put(wanted, who)
        state.config_kept = bool(kept)
        if state.began and not old_rules:
            self.close_unnamed()
            if changed or config.digest != before.digest:
                self._tell(in_words(changed) if before.digest else "", in_words(kept))
        return ended

    def _wanted(self, config: DeskConfig, *, may_remove: bool) -> DeskConfig:
        """What this configuration leads to."""
        return config if may_remove or self._state.rules < 2 else without_removals(self._state.config, config)

    def too_much(self, config: DeskConfig, *, may_remove: bool) -> str | None:
        """Why a configuration cannot be put in force now, and what to do about it. None: it can."""
        before = self._state.config
        if self._state.rules < 2:
            return self._not_in_rules_1(config)
        wanted = self._wanted(config, may_remove=may_remove)
        if not may_remove and not before.budgets.keys() <= config.budgets.keys() and (why := config_too_large(wanted)):
            return f"with what would stay in force {why}; `paymaster config apply` removes what the file lacks"
        return self._too_many_end(wanted)

    def _not_in_rules_1(self, config: DeskConfig) -> str | None:
        accounts = (*config.budgets.values(), *config.services.values())
        unknown = {*(window for account in accounts for window in account.caps_nanos), *config.time_zones}
        unknown -= {*self._ledger.calendars.windows}
        unknown |= {"enforce = false" for account in accounts if not account.enforce}
        unknown |= {"per_run and runaway" for account in accounts if account.limits_runs}
        unknown |= {f"template {path}" for path in config.budgets if is_template(path)}
        if not unknown:
            return None
        return (
            f"the ledger still runs by the rules of version 0.1.0, which know no {', '.join(sorted(unknown))}: "
            "run `paymaster upgrade` when no older worker runs any more, then apply it again"
        )

    def _too_many_end(self, wanted: DeskConfig) -> str | None:
        """Each cap that it ends is a change that waits for the database, and none of those is ever dropped."""
        configs, all_of_them = self._configs(wanted), self._ends_all()
        ends = sum(len(self._ledger.caps_that_end(key, each, all_of_them=all_of_them)) for key, each in configs.items())
        if ends == 0 or (changes := self.cap_changes_waiting() + ends) <= CAPS_ENDED_MAX:
            return None
        return (
            f"with it {changes:,} changes of caps would wait for the database, and {CAPS_ENDED_MAX:,} may: apply it "
            "again when the database takes them, or change fewer caps at once"
        )

    def cap_changes_waiting(self) -> int:
        """For the database, or for what it has from before this ledger began."""
        return max(self._outbox.cap_changes_waiting(), len(self._state.early))

    def check_cap_changes(self) -> None:
        """Raises ValueError when so many wait for the database that an admin may make no more."""
        waiting = self.cap_changes_waiting()
        if waiting >= CAP_CHANGES_WAITING_MAX and self._state.rules >= 2:
            raise ValueError(f"{waiting:,} cap changes wait for the database: ask again when it takes them")

    def _configs(self, wanted: DeskConfig) -> dict[str, AccountConfig]:
        """What is wanted of all accounts; of those that only the configuration in force names, nothing."""
        configs, in_force = account_configs(wanted), account_configs(self._state.config)
        named = named_accounts(configs)
        gone = sorted(named_accounts(in_force).keys() - named.keys())
        others = {key: AccountConfig() for key in gone}
        for key, account in self._ledger.accounts.items():
            run = account.run
            config = config_of(key, configs) if run is None else self._limits(key, run, configs).account()
            if key not in named and (config or account.is_on_demand):
                others[key] = config or AccountConfig()
        return others | named

    def _limits(self, key: str, run: Run, configs: dict[str, AccountConfig]) -> Limits:
        return limits_of(run, limiting_runs(run.budgets, configs), is_part="/" in key)

    def _ends_all(self) -> bool:
        """Before the stored changes are known, any of the caps may be an admin's."""
        return bool(self._state.config.digest) and not self._state.began

    def kept(self, config: DeskConfig) -> str:
        """What is in force although this configuration, the last one that was brought, lacks it, in words."""
        return in_words(differences(self._state.config, config)) if self._state.config_kept else ""

    def restore(self, spend: LoadedSpend) -> None:
        """Begins where earlier epochs ended: their configuration, their admins' caps, then what came in this epoch."""
        state = self._state
        brought, who, early, stored = state.config, state.config_by, state.early, spend.config
        state.began, state.early = True, []
        for account in self._ledger.accounts.values():
            for balance in account.balances.values():
                balance.file_cap_nanos = None
                self._ledger.uncap(balance)
        state.superseded = [*spend.superseded, *state.superseded][-SUPERSEDED_MAX:]
        self._put(stored or brought, who)
        for change in spend.cap_changes:
            self._change_again(change)
        ended = self._bring_again(brought, who) if stored else set[Place]()
        for change in early:
            balance = self._change_again(change, in_order=True)
            ended_before = (change.account, change.window) in ended
            if balance is not None and (ended_before or balance.file_cap_nanos != change.file_nanos):
                # It was stored with what the file said as far as was known, and before what ended here.
                self._outbox.repeat(change.model_copy(update={"file_nanos": balance.file_cap_nanos}))
        if state.rules >= 2:
            self.close_unnamed()
            if stored is None:
                self._tell("", "")
            if spend.other_ledgers:
                self._outbox.alert(
                    state.now_ms, "empty_books", alert_texts.empty_books(state.ledger, spend.other_ledgers)
                )
            if stored is not None:
                self._outbox.alert(state.now_ms, "books_anew", alert_texts.books_anew())

    def close_unnamed(self) -> None:
        """Takes out what neither the configuration nor an admin names: a call there gets the answer of new books."""
        state, configs = self._state, account_configs(self._state.config)
        closed: set[str] = set()
        for key, account in list(self._ledger.accounts.items()):
            if account.run is not None:
                continue
            is_budget = key.startswith("budget:")
            if config_of(key, configs) is None and not (is_budget and _by_admin(account)):
                for balance in _by_admin(account):
                    self._end_by_file(balance, balance.cap_nanos)
                closed.add(key)
        self._ledger.close_accounts(closed)
        if closed:
            state.loading = None  # what is being read may be for one of them
            state.freed.update(closed)
        used = {hold.grant.service for hold in self._ledger.holds.values()}
        for name in state.gates.keys() - state.config.services.keys() - used:
            del state.gates[name]

    def admin_caps(self) -> dict[str, dict[Window, int]]:
        """By account, the caps that an admin changed since the file's value came into force."""
        found: dict[str, dict[Window, int]] = {}
        for key, account in self._ledger.accounts.items():
            for balance in _by_admin(account):
                if balance.cap_nanos is not None:
                    found.setdefault(key, {})[balance.window] = balance.cap_nanos
        return found

    def _put(self, config: DeskConfig, who: str) -> set[Place]:
        state, ended = self._state, set[Place]()
        configs = account_configs(config)
        named = named_accounts(configs)
        self._ledger.open_accounts(self._missing(config, named))
        wanted, all_of_them = self._configs(config), self._ends_all()
        begun_anew = self._ledger.calendars.bring(config.time_zones, state.now_ms)
        state.config, state.config_by = config, who
        self._move({key: account.time_zone for key, account in wanted.items()}, begun_anew)
        accounts = self._ledger.accounts
        if any(account.caps_nanos.keys() - accounts[key].balances.keys() for key, account in wanted.items()):
            state.loading = None  # its question lacks a rolling window that is capped from now on
        for key, account in wanted.items():
            of_admins = self._ledger.configure(key, account, all_of_them=all_of_them)
            opened = self._ledger.accounts[key]
            of_template = key not in named and config_of(key, configs) is not None
            on_demand = of_template or opened.run is not None
            opened.used_minute = (opened.used_minute or state.now_ms // 60_000) if on_demand else 0
            if opened.run is not None and opened.run.limit(self._limits(key, opened.run, configs)):
                self._ledger.start_loading([key])
                state.loading = None  # its question lacks the calls of a period that is counted from now on
            for window, cap_nanos in of_admins if state.rules >= 2 else ():
                # A rolling window that nothing caps any more is gone already.
                self._end_by_file(opened.balances.get(window) or new_balance(key, window), cap_nanos)
                ended.add((key, window))
        self._ledger.count_running()
        for name, service in config.services.items():
            gate = state.gates.setdefault(name, Gate(Breaker(service.breaker_failures, service.breaker_cooldown_ms)))
            gate.breaker.failures_max, gate.breaker.cooldown_ms = service.breaker_failures, service.breaker_cooldown_ms
        state.freed |= self._ledger.accounts.keys()
        return ended

    def _missing(self, config: DeskConfig, named: Iterable[str]) -> list[str]:
        """Accounts that it names, and those of its templates to which holds count that are here."""
        accounts, wanted = self._ledger.accounts, dict.fromkeys(named)
        if any(map(is_template, config.budgets)):
            configs = account_configs(config)
            for hold in self._ledger.holds.values():
                charged = [f"budget:{path}" for path in budgets_charged(hold.grant.budgets)]
                wanted |= dict.fromkeys(key for key in charged if config_of(key, configs))
        return [key for key in wanted if key not in accounts]

    def _move(self, zones: dict[str, str], begun_anew: set[str]) -> None:
        """Accounts to the time zones that the configuration says, also where those have other clocks than before."""
        accounts = self._ledger.accounts
        moved = {key: zone for key, zone in zones.items() if accounts[key].time_zone != zone or zone in begun_anew}
        if moved:
            self._ledger.move(moved)
            self._state.loading = None  # its question was for other days

    def _end_by_file(self, balance: Balance, from_nanos: int | None) -> None:
        """An admin's cap ended: kept with the cap changes, so that new books do not bring it back."""
        change = self._outbox.cap_changed(
            self._state.now_ms,
            balance.account,
            balance.window,
            from_nanos,
            balance.file_cap_nanos,
            by_nanos=None,
            file_nanos=balance.file_cap_nanos,
            until_window_end=False,
            who=self._state.config_by,
            reason="the configuration has another value",
            by_file=True,
        )
        if not self._state.began:
            self._state.early.append(change)

    def _bring_again(self, brought: DeskConfig, who: str) -> set[Place]:
        """What this epoch began with, as a worker would bring it to books that never ended."""
        state, stored = self._state, self._state.config
        if brought.digest in state.superseded and brought.digest != stored.digest:
            self._outbox.alert(state.now_ms, "config_kept", alert_texts.old_config_kept(who))
            return set()
        # With another [admin] it is how the way back from lost keys begins (docs/security.md).
        if stored.admin == brought.admin and stored.admin.require_signature and changes_money(stored, brought):
            self._outbox.alert(state.now_ms, "refused_message", alert_texts.unsigned_config_kept())
            return set()
        if too_much := self.too_much(brought, may_remove=False):
            self._outbox.alert(state.now_ms, "config_kept", alert_texts.stored_config_kept(too_much))
            return set()
        return self.bring(brought, who=who, may_remove=False)

    def _change_again(self, change: CapChange, *, in_order: bool = False) -> Balance | None:
        """A change of a cap from before, unless it lapsed or the file says something else since.

        `in_order`: each other value of the file since then has a change of its own. Returns what it was about.
        """
        state, account = self._state, self._ledger.accounts.get(change.account)
        if account is None:
            if not change.account.startswith("budget:") or change.by_file:
                return None  # a service that the configuration does not have any more
            account = self._ledger.open_account(change.account)
            if found := config_of(change.account, account_configs(self._state.config)):
                self._ledger.configure(change.account, found)
                account.used_minute = self._state.now_ms // 60_000
        balance = account.balances.get(change.window)
        if balance is None and (state.rules < 2 or change.by_file or change.to_nanos is None):
            return None  # rules 1 do not know the window, and nothing has to be kept in one that is not capped
        balance = balance or self._ledger.open_window(change.account, change.window)
        starts = self._ledger.calendars.starts_at(account.time_zone, self._state.now_ms)
        lapsed = change.until_window_end and change.at_ms < starts[change.window]
        if change.by_file or change.to_nanos is None:
            self._ledger.uncap(balance)
        elif lapsed or (not in_order and balance.file_cap_nanos != change.file_nanos):
            pass
        elif change.by_nanos is None or balance.cap_nanos is None:
            self._ledger.set_cap(change.account, change.window, change.to_nanos)
        else:
            lapsing = balance.lapsing_nanos + (change.by_nanos if change.until_window_end else 0)
            cap = balance.cap_nanos + change.by_nanos
            self._ledger.set_cap(change.account, change.window, cap, lapsing_nanos=lapsing)
        return balance

    def follow(self, rules: int) -> None:
        """Begins to decide by these rules, in a run that nobody else has begun."""
        state, before = self._state, self._state.rules
        state.rules = rules
        if before < 2 <= rules:
            begin_new_windows(state)
            self._ledger.calendars.note_starts()
        if before < 2 <= rules and state.began:
            self.close_unnamed()
            self._outbox.config_changed(state.now_ms, state.config.digest, state.config_by, "")

    def _tell(self, changed: str, kept: str) -> None:
        """Everybody who must know: the stored configurations, and alerts with what changed and what did not."""
        state, at_ms, outbox = self._state, self._state.now_ms, self._outbox
        outbox.config_changed(at_ms, state.config.digest, state.config_by, changed)
        if changed:
            outbox.alert(at_ms, "config_changed", alert_texts.config_changed(state.config_by, changed))
        if kept:
            outbox.alert(at_ms, "config_kept", alert_texts.config_kept(state.config_by, kept))


def _by_admin(account: Account) -> list[Balance]:
    return [balance for balance in account.balances.values() if balance.by_admin]
