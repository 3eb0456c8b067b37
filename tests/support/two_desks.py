"""Two desks that get the same commands, one of them cut before each, and a database that answers from the model."""

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager

from copied_status import CopiedStatus
from desk_facts import EARLIER_MS, ROLLING, START_MS, HeldMoney, Part, T, counts
from desk_model import Model
from hypothesis.stateful import RuleBasedStateMachine

from paymaster.admission import books
from paymaster.admission.clock import BEHIND_MS
from paymaster.admission.desk import Desk
from paymaster.admission.state import DeskState
from paymaster.messages import CallMessage, Command, LoadedSpend, Notice, Reserve, Window
from paymaster.values.windows import WINDOWS


class TwoDesks(RuleBasedStateMachine):
    cut_every = 1
    """Before one in so many commands the second desk is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.clock_ms = START_MS
        self.model = Model(accounts_max=books.ACCOUNTS_MAX)
        self.desk = Desk(DeskState(ledger="default", epoch="this run"))
        self.cut_desk = Desk.load(self.desk.dump())
        self.commands = 0
        self.was_cut = False
        """Since its state was compared last."""
        self.messages: dict[int, CallMessage] = {}
        self.notices: dict[int, Notice] = {}
        self.last_sequence = 0
        self.sent: list[Command] = []
        self.to_ask_again: list[Reserve] = []
        """Of calls that were parked until counting their tokens might help, with the count."""
        self.calls = 0
        self.configurations = 0
        self.spend: LoadedSpend | None = None
        """What was read from the database and has not arrived yet."""
        self.reads_at_once = False
        """Whether that arrives in the step in which it is asked for."""
        self.looked = False
        """The desk has looked at the queue since something was freed last."""
        self.opened = frozenset[str]()
        """Accounts that there are since the last command: who was looked at earlier did not see them."""
        self.gone: dict[str, bool] = {}
        """Accounts that have left the books: whether these were full."""
        self.copied, self.copied_by_cut = CopiedStatus(), CopiedStatus()
        self.steps = 0
        self.room_since_ms: int | None = None
        """Since when there is room for an account that a call waits for."""

    def in_state(self, state: str) -> list[HeldMoney]:
        return [hold for hold in self.model.holds.values() if hold.state == state]

    def both(self, do: Callable[[Desk], T]) -> T:
        """Acts on the desk, and on the one that is cut and restored first; both must give one answer."""
        answer = self.on_both(do)
        self.take_in_accounts(frozenset(self.desk.ledger.accounts))
        return answer

    def on_both(self, do: Callable[[Desk], T]) -> T:
        """Likewise; which accounts there are now is yet to be taken in."""
        self.commands += 1
        if self.commands % self.cut_every == 0:
            self.cut_desk, self.was_cut = Desk.load(self.cut_desk.dump()), True
        answer, cut_answer = do(self.desk), do(self.cut_desk)
        assert answer == cut_answer, "a desk that was cut and restored answers otherwise"
        now_ms = self.desk.state.now_ms
        if now_ms < self.model.now_ms:
            assert now_ms == self.clock_ms <= self.model.now_ms - BEHIND_MS, "the desk's time goes back without need"
            self.model.go_back(now_ms)
            # The ends of those that were asked for in a time that has not passed yet are forgotten before it has.
            self.sent = [c for c in self.sent if not isinstance(c, Reserve) or c.asked_at_ms < now_ms]
            self.to_ask_again = [request for request in self.to_ask_again if request.asked_at_ms < now_ms]
        assert now_ms == max(self.model.now_ms, self.clock_ms)
        self.model.now_ms = now_ms
        return answer

    def take_in_accounts(self, now: frozenset[str]) -> None:
        """Which accounts there are: those of names and runs come and go as the desk thinks fit."""
        model = self.model
        self.opened = now - model.open
        if now == model.open:
            return
        were_full = len(model.open | now) >= model.accounts_max
        self.gone |= dict.fromkeys(model.open - now, were_full)
        for account in now - model.open:
            model.used_ms[account] = model.now_ms
            if account.startswith("run:"):
                path = account.removeprefix("run:")
                on_hold = [hold.grant.granted_at_ms for hold in model.used_by(path) if hold.is_open]
                model.parts[path] = Part(granted_ms=tuple(on_hold))
        model.loading = (model.loading & now) | (now - model.open)
        model.open = now

    @contextmanager
    def before_accounts_opened(self) -> Generator[None]:
        """The model without the accounts that the last command opened."""
        model, opened = self.model, self.opened
        before = model.open, model.loading, model.parts
        model.open, model.loading = model.open - opened, model.loading - opened
        model.parts = {path: part for path, part in model.parts.items() if f"run:{path}" not in opened}
        try:
            yield
        finally:
            model.open, model.loading, model.parts = before

    # ------------------------------------------------------------ the database

    def read_what_was_spent(self) -> None:
        """Reads like the activity all that is stored, but for the holds that the desk counts itself."""
        wanted = self.both(lambda desk: desk.to_load())
        assert (wanted is not None) == bool(self.model.loading), "what was spent is to be read, or is not"
        if wanted is None or (self.spend is not None and self.spend.number == wanted.number):
            return
        left_out = {self.model.holds[hold_id].grant.hold_id for hold_id in wanted.known_holds}
        posted: dict[str, dict[Window, int]] = {
            account: {window: self.posted_without(left_out, account, window) for window in WINDOWS}
            for account in wanted.accounts
        }
        steps: dict[str, dict[Window, dict[int, int]]] = {
            account: {window: self.steps_without(left_out, account, window) for window in wanted.rolling_starts_ms}
            for account in wanted.accounts
        }
        runs = {account: self.calls_without(left_out, account) for account in wanted.accounts if account[:4] == "run:"}
        run_calls: dict[str, dict[Window, int]] = {
            account: {window: self.calls_without(left_out, account, window)[0] for window in wanted.calls_in}
            for account in runs
        }
        self.spend = LoadedSpend(
            number=wanted.number, posted_nanos=posted, steps_nanos=steps, runs=runs, run_calls=run_calls
        )

    def posted_without(self, left_out: set[str], account: str, window: Window) -> int:
        """What the stored entries say, but for those of these holds."""
        holds = [self.model.holds[hold_id] for hold_id in left_out]
        return self.model.posted(account, window) - sum(
            hold.posted_nanos
            for hold in holds
            if account in hold.accounts and counts(window, hold.grant.granted_at_ms, self.model.now_ms)
        )

    def steps_without(self, left_out: set[str], account: str, window: Window) -> dict[int, int]:
        """What they say of a rolling window, by when its steps began."""
        spent = [(START_MS - EARLIER_MS, self.model.earlier.get((account, window), 0))]
        for hold_id, hold in self.model.holds.items():
            if account in hold.accounts and hold_id not in left_out:
                spent.append((hold.grant.granted_at_ms, hold.posted_nanos))
        steps, step_ms = Counter[int](), ROLLING[window][1]
        for at_ms, nanos in spent:
            if counts(window, at_ms, self.model.now_ms):
                steps[at_ms // step_ms * step_ms] += nanos
        return dict(steps)

    def calls_without(self, left_out: set[str], account: str, window: Window = "total") -> tuple[int, int]:
        """How many calls have stored entries, but for those of these holds, and when the first one was granted."""
        used = self.model.used_by(account.removeprefix("run:"))
        stored = [hold.grant for hold in used if hold.state != "pending" and hold.grant.hold_id not in left_out]
        stored = [grant for grant in stored if counts(window, grant.granted_at_ms, self.model.now_ms)]
        calls = {grant.hold_id.partition("/")[0] for grant in stored}
        return len(calls), min((grant.granted_at_ms for grant in stored), default=0)
