"""The desk: one state, one command at a time, one answer. Ledger + gates + routing + parked queue + outbox.

The desk is deterministic: the same commands at the same times give the same answers and the same state, also when it is
cut anywhere through `dump` and `Desk.load`. Its time goes back only as paymaster/admission/clock.py says.
"""

from paymaster.admission.alert_policy import AlertPolicy
from paymaster.admission.answers import CommandAnswers
from paymaster.admission.asked import wrong_with
from paymaster.admission.authority import signed
from paymaster.admission.books import Ledger
from paymaster.admission.caps import Caps
from paymaster.admission.clock import BEHIND_FOR_MS, DOUBT_MS, JUMP_MS, TAKEN_WITHIN_MS
from paymaster.admission.config_commands import ConfigCommands
from paymaster.admission.copying import StatusCopies
from paymaster.admission.counting import as_counted
from paymaster.admission.going_back import put_back
from paymaster.admission.granting import Granting
from paymaster.admission.in_force import InForce
from paymaster.admission.loading import SpendLoading
from paymaster.admission.outbox import Outbox
from paymaster.admission.parking import Parking
from paymaster.admission.queue import ParkedQueue
from paymaster.admission.routing import Choice
from paymaster.admission.rules_1 import as_rules_1_take_it
from paymaster.admission.run_commands import RunCommands
from paymaster.admission.service_commands import ServiceCommands
from paymaster.admission.settling import Settling
from paymaster.admission.signed_commands import utc
from paymaster.admission.standing import standing_of
from paymaster.admission.state import RULES, DeskState, read
from paymaster.admission.state_size import StateSize
from paymaster.admission.status import desk_status, unconfirmed_page
from paymaster.admission.tags import check_tag
from paymaster.messages import (
    AcceptLower,
    AdminMessage,
    Answer,
    AskStanding,
    AttemptReport,
    CapState,
    ClockState,
    Command,
    ConfigState,
    Configuration,
    Configure,
    CorrectSpend,
    CountFirst,
    Delivery,
    DeskConfig,
    DeskStatus,
    Ended,
    EndRun,
    Granted,
    LoadedSpend,
    LoadSpend,
    ParkedAnswer,
    PauseService,
    RaiseCap,
    RaiseRun,
    ReadAgain,
    Reserve,
    ResumeRun,
    ResumeService,
    RunState,
    ServiceState,
    SetCap,
    Settle,
    Signature,
    StatusRequest,
    StoredRows,
    TakeClock,
    UnconfirmedHolds,
    UnsetCap,
    Upgrade,
    Upgraded,
    Void,
    json_bytes,
)
from paymaster.messages.spending import Foreseen, Unusual
from paymaster.messages.temporal_names import TAKE_CLOCK, UPGRADE
from paymaster.values.collection import no_collection
from paymaster.values.cut import cut
from paymaster.values.limits import REFUSED_BYTES_MAX, REFUSED_KEPT
from paymaster.values.windows import window_start_ms

_FIRST_PAGE = StatusRequest()


