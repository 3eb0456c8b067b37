"""The desk: one state, one command at a time, one answer. Ledger + gates + routing + parked queue + outbox.

The desk is deterministic: the same commands at the same times give the same answers and the same state, also when it is
cut anywhere through `dump` and `Desk.load`. Its time goes back only as paymaster/admission/clock.py says.
"""

from typing import Literal, NamedTuple

from paymaster.admission.accounts import Account
from paymaster.admission.answers import CommandAnswers
from paymaster.admission.books import Hold, Ledger
from paymaster.admission.breaker import Gate
from paymaster.admission.clock import BEHIND_FOR_MS, DOUBT_MS, JUMP_MS, TAKEN_WITHIN_MS
from paymaster.admission.configuration import in_words, price_differences
from paymaster.admission.first_fit import FIRST
from paymaster.admission.going_back import put_back
from paymaster.admission.in_force import InForce
from paymaster.admission.outbox import Outbox
from paymaster.admission.parked_call import ParkedCall, decide
from paymaster.admission.pressure import Size, estimated_bytes, relieve
from paymaster.admission.queue import ParkedQueue
from paymaster.admission.routing import Choice, Obstacle, choose
from paymaster.admission.rules_1 import due_by_scan, serve_by_scan
from paymaster.admission.signatures import SignedT
from paymaster.admission.signed_commands import changes_money, check_signature, utc
from paymaster.admission.state import RULES, DeskState, EndedHold, Loading, dump, load
from paymaster.admission.status import account_statuses, service_statuses, waiting_calls
from paymaster.messages import (
    KEY_SOURCE_DOWN,
    AcceptLower,
    AdminMessage,
    Answer,
    AttemptReport,
    CapState,
    ClockState,
    Command,
    ConfigState,
    Configuration,
    Configure,
    CorrectSpend,
    Delivery,
    Denied,
    DeskConfig,
    DeskStatus,
    Ended,
    ExpiredHold,
    Grant,
    Granted,
    LoadedSpend,
    LoadSpend,
    Parked,
    ParkedAnswer,
    PauseService,
    RaiseCap,
    ReadAgain,
    Reserve,
    ResumeService,
    ServiceConfig,
    ServiceState,
    SetCap,
    Settle,
    Settled,
    Signature,
    StatusRequest,
    StoredRows,
    TakeClock,
    UnconfirmedEntry,
    UnconfirmedHold,
    UnconfirmedHolds,
    UnknownHold,
    Upgrade,
    Upgraded,
    Void,
    Window,
)
from paymaster.values.budget_path import check_budget_path
from paymaster.values.collection import no_collection
from paymaster.values.cut import cut
from paymaster.values.limits import (
    ACCOUNTS_MAX,
    AT_ONCE_MAX,
    CALL_MESSAGES_MAX,
    DETAIL_BYTES_MAX,
    FOLDED_AT_ONCE,
    IN_VAIN_MAX,
    LOADED_AT_ONCE,
    NOTICES_MAX,
    PAUSED_BY_BYTES_MAX,
    PRICES_MAX,
    REFUSED_ALERTS_A_MINUTE,
    REFUSED_BYTES_MAX,
    REFUSED_KEPT,
    REMEMBER_ENDED_MAX,
    STATE_BYTES_ALERT,
    STATE_BYTES_MAX,
    STATE_BYTES_SLACK,
    UNCONFIRMED_MAX,
    UNCONFIRMED_SHOWN,
)
from paymaster.values.money import NANOS_MAX, format_usd, usd_to_nanos
from paymaster.values.windows import WINDOWS, window_start_ms

REMEMBER_ENDED_MS = 3_600_000
"""How long the end of a hold is remembered, to answer a command that is sent again."""
KNOWN_SHOWN_MAX = 20
"""Of the accounts that there are, in the answer to a command about one that is not there."""


_FIRST_PAGE = StatusRequest()
_FORMER_SERVICE = ServiceConfig()
"""How a service is called that the configuration does not name any more, but a worker still asks for."""


class Missing(NamedTuple):
    """What the books have in a window of an account, and no stored row."""

    nanos: int
    account: str
    window: Window


