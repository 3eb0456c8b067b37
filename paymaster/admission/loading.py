"""What accounts have spent before: asked of the database, taken into the books, and read again when they disagree."""

from paymaster.admission import alert_texts
from paymaster.admission.alert_policy import AlertPolicy, Missing
from paymaster.admission.authority import signed
from paymaster.admission.books import Ledger
from paymaster.admission.caps import no_such_account
from paymaster.admission.clock import JUMP_MS
from paymaster.admission.in_force import InForce
from paymaster.admission.outbox import Outbox
from paymaster.admission.parking import Parking
from paymaster.admission.state import DeskState, Loading
from paymaster.messages import AcceptLower, CorrectSpend, LoadedSpend, LoadSpend, ReadAgain, StoredRows, Window
from paymaster.messages.ledger_steps import PURCHASES
from paymaster.messages.temporal_names import ACCEPT_LOWER, CORRECT_SPEND
from paymaster.values.limits import LOADED_AT_ONCE
from paymaster.values.money import usd_to_nanos
from paymaster.values.time_zones import UTC_NAME
from paymaster.values.windows import RENEWAL_WINDOWS, STEPS_MS, window_start_ms

_AHEAD_MS = 86_400_000
"""How far ahead of the ledger's time a row may be and count as its newest: clocks differ, and were put back."""