class Desk:
    def __init__(self, state: DeskState) -> None:
        self.state = state
        self.ledger = Ledger(state.books, state.config.time_zones)
        self.outbox = Outbox(state.outbox, state.rules)
        self.answers = CommandAnswers(state.answers, state.rules)
        self.in_force = InForce(state, self.ledger, self.outbox)
        self.wants_new_run = False
        """Only a new run sees whether the server's clock has come back."""
        self._alerts = AlertPolicy(state, self.ledger, self.outbox)
        self._granting = Granting(state, self.ledger, self._alerts)
        self._parking = Parking(state, self.ledger, self.outbox, self._alerts, self._granting)
        self._configs = ConfigCommands(state, self.in_force, self._alerts, self._parking)
        self._caps = Caps(state, self.ledger, self.outbox, self.in_force, self._parking)
        self._runs = RunCommands(state, self.ledger, self.outbox, self._alerts, self._caps, self._parking)
        self._services = ServiceCommands(state, self.ledger, self.outbox, self._parking)
        self._loading = SpendLoading(state, self.ledger, self.outbox, self._alerts, self.in_force, self._parking)
        self._settling = Settling(state, self.ledger, self.outbox, self._alerts, self._parking, self._loading)
        self._minute_ends_ms = state.books.window_starts_ms["minute"] + 60_000
        self._size = StateSize(state, self.outbox, self._alerts)
        self.copies = StatusCopies(state, self.ledger, self._parking, self._size)

    @property
    def queue(self) -> ParkedQueue:
        return self._parking.queue

    @property
    def due_ms(self) -> int:
        """When something may happen by itself. Looking earlier is harmless, looking later delays it."""
        return self._parking.due_ms

    @classmethod
    def load(cls, dumped: str) -> "Desk":
        with no_collection():
            state, plain = read(dumped)
            desk = cls(state)
        desk._size.is_measured(len(dumped), plain)
        return desk

    def dump(self) -> str:
        """The whole state as text, for continue-as-new; see `StateSize.dump`."""
        return self._size.dump()

    # ------------------------------------------------------------ commands

    def handle(self, command: Command, now_ms: int, size: int | None = None) -> Answer:
        """Answers one command. What it frees is given to parked calls before anybody who comes later.

        `size`: how many bytes it has as a message. None: not known.
        """
        self.advance(now_ms)
        match command:
            case Reserve():
                return self._reserve(command, json_bytes(command) if size is None else size)
            case Settle():
                return self._settling.settle(command)
            case Void():
                return self._settling.void(command)
            case AskStanding():
                return standing_of(command, self.ledger, self._parking.on_demand)

    def advance(self, now_ms: int) -> None:
        """Lets time pass: windows end, holds expire, parked calls come to their deadline or get what was freed."""
        state = self.state
        if state.rules >= 2:
            self._look_at_clock(now_ms)
        clock_ms = now_ms
        self._parking.in_activation_of(clock_ms)
        if now_ms > state.now_ms:
            state.now_ms = now_ms
            self._size.time_went_on()
        now_ms = state.now_ms
        self._settling.group_ended()
        if now_ms >= self._minute_ends_ms:
            rolled = self.ledger.roll_windows(now_ms)
            state.freed |= rolled.accounts
            self._alerts.watched(rolled.let_through)
            if rolled.lapsed:
                self._parking.look_at_everybody()
            self._minute_ends_ms = window_start_ms("minute", now_ms) + 60_000
            self._settling.forget_ended()
            self._parking.on_demand.forget()
            self._settling.fold_unconfirmed()
            self._alerts.minute_ended()
            self._size.look()
        if now_ms >= self.due_ms:
            if now_ms >= state.clock.doubted_until_ms:
                self._settling.expire()
                self._parking.deny_overdue()
            self._parking.serve()
            self._parking.set_due()
        elif state.freed:
            self._parking.serve()
        if self._parking.is_left:
            self._parking.remind(clock_ms + 1)  # also where the desk's time stands still until the clock has come to it
        if state.clock.behind_since_ms is not None:  # who is woken then wakes by the clock, and not by the desk's time
            self._parking.remind(clock_ms + BEHIND_FOR_MS)

    def report(self, report: AttemptReport, now_ms: int) -> None:
        """A failed attempt: one request more, perhaps a pause that the service asked for, perhaps its fault."""
        self.advance(now_ms)
        hold, gate = self.ledger.holds.get(report.hold_id), self.state.gates.get(report.service)
        if gate is None:
            return
        if report.pause_ms is not None and report.model is not None and self.state.rules >= 2:
            gate.pause_model(report.model, self.state.now_ms + report.pause_ms, self.state.now_ms)
        elif report.pause_ms is not None:
            gate.pause(self.state.now_ms + report.pause_ms)
        self.ledger.mark([f"service:{report.service}"] if hold is None else hold.accounts)
        self._alerts.attempt(report)
        if hold is None:
            return
        for key in hold.accounts:
            self.ledger.accounts[key].limiter.use(1, 0, self.state.now_ms)
        if report.trips_breaker and hold.running:  # else its settlement has told of all its failures
            hold.failures_told += 1
            self._settling.failed(hold)

    def tell_of(self, seen: Foreseen | Unusual, now_ms: int) -> None:
        """What a worker has seen in the stored rows, and people should know."""
        self.advance(now_ms)
        self._alerts.seen(seen)

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
        change = Configure(config=config, force=force, signature=signature, who=who, may_remove=may_remove)
        if not (answer := self._configs.configure(change)).applied:
            return answer
        self.advance(now_ms)
        return answer.model_copy(update={"kept": self.in_force.kept(config)})

    def handed_on(self, rules: int) -> str:
        """The state for the next run, which decides by these rules.

        One that no run of version 0.1.0 can begin with, because its form is too large to be sent, follows the newest
        rules instead: 0.1.0 would stay at the end of its run for ever.
        """
        if rules != self.state.rules:
            self.follow(rules)
        if rules >= 2:
            return self.dump()
        old_form = self._size.old_form()
        if old_form is not None:
            return old_form
        self._decide_by(RULES)
        self._settling.fold_unconfirmed()
        self._alerts.old_form_too_large()
        return self._size.whole()

    def follow(self, rules: int) -> None:
        """Begins to decide by these rules, at the end of a run: what the next one begins with."""
        self._decide_by(rules)
        self._parking.file_again()

    def _decide_by(self, rules: int) -> None:
        self.in_force.follow(rules)
        self.outbox.follow(rules)

    def configuration(self) -> Configuration:
        """What the ledger decides with."""
        state = self.state
        return Configuration(
            config=state.config,
            admin_caps_nanos=self.in_force.admin_caps(),
            prices=state.prices,
            who=state.config_by,
        )

    def check_tag(self, change: AdminMessage, now_ms: int) -> None:
        """Raises Stale for a command that changes what its sender has not seen."""
        if change.if_tag is not None:
            self.advance(now_ms)  # a raise that has lapsed is copied now, and can be seen
            check_tag(change, change.if_tag, self.state, self.ledger)

    def raise_cap(self, change: RaiseCap, now_ms: int) -> CapState:
        """Adds to a cap. Raises ValueError, which says what exists, for an account or a cap that does not.

        As the other commands of admins it raises SignatureRefused for one that is not signed as it must be.
        """
        self.advance(now_ms)
        answer = self._caps.raise_cap(change)
        self.advance(self.state.now_ms)
        return answer

    def set_cap(self, change: SetCap, now_ms: int) -> CapState:
        """Sets a cap, also on a budget that had none. Raises ValueError for a bad account or amount."""
        self.advance(now_ms)
        answer = self._caps.set_cap(change)
        self.advance(self.state.now_ms)
        return answer

    def unset_cap(self, change: UnsetCap, now_ms: int) -> CapState:
        """Ends what admins made of a cap: the configuration's value is in force. Raises ValueError for no account."""
        self.advance(now_ms)
        answer = self._caps.unset_cap(change)
        self.advance(self.state.now_ms)
        return answer

    def raise_run(self, change: RaiseRun, now_ms: int) -> RunState:
        """Gives a run more than its limits. Raises ValueError for a run or a limit that is not there."""
        self.advance(now_ms)
        answer = self._runs.raise_run(change)
        self.advance(self.state.now_ms)
        return answer

    def resume_run(self, change: ResumeRun, now_ms: int) -> RunState:
        """Lets a run go on that is held as a runaway. Raises ValueError for one that is not."""
        self.advance(now_ms)
        answer = self._runs.resume_run(change)
        self.advance(self.state.now_ms)
        return answer

    def end_run(self, change: EndRun, now_ms: int) -> RunState:
        """Lets no further call of a run begin. Raises ValueError for what is no run's path."""
        self.advance(now_ms)
        answer = self._runs.end_run(change)
        self.advance(self.state.now_ms)
        return answer

    def pause_service(self, change: PauseService, now_ms: int) -> ServiceState:
        """Sends nothing more to a service; takes back what was granted and not sent. Raises ValueError for no such."""
        self.advance(now_ms)
        return self._services.pause(change)

    def resume_service(self, change: ResumeService, now_ms: int) -> ServiceState:
        """Ends an admin's pause, and also a pause of the service's own and an open breaker."""
        self.advance(now_ms)
        answer = self._services.resume(change)
        self.advance(now_ms)
        return answer

    def upgrade(self, change: Upgrade, now_ms: int) -> Upgraded:
        """Allows newer rules, which begin with the ledger's next run. Raises ValueError for unknown ones."""
        self.advance(now_ms)
        change = signed(self.state, UPGRADE.name, change)
        if change.rules > RULES:
            raise ValueError(f"the ledger's worker knows rules up to {RULES}, not {change.rules}: update it first")
        return Upgraded(before=self.state.rules, rules=max(self.state.rules, change.rules))

    def refuse_message(self, text: str, now_ms: int) -> None:
        """Keeps a message that could not be applied where operators see it."""
        self.advance(now_ms)
        text = cut(text, REFUSED_BYTES_MAX)
        kept = text
        if self.state.rules >= 2:
            when = f" ({utc(self.state.now_ms)})"
            kept = cut(text, REFUSED_BYTES_MAX - len(when)) + when
        self.state.refused_messages = [*self.state.refused_messages, kept][-REFUSED_KEPT:]
        self._alerts.refused(text)

    def status(self, page: StatusRequest = _FIRST_PAGE, now_ms: int = 0) -> DeskStatus:
        """How everything stands at `now_ms`, also if nothing happened here since; 0: when something last did."""
        state_bytes, now_ms = self._size.about(), max(self.state.now_ms, now_ms)
        return desk_status(self.state, self.ledger, self.queue, page, now_ms, state_bytes)

    def unconfirmed_holds(self, after: str = "") -> UnconfirmedHolds:
        """A page of the holds of which nobody knows whether they were billed, after this hold id."""
        return unconfirmed_page(self.ledger, after)

    # ------------------------------------------------------------ deliveries and loading

    def delivered(self, delivery: Delivery, now_ms: int) -> None:
        """Takes what arrived out of the outbox. A call that is gone gets nothing: its hold is free again."""
        gone = set(delivery.gone)
        for message in self.state.outbox.messages:
            answer = message.answer if isinstance(message, ParkedAnswer) else None
            if message.sequence in gone and isinstance(answer, Granted):
                hold = self.ledger.holds.get(answer.grant.hold_id)
                if hold is not None and hold.state == "pending":  # else an earlier sending had reached it
                    self._settling.void(Void(hold_id=answer.grant.hold_id))
                    self.state.ended[answer.grant.hold_id].presumed = self.state.rules >= 2
            if message.sequence in gone and isinstance(answer, CountFirst):
                self._parking.leave(answer.hold_id)
        self.outbox.acknowledge(gone | set(delivery.delivered))
        self.advance(now_ms)

    def to_load(self) -> LoadSpend | None:
        """What must be read from the database next, or None. The same until `loaded` is called."""
        return self._loading.to_load()

    def loaded(self, spend: LoadedSpend, now_ms: int) -> None:
        """What was spent before is known: the accounts are open."""
        self.advance(now_ms)
        self._loading.loaded(spend)
        self.advance(now_ms)

    def reload(self, now_ms: int) -> None:
        """Takes the stored entries for the truth: reads again what every account has spent."""
        self.advance(now_ms)
        self._loading.reload()

    def compare_rows(self, stored: StoredRows, now_ms: int) -> ReadAgain:
        """Reads everything again if the database has newer rows than this state can know of: it was put back."""
        self.advance(now_ms)
        return self._loading.compare_rows(stored)

    def accept_lower(self, change: AcceptLower, now_ms: int) -> ReadAgain:
        """Reads an account again, and takes what is stored also where it is less than what was posted.

        Raises ValueError for an account that is not there.
        """
        self.advance(now_ms)
        return self._loading.accept_lower(change)

    def correct_spend(self, change: CorrectSpend, now_ms: int) -> ReadAgain:
        """Reads the accounts of a hold again, of which a person corrected the rows.

        Of a hold that is here the settlement says what it did cost: ValueError.
        """
        self.advance(now_ms)
        return self._loading.correct_spend(change)

    # ------------------------------------------------------------ reserve

    def _reserve(self, request: Reserve, size: int) -> Answer:
        hold_id = request.hold_id
        if self.state.rules >= 2 and self.state.clock.wants_new_run(request.asked_at_ms, self.state.now_ms):
            self.wants_new_run = True
        if hold := self.ledger.holds.get(hold_id):
            return Granted(grant=hold.grant) if hold.state == "pending" else Ended(hold_id=hold_id)
        if call := self.queue.get(hold_id):
            counted = as_counted(call.reserve, request)
            return call.answer() if counted is None else self._parking.counted(call, counted)
        if ended := self.state.end_of(hold_id):
            return ended.denied or Ended(hold_id=hold_id)
        if request.asked_at_ms < self.state.forgotten_until_ms:
            return Ended(hold_id=hold_id)
        if (wrong := wrong_with(request, self.state.rules)) is not None:
            return self._granting.deny(hold_id, wrong.reason, wrong.detail)
        if self.state.rules < 2:
            request = as_rules_1_take_it(request)
        if self.state.full:
            return self._granting.deny(
                hold_id, "ledger_full", "the ledger's state is as large as it may be; see docs/limits.md"
            )
        self._size.take_in(request, size)
        if (busy := self._parking.too_much_asked(request)) is not None:
            return self._parking.park_or_deny(request, [busy])
        place = (-request.priority, self.state.outbox.sequence + 1)
        found = self._parking.choose(request, place)
        if not isinstance(found, Choice):
            return self._parking.park_or_deny(request, found)
        return self._parking.granted(request, found)

    # ------------------------------------------------------------ the clock

    def _look_at_clock(self, now_ms: int) -> None:
        """Doubts a jump forward, and follows a clock that came back."""
        state = self.state
        if state.clock.goes_back(now_ms, state.now_ms):
            self._go_back(now_ms)
        elif now_ms - state.now_ms > JUMP_MS and now_ms - self._parking.first_end_ms() > JUMP_MS:
            state.clock.doubted_until_ms = now_ms + DOUBT_MS
            self._alerts.clock_ahead(now_ms)

    def _go_back(self, to_ms: int) -> None:
        """The clock was ahead and is put back: the desk goes on as if its time had always been right."""
        state, before_ms = self.state, self.state.now_ms
        put_back(state, to_ms)
        state.clock.went_back(to_ms)
        state.loading = None
        self.ledger.go_back(to_ms)
        self._alerts.clock_back(before_ms, to_ms)
        state.freed |= state.books.accounts.keys()
        self.__init__(state)  # what follows from the state, by its new times

    def take_clock(self, change: TakeClock, now_ms: int) -> ClockState:
        """Lets the desk's time follow the clock that the next run begins with, also back.

        Raises ValueError under the rules of version 0.1.0.
        """
        self.advance(now_ms)
        signed(self.state, TAKE_CLOCK.name, change, may_have_expired=True)
        if self.state.rules < 2:
            raise ValueError("the ledger still runs by the rules of version 0.1.0, whose time never goes back")
        self.state.clock.taken_until_ms = self.state.now_ms + TAKEN_WITHIN_MS
        self.wants_new_run = True
        return ClockState(now_ms=self.state.now_ms)