class Desk:
    def __init__(self, state: DeskState) -> None:
        self.state = state
        self.ledger = Ledger(state.books)
        self.queue = ParkedQueue(state.parked, self.ledger, state.gates, state.now_ms)
        self.outbox = Outbox(state.outbox, state.rules)
        self.answers = CommandAnswers(state.answers, state.rules)
        self.in_force = InForce(state, self.ledger, self.outbox)
        self._minute_ends_ms = state.books.window_starts_ms["minute"] + 60_000
        self.due_ms = 0
        """When something may happen by itself. Looking earlier is harmless, looking later delays it."""
        self.wants_new_run = False
        """Only a new run sees whether the server's clock has come back."""
        self._served = self._in_vain = 0
        """Looks at parked calls since the time went on: a workflow's time stands still while it is activated."""
        self._size = Size()

    @classmethod
    def load(cls, dumped: str) -> "Desk":
        with no_collection():
            desk = cls(load(dumped))
        desk._size.is_measured(len(dumped), estimated_bytes(desk.state))
        return desk

    def dump(self) -> str:
        """The whole state as text, for continue-as-new.

        Where it is larger than it may be, what is missed least is dropped, and what is left is written all the same:
        up to what Temporal takes there is room for what came since the state was measured.
        """
        dumped = self._dump()
        if len(dumped) > STATE_BYTES_MAX:
            self._relieve(len(dumped))
            dumped = self._dump()
        return dumped

    def _dump(self) -> str:
        with no_collection():
            return dump(self.state)

    # ------------------------------------------------------------ commands

    def handle(self, command: Command, now_ms: int) -> Answer:
        """Answers one command. What it frees is given to parked calls before anybody who comes later."""
        self.advance(now_ms)
        match command:
            case Reserve():
                return self._reserve(command)
            case Settle():
                return self._settle(command)
            case Void():
                return self._void(command)

    def advance(self, now_ms: int) -> None:
        """Lets time pass: windows end, holds expire, parked calls come to their deadline or get what was freed."""
        state = self.state
        if state.rules >= 2:
            self._look_at_clock(now_ms)
        clock_ms = now_ms
        if now_ms > state.now_ms:
            state.now_ms, self._served, self._in_vain = now_ms, 0, 0
        now_ms = state.now_ms
        if now_ms >= self._minute_ends_ms:
            rolled = self.ledger.roll_windows(now_ms)
            state.freed |= rolled.accounts
            if rolled.lapsed:
                self._look_at_everybody()
            self._minute_ends_ms = window_start_ms("minute", now_ms) + 60_000
            self._forget_ended()
            self._fold_unconfirmed()
            self._tell_of_refused()
            self._measure()
        if now_ms >= self.due_ms:
            if now_ms >= state.clock.doubted_until_ms:
                self._expire_holds()
                self._deny_overdue()
            self._serve_parked()
            self._set_due()
        elif self.state.freed:
            self._serve_parked()
        if state.clock.behind_since_ms is not None:  # who is woken then wakes by the clock, and not by the desk's time
            self._remind(clock_ms + BEHIND_FOR_MS)

    def report(self, report: AttemptReport, now_ms: int) -> None:
        """A failed attempt: one request more, perhaps a pause that the service asked for, perhaps its fault."""
        self.advance(now_ms)
        hold, gate = self.ledger.holds.get(report.hold_id), self.state.gates.get(report.service)
        if gate is None:
            return
        if report.pause_ms is not None:
            gate.pause(self.state.now_ms + report.pause_ms)
        if report.alert is not None:
            today = window_start_ms("day", self.state.now_ms)  # every call may say so: once a day is enough
            about = f"{report.service} {report.error_class} {today}"
            what = "key_source_down" if report.error_class == KEY_SOURCE_DOWN else "service_refuses"
            self.outbox.alert_once(self.state.now_ms, what, report.alert, about)
        if hold is None:
            return
        for key in hold.accounts:
            self.ledger.accounts[key].limiter.use(1, 0, self.state.now_ms)
        if report.trips_breaker and hold.running:  # else its settlement has told of all its failures
            hold.failures_told += 1
            self._failed(hold)

    # ------------------------------------------------------------ admins

    def configure(
        self,
        config: DeskConfig,
        now_ms: int,
        *,
        force: bool = False,
        signature: Signature | None = None,
        who: str = "",
        may_remove: bool = False,
    ) -> ConfigState:
        """Applies a configuration. Caps that an admin changed stay until the file's own value changes.

        Budgets, services and caps that it lacks stay, unless it `may_remove` them: a worker's start never does. One
        that was superseded comes back only by `force`, so that a worker with an old file changes nothing. Where
        signatures are required, one that changes caps, budgets or `[admin]` is applied only with one: a worker that
        brings it at its start changes nothing. Raises SignatureRefused for a wrong one.
        """
        self.advance(now_ms)
        state = self.state
        if config.digest == state.config.digest and not (may_remove and state.config_kept):
            detail, kept = "it is in force already", self.in_force.kept(config)
            return ConfigState(digest=config.digest, applied=False, detail=detail, kept=kept)
        if may_remove and state.config.digest and not state.began:
            detail = "the ledger is still reading what was stored before it began; ask again in a moment"
            return ConfigState(digest=state.config.digest, applied=False, detail=detail)
        if config.digest in state.superseded and not force:
            detail = "a newer one superseded it; `paymaster config apply --force` brings it back"
            return ConfigState(digest=state.config.digest, applied=False, detail=detail)
        change = Configure(config=config, force=force, signature=signature, who=who, may_remove=may_remove)
        if signature is not None:
            self._signed("configure", change)
        elif state.config.admin.require_signature and changes_money(state.config, config):
            detail = (
                "it changes caps, budgets or [admin], and must be signed: `paymaster config apply --sign-with FILE`"
            )
            text = f"a configuration ({config.digest[:12]}) was not applied: {detail}"
            self.outbox.alert_once(self.state.now_ms, "refused_message", text, config.digest)
            return ConfigState(digest=state.config.digest, applied=False, detail=detail)
        may_remove = may_remove or signature is not None  # no worker signs
        if too_much := self.in_force.too_much(config, may_remove=may_remove):
            return ConfigState(digest=state.config.digest, applied=False, detail=too_much)
        self.in_force.bring(config, who=who if signature is None else signature.by, may_remove=may_remove)
        self._file_again()
        self.advance(now_ms)
        return ConfigState(digest=config.digest, applied=True, detail="", kept=self.in_force.kept(config))

    def follow(self, rules: int) -> None:
        """Begins to decide by these rules, at the end of a run: what the next one begins with."""
        self.in_force.follow(rules)
        self._file_again()

    def configuration(self) -> Configuration:
        """What the ledger decides with."""
        state = self.state
        return Configuration(
            config=state.config,
            admin_caps_nanos=self.in_force.admin_caps(),
            prices=state.prices,
            who=state.config_by,
        )

    def raise_cap(self, change: RaiseCap, now_ms: int) -> CapState:
        """Adds to a cap. Raises ValueError, which says what exists, for an account or a cap that does not.

        As the other commands of admins it raises SignatureRefused for one that is not signed as it must be.
        """
        self.advance(now_ms)
        self.in_force.check_cap_changes()
        change = self._signed("raise_cap", change)
        account = self.ledger.accounts.get(change.account)
        if account is None:
            raise ValueError(f"there is no account {change.account!r}; there are: {self._known_accounts()}")
        balance = account.balances[change.window]
        if balance.cap_nanos is None:
            capped = ", ".join(w for w, b in account.balances.items() if b.cap_nanos is not None) or "none"
            raise ValueError(f"{change.account} has no cap for {change.window!r}; capped windows: {capped}")
        by = usd_to_nanos(change.by)
        if by <= 0:
            raise ValueError(f"a cap is raised by a positive amount, not by {change.by}")
        if change.until_window_end and change.window == "total":
            raise ValueError("the window `total` never ends; a raise of it cannot lapse")
        lapsing = balance.lapsing_nanos + (by if change.until_window_end else 0)
        return self._set_cap(account, change, balance.cap_nanos + by, by, lapsing)

    def set_cap(self, change: SetCap, now_ms: int) -> CapState:
        """Sets a cap, also on a budget that had none. Raises ValueError for a bad account or amount."""
        self.advance(now_ms)
        self.in_force.check_cap_changes()
        change = self._signed("set_cap", change)
        to = usd_to_nanos(change.to)
        if to < 0:
            raise ValueError(f"a cap is not negative: {change.to}")
        account = self._account_for_admin(change.account)
        return self._set_cap(account, change, to, None, 0)

    def pause_service(self, change: PauseService, now_ms: int) -> ServiceState:
        """Sends nothing more to a service; takes back what was granted and not sent. Raises ValueError for no such."""
        self.advance(now_ms)
        change = self._signed("pause_service", change)
        gate = self._gate(change.service)
        gate.paused_by = cut(_by(change), PAUSED_BY_BYTES_MAX)
        for hold in self.ledger.pending.values():
            if hold.grant.service == change.service:
                self.outbox.withdraw(hold, f"{change.service} was paused by {gate.paused_by}")
        return ServiceState(service=change.service, paused=True)

    def resume_service(self, change: ResumeService, now_ms: int) -> ServiceState:
        """Ends an admin's pause, and also a pause of the service's own and an open breaker."""
        self.advance(now_ms)
        change = self._signed("resume_service", change)
        self._gate(change.service).open_up()
        self.state.freed.add(f"service:{change.service}")
        self.advance(now_ms)
        return ServiceState(service=change.service, paused=False)

    def upgrade(self, change: Upgrade, now_ms: int) -> Upgraded:
        """Allows newer rules, which begin with the ledger's next run. Raises ValueError for unknown ones."""
        self.advance(now_ms)
        change = self._signed("upgrade", change)
        if change.rules > RULES:
            raise ValueError(f"the ledger's worker knows rules up to {RULES}, not {change.rules}: update it first")
        return Upgraded(before=self.state.rules, rules=max(self.state.rules, change.rules))

    def refuse_message(self, text: str, now_ms: int) -> None:
        """Keeps a message that could not be applied where operators see it."""
        self.advance(now_ms)
        state, text = self.state, cut(text, REFUSED_BYTES_MAX)
        state.refused_messages = [*state.refused_messages, text][-REFUSED_KEPT:]
        state.refused_this_minute += 1
        if state.refused_this_minute <= REFUSED_ALERTS_A_MINUTE or state.rules == 1:
            self.outbox.alert(state.now_ms, "refused_message", text)

    def _tell_of_refused(self) -> None:
        """What came in the minute that is over beyond those that were told one by one."""
        more = self.state.refused_this_minute - REFUSED_ALERTS_A_MINUTE
        if more > 0 and self.state.rules > 1:
            text = f"and {more} more messages were refused within a minute; `paymaster budget show` has the latest"
            self.outbox.alert(self.state.now_ms, "refused_message", text)
        self.state.refused_this_minute = 0

    def status(self, page: StatusRequest = _FIRST_PAGE, now_ms: int = 0) -> DeskStatus:
        """How everything stands at `now_ms`, also if nothing happened here since; 0: when something last did."""
        state, now_ms = self.state, max(self.state.now_ms, now_ms)
        accounts, more = account_statuses(self.ledger, self.queue, now_ms, page)
        estimate = estimated_bytes(state)
        return DeskStatus(
            ledger=state.ledger,
            epoch=state.epoch,
            config_digest=state.config.digest,
            accounts=accounts,
            more_accounts=more,
            holds=len(self.ledger.pending),
            parked=len(self.queue),
            outbox=len(state.outbox.messages) + len(state.outbox.notices),
            unconfirmed=self.ledger.unconfirmed + self.ledger.folded(),
            services=service_statuses(state.gates, now_ms),
            waiting=waiting_calls(self.queue),
            refused_messages=tuple(state.refused_messages),
            alerts_dropped=state.outbox.alerts_dropped,
            ended_dropped=state.ended_dropped,
            state_bytes=min(estimate, self._size.most_bytes(estimate)),
            state_bytes_max=STATE_BYTES_MAX,
            now_ms=state.now_ms,
            doubted_until_ms=state.clock.doubted_until_ms if state.clock.doubted_until_ms > now_ms else 0,
            rules=state.rules,
        )

    def unconfirmed_holds(self, after: str = "") -> UnconfirmedHolds:
        """A page of the holds of which nobody knows whether they were billed, after this hold id."""
        keys = sorted(key for key, hold in self.ledger.holds.items() if hold.state == "unconfirmed" and key > after)
        shown = [self.ledger.holds[key] for key in keys[:UNCONFIRMED_SHOWN]]
        return UnconfirmedHolds(
            holds=tuple(
                UnconfirmedHold(call=hold.call, grant=hold.grant, posted_nanos=hold.posted_nanos, expired=hold.expired)
                for hold in shown
            ),
            more=len(keys) > len(shown),
        )

    # ------------------------------------------------------------ deliveries and loading

    def delivered(self, delivery: Delivery, now_ms: int) -> None:
        """Takes what arrived out of the outbox. A call that is gone gets nothing: its hold is free again."""
        gone = set(delivery.gone)
        for message in self.state.outbox.messages:
            answer = message.answer if isinstance(message, ParkedAnswer) else None
            if message.sequence in gone and isinstance(answer, Granted):
                hold = self.ledger.holds.get(answer.grant.hold_id)
                if hold is not None and hold.state == "pending":  # else an earlier sending had reached it
                    self._void(Void(hold_id=answer.grant.hold_id))
                    self.state.ended[answer.grant.hold_id].presumed = self.state.rules >= 2
        self.outbox.acknowledge(gone | set(delivery.delivered))
        self.advance(now_ms)

    def to_load(self) -> LoadSpend | None:
        """What must be read from the database next, or None. The same until `loaded` is called."""
        state = self.state
        if state.loading is None:
            accounts = self._next_piece()
            if not accounts:
                return None
            self.ledger.start_loading(accounts)
            starts: dict[Window, int] = {window: window_start_ms(window, state.now_ms) for window in WINDOWS}
            number = self.outbox.next_sequence()
            wanted = set(accounts)
            holds = tuple(
                hold_id
                for hold_id, hold in self.ledger.holds.items()
                if not wanted.isdisjoint(hold.accounts) and (hold.state != "pending" or not state.rows_of_pending)
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
            returned_at_ms=state.clock.returned_at_ms,
            epoch=state.epoch if state.rules >= 2 else "",
        )

    def _next_piece(self) -> tuple[str, ...]:
        """Accounts to read next: no more than fit into a question and its answer."""
        accounts = sorted(key for key, account in self.ledger.accounts.items() if account.loading)
        return tuple(accounts if self.state.rules == 1 else accounts[:LOADED_AT_ONCE])

    def loaded(self, spend: LoadedSpend, now_ms: int) -> None:
        """What was spent before is known: the accounts are open. A window that ended meanwhile starts at zero."""
        self.advance(now_ms)
        loading = self.state.loading
        if loading is None or loading.number != spend.number:  # a reload was asked for meanwhile
            return
        open_windows: list[Window] = [
            window
            for window in WINDOWS
            if loading.window_starts_ms[window] == window_start_ms(window, self.state.now_ms)
        ]
        missing: list[Missing] = []
        for key in loading.accounts:
            account, posted = self.ledger.accounts[key], spend.posted_nanos.get(key, {})
            folded, folded_nanos = spend.unconfirmed.get(key, (0, 0))
            if self.state.rules < 2:
                self.ledger.accept_less(account, None)
            elif self.state.settled_late:  # a folded attempt may have cost less than its bound
                self.ledger.accept_less(account, max(0, account.folded_nanos - folded_nanos))
            for window in open_windows:
                if lost := self.ledger.loaded(key, window, posted.get(window, 0)):
                    missing.append(Missing(lost, key, window))
            account.loading = False
            account.folded, account.folded_nanos = folded, folded_nanos
        if missing:
            self._alert_missing(missing)
        if not self.state.began:
            self.in_force.restore(spend)
            self._file_again()
        self.state.loading = None
        if not any(account.loading for account in self.ledger.accounts.values()):
            self.state.rows_of_pending = self.state.settled_late = False
        self.state.freed.update(loading.accounts)
        self.advance(now_ms)

    def _alert_corrected(self, text: str) -> None:
        if self.state.rules >= 2:  # no worker of 0.1.0 has to store it
            self.outbox.alert(self.state.now_ms, "spending_corrected", text)

    def _alert_missing(self, missing: list[Missing]) -> None:
        """One alert, whatever was lost: it hits most accounts at once."""
        most = max(missing)
        accounts = sorted({each.account for each in missing})
        more = f" and {len(accounts) - 1} other accounts" if len(accounts) > 1 else ""
        text = (
            f"the database has {format_usd(most.nanos)} ({most.window}) less of {most.account}{more} than the ledger "
            "posted: was it put back to an earlier time? What was posted stays. `paymaster reconcile` shows it; if the "
            f"rows are right: `paymaster reconcile --accept-lower {most.account if not more else 'all'} --reason …`"
        )
        self.outbox.alert(self.state.now_ms, "spending_missing", text, most.account, most.window)

    def reload(self, now_ms: int) -> None:
        """Takes the stored entries for the truth: reads again what every account has spent."""
        self.advance(now_ms)
        self._read_again(tuple(self.ledger.accounts))

    def _read_again(self, accounts: tuple[str, ...]) -> None:
        self.state.loading = None
        self.ledger.start_loading(accounts)

    def compare_rows(self, stored: StoredRows, now_ms: int) -> ReadAgain:
        """Reads everything again if the database has newer rows than this state can know of: it was put back."""
        self.advance(now_ms)
        state = self.state
        known_ms = state.latest_granted_ms
        state.latest_granted_ms = max(known_ms, stored.latest_granted_ms)
        if state.rules < 2 or known_ms == 0 or stored.latest_granted_ms <= known_ms:
            return ReadAgain(accounts=())
        text = (
            f"the database has rows of calls until {utc(stored.latest_granted_ms)}, and the ledger granted none after "
            f"{utc(known_ms)}: Temporal was put back to an earlier time, or another ledger of this name writes there. "
            "What was spent is read again"
        )
        self.outbox.alert(state.now_ms, "ledger_behind", text)
        state.rows_of_pending = True
        accounts = tuple(self.ledger.accounts)
        self._read_again(accounts)
        return ReadAgain(accounts=accounts)

    def accept_lower(self, change: AcceptLower, now_ms: int) -> ReadAgain:
        """Reads an account again, and takes what is stored also where it is less than what was posted.

        Raises ValueError for an account that is not there.
        """
        self.advance(now_ms)
        change = self._signed("accept_lower", change)
        if change.account != "all" and change.account not in self.ledger.accounts:
            raise ValueError(f"there is no account {change.account!r}; there are: {self._known_accounts()}")
        accounts = tuple(self.ledger.accounts) if change.account == "all" else (change.account,)
        self._read_again(accounts)
        for key in accounts:
            self.ledger.accept_less(self.ledger.accounts[key], None)
        text = f"{_by(change)} accepts what the database says was spent: {change.account}"
        self._alert_corrected(text)
        return ReadAgain(accounts=accounts)

    def correct_spend(self, change: CorrectSpend, now_ms: int) -> ReadAgain:
        """Reads the accounts of a hold again, of which a person corrected the rows.

        Of a hold that is here the settlement says what it did cost: ValueError.
        """
        self.advance(now_ms)
        change = self._signed("correct_spend", change)
        if change.hold_id in self.ledger.holds:
            raise ValueError(f"the ledger has the hold {change.hold_id}: settle it instead")
        less_nanos = max(0, usd_to_nanos(change.from_usd) - usd_to_nanos(change.to_usd))
        accounts = self.ledger.charged_accounts(change.budget, change.service)
        self._read_again(accounts)
        for key in accounts:
            self.ledger.accept_less(self.ledger.accounts[key], less_nanos, change.granted_at_ms)
        text = f"{_by(change)} corrects {change.hold_id} from ${change.from_usd} to ${change.to_usd}"
        self._alert_corrected(text)
        return ReadAgain(accounts=accounts)

    # ------------------------------------------------------------ reserve

    def _reserve(self, request: Reserve) -> Answer:
        hold_id = request.hold_id
        if self.state.rules >= 2 and self.state.clock.wants_new_run(request.asked_at_ms, self.state.now_ms):
            self.wants_new_run = True
        if hold := self.ledger.holds.get(hold_id):
            return Granted(grant=hold.grant) if hold.state == "pending" else Ended(hold_id=hold_id)
        if call := self.queue.get(hold_id):
            return Parked(hold_id=hold_id, deadline_at_ms=call.reserve.deadline_at_ms, detail=call.detail)
        if ended := self.state.ended.get(hold_id):
            return ended.denied or Ended(hold_id=hold_id)
        if request.asked_at_ms < self.state.forgotten_until_ms:
            return Ended(hold_id=hold_id)
        try:
            check_budget_path(request.budget)
        except ValueError as error:
            return self._deny(hold_id, "bad_budget", str(error))
        if not request.candidates:
            return self._deny(hold_id, "no_candidate", "no candidate of the route is left")
        if self.state.full:
            return self._deny(hold_id, "ledger_full", "the ledger's state is as large as it may be; see docs/limits.md")
        if self._size.take_in(request) and self.state.rules >= 2:
            self._measure(STATE_BYTES_SLACK)
        place = (-request.priority, self.state.outbox.sequence + 1)
        found = self._choose(request, place)
        if isinstance(found, Choice):
            return self._grant(request, found)
        return self._park_or_deny(request, found)

    def _choose(self, request: Reserve, place: tuple[int, int]) -> Choice | list[Obstacle]:
        found = choose(
            request,
            self.ledger,
            self.state.gates,
            self.state.now_ms,
            lambda accounts: self.queue.comes_first(place, accounts, self.state.freed, self.state.now_ms),
        )
        if isinstance(found, Choice) or self.state.began or self.state.rules < 2:
            return found
        return [
            _until_it_began(obstacle, candidate.service)
            for obstacle, candidate in zip(found, request.candidates, strict=True)
        ]

    def _grant(self, request: Reserve, choice: Choice) -> Granted:
        candidate, config = choice.candidate, self.state.config
        service = config.services.get(candidate.service, _FORMER_SERVICE)
        assert candidate.price is not None  # `choose` passes over a candidate without a price
        now_ms = self.state.now_ms
        grant = Grant(
            hold_id=request.hold_id,
            budget=request.budget,
            service=candidate.service,
            model=candidate.model,
            price=candidate.price,
            max_output_tokens=candidate.max_output_tokens,
            bound_nanos=choice.bound_nanos,
            granted_at_ms=now_ms,
            expires_at_ms=now_ms + config.hold_expires_after_ms,
            epoch=self.state.epoch,
            timeout_ms=service.timeout_ms,
            retry=service.retry,
            max_retry_after_ms=service.max_retry_after_ms,
            max_unconfirmed=service.max_unconfirmed,
        )
        self.state.latest_granted_ms = max(self.state.latest_granted_ms, now_ms)
        if self.state.rules >= 2:
            self._notice_price(grant)
        self.ledger.hold(Hold(request.call, grant, choice.accounts, choice.tokens))
        self.state.gates[candidate.service].breaker.started(request.hold_id)
        self._remind(grant.expires_at_ms)
        return Granted(grant=grant)

    def _park_or_deny(self, request: Reserve, obstacles: list[Obstacle]) -> Answer:
        hold_id, now_ms, deciding = request.hold_id, self.state.now_ms, decide(obstacles)
        self._alert_obstacles(obstacles)
        if deciding.kind == "never" or (deciding.kind != "busy" and request.on_exhausted == "fail"):
            return self._deny(hold_id, deciding.reason, _details(obstacles))
        if request.deadline_at_ms <= now_ms and now_ms >= self.state.clock.doubted_until_ms:
            return self._deny(hold_id, "waited_too_long", deciding.detail)
        if len(self.queue) >= self.state.config.max_parked:
            self.outbox.alert_once(now_ms, "queue_full", f"{len(self.queue)} calls are parked", str(now_ms // 60_000))
            return self._deny(hold_id, "queue_full", f"{len(self.queue)} calls are parked already")
        if len(self.state.outbox.messages) >= CALL_MESSAGES_MAX and self.state.rules >= 2:
            detail = f"{len(self.state.outbox.messages)} answers to calls could not be delivered yet"
            self.outbox.alert_once(now_ms, "queue_full", detail, str(now_ms // 60_000))
            return self._deny(hold_id, "queue_full", detail)
        call = ParkedCall(request, self.outbox.next_sequence(), now_ms)
        self.queue.add(call, obstacles, now_ms)
        self._remind_of(call)
        self._remind(request.deadline_at_ms)
        self._alert_parked(deciding)
        return Parked(hold_id=hold_id, deadline_at_ms=request.deadline_at_ms, detail=call.detail)

    def _deny(self, hold_id: str, reason: str, detail: str) -> Denied:
        denied = Denied(hold_id=hold_id, reason=reason, detail=detail)
        self.state.ended[hold_id] = EndedHold(self.state.now_ms, denied=denied)
        return denied

    # ------------------------------------------------------------ settle and void

    def _settle(self, command: Settle) -> Answer:
        hold = self.ledger.holds.get(command.hold_id)
        if hold is None:
            return self._settle_unknown(command)
        is_news = hold.state == "pending" or hold.posted_nanos != command.cost_nanos or command.confirmed
        posted = self.ledger.post(command.hold_id, command.cost_nanos, confirmed=command.confirmed)
        self.ledger.release(hold, command.tokens, self.state.now_ms)
        self.state.freed.update(hold.accounts)
        if is_news:  # and not the same settlement sent again
            self._alert_settlement(command, hold)
        for balance, part in posted.crossed:
            spent = f"{format_usd(balance.posted_nanos)} of {format_usd(balance.cap_nanos or 0)}"
            text = f"{balance.account} has spent {spent} ({balance.window}), {part:.0%} of its cap"
            self.outbox.alert(self.state.now_ms, "threshold", text, balance.account, balance.window)
        self._correct_expiry(hold)
        if not command.confirmed and self.ledger.unconfirmed % FOLDED_AT_ONCE == 0:
            self._fold_unconfirmed()
        if command.confirmed:
            self.state.ended[command.hold_id] = EndedHold(self.state.now_ms, posted=True)
        self._judge_service(command, hold)
        return Settled(hold_id=command.hold_id, notices=posted.notices[:NOTICES_MAX])

    def _settle_unknown(self, command: Settle) -> Answer:
        """Settled before, made by an earlier epoch, folded, or forgotten: never posted blind.

        Its entries were stored before it was sent, so unless this desk knows that it was voided, the stored entries
        tell what is right: they are read again. A folded one that says what it was posted at is corrected at once.
        """
        ended = self.state.ended.get(command.hold_id)
        if ended is not None and ended.posted:
            return Settled(hold_id=command.hold_id)
        if ended is None and command.corrects is not None and self._correct_folded(command, command.corrects):
            return Settled(hold_id=command.hold_id)
        is_of_this_epoch = command.epoch in ("", self.state.epoch)
        knows = ended is not None and not ended.presumed
        if not is_of_this_epoch or (not knows and self.state.rules > 1):
            self.state.settled_late = self.state.settled_late or is_of_this_epoch
            self.reload(self.state.now_ms)
            return Settled(hold_id=command.hold_id)
        text = f"a settlement of {format_usd(command.cost_nanos)} for the unknown hold {command.hold_id}; reconcile"
        self.outbox.alert(self.state.now_ms, "unknown_hold", text)
        return UnknownHold(hold_id=command.hold_id)

    def _correct_folded(self, command: Settle, entry: UnconfirmedEntry) -> bool:
        accounts = self.ledger.charged_accounts(entry.budget, entry.service)
        if not self.ledger.correct_folded(accounts, entry.granted_at_ms, entry.posted_nanos, command.cost_nanos):
            return False
        self.state.freed.update(accounts)
        self.state.ended[command.hold_id] = EndedHold(self.state.now_ms, posted=True)
        return True

    def _fold_unconfirmed(self) -> None:
        """The oldest unconfirmed holds leave the books once their entries are stored: else the state would grow with
        every timeout that nobody resolves."""
        if self.state.rules == 1 or self.state.loading is not None:  # it counts the holds that were asked about
            return
        if self.ledger.unconfirmed >= UNCONFIRMED_MAX + FOLDED_AT_ONCE:
            waiting = {n.grant.hold_id for n in self.state.outbox.notices if isinstance(n, ExpiredHold)}
            latest_ms = self.ledger.fold(UNCONFIRMED_MAX, waiting)
            if latest_ms is not None:  # a reserve of such a hold that is sent again finds it ended: no second grant
                self.state.forgotten_until_ms = max(self.state.forgotten_until_ms, latest_ms + 1)

    def _measure(self, slack: int = 0) -> None:
        """Once a minute, and after many new calls: tells of a state that is half of what it may be, and drops what is
        missed least when all of it is too large."""
        state = self.state
        if state.rules == 1:
            return
        estimate = estimated_bytes(state)
        size = self._size.most_bytes(estimate)
        if size > STATE_BYTES_MAX + slack:  # it can be; is it?
            size = len(self._dump())
            self._size.is_measured(size, estimate)
        self._size.is_looked_at()
        if STATE_BYTES_MAX < size <= STATE_BYTES_MAX + slack:
            return
        if size > STATE_BYTES_MAX:
            self._relieve(size)
        else:
            state.full = False
        if size >= STATE_BYTES_ALERT:
            text = (
                f"the ledger's state has {size // 1024} KiB of {STATE_BYTES_MAX // 1024}: {len(self.ledger.accounts)} "
                f"accounts, {len(self.ledger.holds)} holds, {len(self.queue)} parked calls, {len(state.ended)} ended "
                "holds; see docs/limits.md"
            )
            self.outbox.alert_once(state.now_ms, "state_size", text, str(window_start_ms("day", state.now_ms)))

    def _relieve(self, size: int) -> None:
        """Of a state that is larger than it may be. When nothing is left to drop, no further calls are taken in."""
        left = relieve(self.state, size - STATE_BYTES_MAX)
        self.state.full = left > 0 and self.state.rules >= 2
        self.outbox = Outbox(self.state.outbox, self.state.rules)

    def _void(self, command: Void) -> Answer:
        hold = self.ledger.holds.get(command.hold_id)
        if hold is not None:
            self.ledger.post(command.hold_id, 0, confirmed=True)
            self.ledger.release(hold, 0, self.state.now_ms)
            self.state.freed.update(hold.accounts)
            self.state.gates[hold.grant.service].breaker.ended(command.hold_id)
            self._correct_expiry(hold)
            self.state.ended[command.hold_id] = EndedHold(self.state.now_ms)
            return Settled(hold_id=command.hold_id)
        if call := self.queue.get(command.hold_id):
            self.queue.remove(call)
            self.state.freed.update(call.waits_for | call.keeps)  # its claim may have kept somebody waiting
        self.state.ended.setdefault(command.hold_id, EndedHold(self.state.now_ms))
        return Settled(hold_id=command.hold_id)

    def _correct_expiry(self, hold: Hold) -> None:
        """Somebody settles or voids after all: from now on the entries of the attempts say what it did cost."""
        if hold.expired:
            hold.expired = False
            self.outbox.expired(hold, settled=True)

    def _judge_service(self, command: Settle, hold: Hold) -> None:
        """What the end of a call says about its service."""
        breaker = self.state.gates[hold.grant.service].breaker
        for _ in range(command.failures - hold.failures_told):
            self._failed(hold)
        hold.failures_told = max(hold.failures_told, command.failures)  # it may be settled again
        if command.served:
            if breaker.served():
                text = f"{hold.grant.service} works again"
                self.outbox.alert(self.state.now_ms, "breaker_closed", text, f"service:{hold.grant.service}")
        else:
            breaker.ended(hold.grant.hold_id)

    def _failed(self, hold: Hold) -> None:
        service = hold.grant.service
        breaker = self.state.gates[service].breaker
        is_news = breaker.open_until_ms is None  # and not another probe that failed
        if breaker.failed(hold.grant.hold_id, self.state.now_ms):
            text = f"{service} failed {breaker.failures} times in a row; no calls for {breaker.cooldown_ms // 1000} s"
            if is_news:
                self.outbox.alert(self.state.now_ms, "breaker_opened", text, f"service:{service}")
            self.state.freed.add(f"service:{service}")  # who waits for the probe must look elsewhere

    # ------------------------------------------------------------ the clock

    def _look_at_clock(self, now_ms: int) -> None:
        """Doubts a jump forward, and follows a clock that came back."""
        state = self.state
        if state.clock.goes_back(now_ms, state.now_ms):
            self._go_back(now_ms)
        elif now_ms - state.now_ms > JUMP_MS and now_ms - self._first_end_ms() > JUMP_MS:
            state.clock.doubted_until_ms = now_ms + DOUBT_MS
            text = (
                f"the ledger's time went from {utc(state.now_ms)} to {utc(now_ms)} at once, though something was due "
                f"in between: either no worker ran, or the Temporal server's clock jumped. Holds and parked calls "
                f"whose time is over have {DOUBT_MS // 60_000} minutes more. If the clock is wrong, put it right, then "
                "`paymaster clock take --reason …`"
            )
            self.outbox.alert(now_ms, "clock_jumped", text)

    def _first_end_ms(self) -> int:
        """When the first hold expires or the first parked call comes to its deadline."""
        return min(self.ledger.next_expiry_ms(), self.queue.first_deadline_ms())

    def _go_back(self, to_ms: int) -> None:
        """The clock was ahead and is put back: the desk goes on as if its time had always been right."""
        state = self.state
        text = (
            f"the ledger's time goes back from {utc(state.now_ms)} to {utc(to_ms)}, as the Temporal server's clock "
            "did. What was spent meanwhile counts now; raises that lapsed with a window meanwhile must be given again"
        )
        put_back(state, to_ms)
        state.clock.went_back(to_ms)
        state.loading = None
        self.ledger.go_back(to_ms)
        self.outbox.alert(to_ms, "clock_jumped", text)
        state.freed |= state.books.accounts.keys()
        self.__init__(state)  # what follows from the state, by its new times

    def take_clock(self, change: TakeClock, now_ms: int) -> ClockState:
        """Lets the desk's time follow the clock that the next run begins with, also back.

        Raises ValueError under the rules of version 0.1.0.
        """
        self.advance(now_ms)
        self._signed("take_clock", change, may_have_expired=True)
        if self.state.rules < 2:
            raise ValueError("the ledger still runs by the rules of version 0.1.0, whose time never goes back")
        self.state.clock.taken_until_ms = self.state.now_ms + TAKEN_WITHIN_MS
        self.wants_new_run = True
        return ClockState(now_ms=self.state.now_ms)

    # ------------------------------------------------------------ what happens by itself

    def _expire_holds(self) -> None:
        """Nobody settled in time: the money may have been spent, so the bound stays charged, as unconfirmed."""
        for hold in self.ledger.take_expired(self.state.now_ms, self._at_once_max):
            hold_id = hold.grant.hold_id
            self.ledger.post(hold_id, hold.grant.bound_nanos, confirmed=False)
            hold.expired = True
            self.state.freed.update(hold.accounts)
            self.state.gates[hold.grant.service].breaker.ended(hold_id)
            self.outbox.expired(hold, settled=False)
            text = _unconfirmed(hold.grant, hold.posted_nanos, f"{hold_id}/expiry")
            self.outbox.alert(self.state.now_ms, "unconfirmed", text, f"budget:{hold.grant.budget}")

    def _deny_overdue(self) -> None:
        for call in self.queue.take_overdue(self.state.now_ms, self._at_once_max):
            waited_s = (self.state.now_ms - call.parked_at_ms) // 1000
            self._deny_parked(call, "waited_too_long", f"parked for {waited_s} s; {call.detail}")
            self.state.freed.update(call.waits_for | call.keeps)  # its claim may have kept somebody waiting

    @property
    def _at_once_max(self) -> int | None:
        return AT_ONCE_MAX if self.state.rules >= 2 else None

    @property
    def _may_look(self) -> bool:
        return self._served < AT_ONCE_MAX and self._in_vain < IN_VAIN_MAX

    def _serve_parked(self) -> None:
        """Grants, in the queue's order, what fits now. Only calls for which something has changed are looked at."""
        state, now_ms = self.state, self.state.now_ms
        if state.rules < 2:
            freed, state.freed = state.freed, set()
            serve_by_scan(self.queue, self.ledger, freed, now_ms, self._serve)
            return
        if not len(self.queue):
            state.freed, state.look_from = set(), None
            return
        self.queue.begin_claims(now_ms)
        state.freed.update(self.queue.take_alarms(now_ms))
        if not self._may_look:
            return
        round_ = self.queue.round(state.freed, state.look_from, now_ms)
        state.freed, state.look_from = set(), None
        while self._may_look and (call := round_.next()) is not None:
            claimed = self.queue.claims.end(call)
            if self._serve(call):
                self._served += 1
                kept = frozenset[str]()
            else:
                self._in_vain += 1
                kept = self.queue.claims.claim(call, now_ms)
            round_.free(claimed - kept)  # it keeps those accounts from nobody behind it any more
        state.freed, state.look_from = round_.freed, round_.everybody_from
        is_left = bool(state.freed) or state.look_from is not None
        self._remind(now_ms + 1 if is_left else self.queue.change_ms())

    def _file_again(self) -> None:
        """After accounts were opened or closed, or limits or breakers changed."""
        self.queue.file_again(self.state.now_ms)
        self._look_at_everybody()

    def _look_at_everybody(self) -> None:
        """Whoever waits for anything; a lowered cap, say, makes impossible what waits for a place."""
        self.state.freed |= self.ledger.accounts.keys()
        if self.state.rules >= 2:
            self.state.look_from = FIRST

    def _serve(self, call: ParkedCall) -> bool:
        """Grants a parked call, or denies it if waiting does not help any more. False: it waits on."""
        found = self._choose(call.reserve, call.place())
        if isinstance(found, Choice):
            self.queue.remove(call)
            self.outbox.answer(call.reserve.call, self._grant(call.reserve, found))
            return True
        deciding = decide(found)
        self._alert_obstacles(found)
        # never: a cap was lowered below its bound. gone: what it waited for, money on hold, was spent after all.
        failing = call.reserve.on_exhausted == "fail" and deciding.kind != "busy"
        if failing or deciding.kind == "never" or (deciding.kind == "open" and self._cooled_down(call)):
            self._deny_parked(call, deciding.reason, _details(found))
            return True
        self.queue.note(call, found, self.state.now_ms)
        self._remind_of(call)
        self._alert_parked(deciding)
        return False

    def _cooled_down(self, call: ParkedCall) -> bool:
        """It has waited for a whole cooldown, and every service fails again: its agent must go on without."""
        since_ms = call.open_since_ms
        return since_ms is not None and self.state.now_ms >= since_ms + call.cooldown_ms(self.state.gates)

    def _deny_parked(self, call: ParkedCall, reason: str, detail: str) -> None:
        self.queue.remove(call)
        self.outbox.answer(call.reserve.call, self._deny(call.reserve.hold_id, reason, detail))

    def _remind_of(self, call: ParkedCall) -> None:
        for at_ms in (call.retry_at_ms, call.claims_at_ms()):
            if at_ms is not None:
                self._remind(at_ms)

    def _forget_ended(self) -> None:
        """The dict is in order of time: the oldest ends come first."""
        ended, state = self.state.ended, self.state
        for hold_id in list(ended):
            at_ms = ended[hold_id].at_ms
            if at_ms > state.now_ms - REMEMBER_ENDED_MS and len(ended) <= REMEMBER_ENDED_MAX:
                break
            del ended[hold_id]
            state.forgotten_until_ms = max(state.forgotten_until_ms, at_ms + 1)

    def _remind(self, at_ms: int) -> None:
        self.due_ms = min(self.due_ms, at_ms)

    def _set_due(self) -> None:
        now_ms, not_before_ms = self.state.now_ms, self.state.clock.doubted_until_ms
        ends_ms = max(self._first_end_ms(), not_before_ms)
        if self.state.rules < 2:
            self.due_ms = min(ends_ms, due_by_scan(self.queue, now_ms))
            return
        left = bool(self.state.freed) or self.state.look_from is not None
        self.due_ms = now_ms if left else min(ends_ms, self.queue.change_ms())
        self.due_ms = max(self.due_ms, now_ms + 1)  # what was too much for now goes on then

    # ------------------------------------------------------------ alerts

    def _alert_obstacles(self, obstacles: list[Obstacle]) -> None:
        for obstacle in obstacles:
            if obstacle.kind == "gone" and obstacle.account and obstacle.window:
                self._alert_in_window("exhausted", obstacle.account, obstacle.window, obstacle.detail)
            elif obstacle.reason == "no_price":
                self.outbox.alert_once(self.state.now_ms, "no_price", obstacle.detail, obstacle.detail)

    def _alert_parked(self, deciding: Obstacle) -> None:
        if deciding.kind == "gone" and deciding.account and deciding.window:
            self._alert_in_window("parked", deciding.account, deciding.window, f"calls are parked: {deciding.detail}")

    def _alert_in_window(self, what: Literal["exhausted", "parked"], account: str, window: Window, text: str) -> None:
        balance = self.ledger.accounts[account].balances[window]
        if what not in balance.alerted:
            balance.alerted |= {what}
            self.outbox.alert(self.state.now_ms, what, text, account, window)

    def _notice_price(self, grant: Grant) -> None:
        """A price decides as much as a cap, and each worker has its own: what falls by more than half is told."""
        prices, name = self.state.prices, f"{grant.service}/{grant.model}"
        now, before = (grant.price.input_nanos, grant.price.output_nanos), prices.get(name)
        if now == before:
            return
        if before is None and len(prices) >= PRICES_MAX:
            del prices[next(iter(prices))]
        prices[name] = now
        if before is not None and any(2 * new < old for old, new in zip(before, now, strict=True)):
            said = in_words(price_differences({name: before}, {name: now}))
            text = f"a price fell by more than half: {said}, says a worker ({grant.price.source}); {grant.hold_id}"
            about = f"{name} {before} {now} {window_start_ms('day', self.state.now_ms)}"
            self.outbox.alert_once(self.state.now_ms, "price_fell", text, about)

    def _alert_settlement(self, command: Settle, hold: Hold) -> None:
        grant, now_ms = hold.grant, self.state.now_ms
        if command.cost_nanos > grant.bound_nanos:
            over = format_usd(command.cost_nanos - grant.bound_nanos)
            text = f"{grant.service}/{grant.model} billed {over} more than the bound of {grant.hold_id}"
            self.outbox.alert(now_ms, "overage", text, f"budget:{grant.budget}")
        if not command.confirmed:
            text = _unconfirmed(grant, command.cost_nanos, command.unknown_attempt)
            self.outbox.alert(now_ms, "unconfirmed", text, f"budget:{grant.budget}")

    # ------------------------------------------------------------ admins' helpers

    def _signed(self, action: str, command: SignedT, *, may_have_expired: bool = False) -> SignedT:
        state = self.state
        return check_signature(
            action,
            command,
            state.config.admin,
            state.used_signatures,
            ledger=state.ledger,
            epoch=state.epoch,
            now_ms=state.now_ms,
            may_have_expired=may_have_expired,
        )

    def _set_cap(
        self, account: Account, change: RaiseCap | SetCap, to_nanos: int, by_nanos: int | None, lapsing_nanos: int
    ) -> CapState:
        if to_nanos > NANOS_MAX:
            raise ValueError(f"a cap of {format_usd(to_nanos)} is more than the books can hold")
        balance = account.balances[change.window]
        before = balance.cap_nanos
        self.ledger.set_cap(account.key, change.window, to_nanos, lapsing_nanos=lapsing_nanos)
        kept = self.outbox.cap_changed(
            self.state.now_ms,
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
        if not self.state.began:
            self.state.early.append(kept)
        self._withdraw_above_cap(account, change.window)
        if self.state.rules < 2 or before is None or to_nanos < before:
            self._look_at_everybody()
        self.state.freed.add(account.key)
        self.advance(self.state.now_ms)
        return CapState(account=account.key, window=change.window, cap_nanos=to_nanos)

    def _withdraw_above_cap(self, account: Account, window: Window) -> None:
        """Takes back the latest grants until what is left fits under a cap that was lowered."""
        balance = account.balances[window]
        above = balance.posted_nanos + balance.pending_nanos - (balance.cap_nanos or 0)
        for hold in reversed(self.ledger.pending.values()):
            if above <= 0:
                return
            counts = hold.grant.granted_at_ms >= window_start_ms(window, self.state.now_ms)
            if counts and account.key in hold.accounts:
                self.outbox.withdraw(hold, f"the cap of {account.key} ({window}) was lowered")
                above -= hold.grant.bound_nanos

    def _account_for_admin(self, key: str) -> Account:
        """An admin may cap any budget, also one that the configuration does not name."""
        account = self.ledger.accounts.get(key)
        if account is not None:
            return account
        kind, _, path = key.partition(":")
        if kind != "budget":
            raise ValueError(f"there is no account {key!r}; there are: {self._known_accounts()}")
        check_budget_path(path)
        if self.state.rules >= 2 and len(self.ledger.accounts) >= ACCOUNTS_MAX:
            raise ValueError(
                f"the ledger has {len(self.ledger.accounts):,} accounts and may have {ACCOUNTS_MAX:,}: give a cap to a "
                "budget of the configuration, or remove some from it"
            )
        account = self.ledger.open_account(key)
        self._file_again()
        return account

    def _gate(self, service: str) -> Gate:
        if service not in self.state.gates:
            raise ValueError(f"there is no service {service!r}; there are: {', '.join(sorted(self.state.gates))}")
        return self.state.gates[service]

    def _known_accounts(self) -> str:
        """There may be thousands: the first ones show how they are written."""
        known = sorted(self.ledger.accounts)
        more = f" and {len(known) - KNOWN_SHOWN_MAX} more" if len(known) > KNOWN_SHOWN_MAX else ""
        return (", ".join(known[:KNOWN_SHOWN_MAX]) or "none") + more


def _until_it_began(obstacle: Obstacle, service: str) -> Obstacle:
    """Before the ledger knows what was stored, a budget that it does not know may be there."""
    if obstacle.reason != "unknown_budget":
        return obstacle
    detail = "which budgets there are is being loaded"
    return Obstacle("busy", "loading", detail, f"service:{service}")


def _unconfirmed(grant: Grant, nanos: int, attempt: str | None) -> str:
    resolve = f"`paymaster unconfirmed resolve {attempt} --cost USD`" if attempt else "`paymaster unconfirmed list`"
    return (
        f"nobody knows whether {grant.service}/{grant.model} billed a call of {grant.budget}; {format_usd(nanos)} stay "
        f"charged until somebody says what it did cost: {resolve}"
    )


def _by(change: AdminMessage) -> str:
    return f"{change.who or 'an admin'}{f' ({change.reason})' if change.reason else ''}"


def _details(obstacles: list[Obstacle]) -> str:
    """Once each: an unknown budget is so for every candidate."""
    return cut("; ".join(dict.fromkeys(obstacle.detail for obstacle in obstacles)), DETAIL_BYTES_MAX)