class SpendLoading:
    def __init__(
        self,
        state: DeskState,
        ledger: Ledger,
        outbox: Outbox,
        alerts: AlertPolicy,
        in_force: InForce,
        parking: Parking,
    ) -> None:
        self._state, self._ledger, self._outbox = state, ledger, outbox
        self._alerts, self._in_force, self._parking = alerts, in_force, parking

    def to_load(self) -> LoadSpend | None:
        """What must be read from the database next, or None. The same until `loaded` is called."""
        state = self._state
        if state.loading is None:
            accounts = self._next_piece()
            if not accounts:
                return None
            self._ledger.start_loading(accounts)
            starts = self._ledger.calendars.starts_at(self._ledger.accounts[accounts[0]].time_zone, state.now_ms)
            number = self._outbox.next_sequence()
            wanted, of_services = set(accounts), _is_of_services(accounts)
            holds = tuple(
                hold_id
                for hold_id, hold in self._ledger.holds.items()
                if ((of_services and not hold.is_of_service) or not wanted.isdisjoint(hold.accounts))
                and (hold.state != "pending" or not state.rows_of_pending)
            )
            state.loading = Loading(number, accounts, holds, starts, state.now_ms + JUMP_MS)
        loading = state.loading
        return LoadSpend(
            number=loading.number,
            ledger=state.ledger,
            accounts=loading.accounts,
            known_holds=loading.known_holds,
            with_cap_changes=not state.began,
            window_starts_ms=loading.window_starts_ms,
            latest_ms=loading.latest_ms,
            rolling_starts_ms=self._rolling_starts(loading),
            by_account=all(self._ledger.accounts[key].is_on_demand for key in loading.accounts),
            returned_at_ms=state.clock.returned_at_ms,
            epoch=state.epoch if state.rules >= 2 else "",
            calls_in=self._calls_in(loading),
        )

    def _calls_in(self, loading: Loading) -> tuple[Window, ...]:
        runs = [self._ledger.accounts[key].run for key in loading.accounts]
        periods = {period.window for run in runs if run is not None for period in run.periods}
        return tuple(window for window in RENEWAL_WINDOWS if window in periods)

    def _rolling_starts(self, loading: Loading) -> dict[Window, int]:
        accounts = [self._ledger.accounts[key] for key in loading.accounts]
        return {
            window: window_start_ms(window, loading.window_starts_ms["minute"])
            for window in STEPS_MS
            if any(window in account.balances for account in accounts)
        }

    def counts_holds(self) -> bool:
        """Whether holds are left out of what is being read now: they must stay until it is here."""
        loading = self._state.loading
        return loading is not None and not all(self._ledger.accounts[key].fresh for key in loading.accounts)

    def _next_piece(self) -> tuple[str, ...]:
        """Accounts of one time zone to read next: no more than fit into a question and its answer."""
        loading = [account for account in self._ledger.accounts.values() if account.loading]
        on_demand = all(account.is_on_demand for account in loading)
        loading = [account for account in loading if account.is_on_demand == on_demand]
        zone = min((account.time_zone for account in loading), default=UTC_NAME)
        accounts = sorted(account.key for account in loading if account.time_zone == zone)
        return tuple(accounts if self._state.rules == 1 else accounts[:LOADED_AT_ONCE])

    def loaded(self, spend: LoadedSpend) -> None:
        """What was spent before is known: the accounts are open. A window that ended meanwhile starts at zero."""
        state, loading = self._state, self._state.loading
        if loading is None or loading.number != spend.number:  # a reload was asked for meanwhile
            return
        starts = self._ledger.calendars.starts_at(self._ledger.accounts[loading.accounts[0]].time_zone, state.now_ms)
        asked_for = loading.window_starts_ms.items()
        open_windows: list[Window] = [window for window, at_ms in asked_for if at_ms == starts[window]]
        missing: list[Missing] = []
        for key in loading.accounts:
            account, posted = self._ledger.accounts[key], spend.posted_nanos.get(key, {})
            folded, folded_nanos = spend.unconfirmed.get(key, (0, 0))
            if state.rules < 2:
                self._ledger.accept_less(account, None)
            elif state.settled_late:  # a folded attempt may have cost less than its bound
                self._ledger.accept_less(account, max(0, account.folded_nanos - folded_nanos))
            for window in open_windows:
                if lost := self._ledger.loaded(key, window, posted.get(window, 0)):
                    missing.append(Missing(lost, key, window))
            for window in STEPS_MS.keys() & account.balances.keys():
                steps = spend.steps_nanos.get(key, {}).get(window, {})
                nanos = account.balances[window].load_steps(steps, window_start_ms(window, starts["minute"]))
                if lost := self._ledger.loaded(key, window, nanos, state.now_ms):
                    missing.append(Missing(lost, key, window))
            if account.run is not None:
                account.run.loaded(*spend.runs.get(key, (0, 0)))
                for period in account.run.periods:
                    if period.window in open_windows:
                        period.loaded(spend.run_calls.get(key, {}).get(period.window, 0), starts[period.window])
            if account.fresh:
                account.tell_no_more()
            account.loading = account.fresh = False
            account.folded, account.folded_nanos = folded, folded_nanos
        if _is_of_services(loading.accounts):
            self._ledger.state.folded_purchases = spend.unconfirmed.get(PURCHASES, (0, 0))[0]
        self._alerts.missing(missing)
        if not state.began:
            self._in_force.restore(spend)
            self._parking.file_again()
        state.loading = None
        if not any(account.loading and not account.fresh for account in self._ledger.accounts.values()):
            state.rows_of_pending = state.settled_late = False
        state.freed.update(loading.accounts)
        self._ledger.mark(loading.accounts)

    # ------------------------------------------------------------ what is read again

    def reload(self) -> None:
        """Takes the stored entries for the truth: reads again what every account has spent."""
        self._read_again(tuple(self._ledger.accounts))

    def compare_rows(self, stored: StoredRows) -> ReadAgain:
        """Reads everything again if the database has newer rows than this state can know of: it was put back."""
        state = self._state
        known_ms = state.latest_granted_ms
        latest_ms = stored.latest_granted_ms
        if state.rules >= 2:  # what somebody made up would hide that the database was put back, for ever
            latest_ms = min(latest_ms, state.now_ms + _AHEAD_MS)
        state.latest_granted_ms = max(known_ms, latest_ms)
        if state.rules < 2 or known_ms == 0 or stored.latest_granted_ms <= known_ms:
            return ReadAgain(accounts=())
        self._alerts.behind(stored.latest_granted_ms, known_ms)
        state.rows_of_pending = True
        accounts = tuple(self._ledger.accounts)
        self._read_again(accounts)
        return ReadAgain(accounts=accounts)

    def accept_lower(self, change: AcceptLower) -> ReadAgain:
        """Reads an account again, and takes what is stored also where it is less than what was posted.

        Raises ValueError for an account that is not there.
        """
        change = signed(self._state, ACCEPT_LOWER.name, change)
        if change.account != "all" and change.account not in self._ledger.accounts:
            raise no_such_account(self._ledger, change.account)
        accounts = tuple(self._ledger.accounts) if change.account == "all" else (change.account,)
        self._read_again(accounts)
        for key in accounts:
            self._ledger.accept_less(self._ledger.accounts[key], None)
        self._alerts.corrected(alert_texts.lower_accepted(alert_texts.by_whom(change), change.account))
        return ReadAgain(accounts=accounts)

    def correct_spend(self, change: CorrectSpend) -> ReadAgain:
        """Reads the accounts of a hold again, of which a person corrected the rows.

        Of a hold that is here the settlement says what it did cost: ValueError.
        """
        change = signed(self._state, CORRECT_SPEND.name, change)
        if change.hold_id in self._ledger.holds:
            raise ValueError(f"the ledger has the hold {change.hold_id}: settle it instead")
        less_nanos = max(0, usd_to_nanos(change.from_usd) - usd_to_nanos(change.to_usd))
        accounts = self._ledger.charged_accounts(change, change.service)
        self._read_again(accounts)
        for key in accounts:
            self._ledger.accept_less(self._ledger.accounts[key], less_nanos, change.granted_at_ms)
        by = alert_texts.by_whom(change)
        self._alerts.corrected(alert_texts.spend_corrected(by, change.hold_id, change.from_usd, change.to_usd))
        return ReadAgain(accounts=accounts)

    def _read_again(self, accounts: tuple[str, ...]) -> None:
        self._state.loading = None
        self._ledger.start_loading(accounts)


def _is_of_services(accounts: tuple[str, ...]) -> bool:
    """Whether purchases are asked for with them, which have no account that only they are charged to."""
    return any(key.startswith("service:") for key in accounts)
