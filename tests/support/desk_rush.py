"""A rush at the desk of the machine: many commands in one update, hundreds of holds against few caps."""

from collections.abc import Iterator, Sequence
from itertools import product, zip_longest
from typing import NamedTuple

from desk_aims import ODD_RULES, OTHER_CALLS, RULES_OF_APPROVERS
from desk_drawn import (
    NO_RUN,
    AskedOfRun,
    Drawn,
    Usual,
    bought,
    countable,
    drawn_by_machine,
    modes,
    one_of_the_usual,
    pools,
    sizes,
    usual_budgets,
    usual_candidates,
)
from desk_facts import HOUR, MINUTE, SECOND, UNIT, File, HeldMoney, Mode, Place
from desk_machine import DeskMachine
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from paymaster.admission.desk import Desk
from paymaster.messages import Answer, Candidate, Command, RunTerms, ServiceStatus, Settle, StatusRequest, Void


class Alike(NamedTuple):
    """Calls that ask for one thing."""

    number: int
    budgets: tuple[str, ...]
    wanted: list[Candidate]
    run: AskedOfRun
    mode: Mode = "wait"
    priority: int = 0
    wait_ms: int = 2 * HOUR
    input_bytes: int = 10


class Ends(NamedTuple):
    """How holds end, the oldest or the latest first."""

    number: int
    oldest_first: bool
    quarters: list[int]
    """Of their bounds, which they cost in turn."""
    voided: int
    """Of so many one is given back. 0: none."""
    unconfirmed: int
    """Likewise, of so many nobody knows what it cost."""


class Wave(NamedTuple):
    """One update with commands of both kinds, some time after the one before."""

    jump: int
    ends: Ends
    kinds_again: int
    """So many kinds of calls ask again."""
    in_turn: bool
    """Each command of one kind follows one of the other. False: all holds end before anybody asks."""
    some_twice: bool
    """Some of the commands come twice."""


class After(NamedTuple):
    """The desk after one command of an update."""

    answer: Answer
    sequence: int
    """Of its outbox."""
    accounts: frozenset[str]
    gates: dict[str, ServiceStatus]


numbers = st.sampled_from([1, 5, 20, 60])
alike = st.builds(
    Alike,
    number=numbers,
    budgets=one_of_the_usual("budgets"),
    wanted=one_of_the_usual("routes"),
    run=one_of_the_usual("runs"),
    mode=modes,
    priority=st.sampled_from([0, 0, 0, 1, -1]),
    wait_ms=st.sampled_from([90 * SECOND, 2 * HOUR]),
    input_bytes=sizes,
)
ends = st.builds(
    Ends,
    number=numbers,
    oldest_first=st.booleans(),
    quarters=st.lists(st.sampled_from([0, 1, 2, 3, 4, 4, 5, 8]), min_size=1, max_size=3),
    voided=st.sampled_from([0, 0, 2, 3]),
    unconfirmed=st.sampled_from([0, 0, 0, 4]),
)

wave = st.builds(
    Wave,
    jump=st.sampled_from([0, SECOND, 61 * SECOND, 20 * MINUTE]),
    ends=ends,
    kinds_again=st.sampled_from([0, 1, 2]),
    in_turn=st.booleans(),
    some_twice=st.sampled_from([False, False, True]),
)


class Rush(DeskMachine):
    """Nothing in its configurations holds runs as runaways: who did it within an update is not seen."""

    @initialize(
        file=drawn_by_machine("files"),
        earlier=drawn_by_machine("earlier"),
        usual=drawn_by_machine("usuals"),
        waves=st.lists(wave, min_size=1, max_size=3),
    )
    def begin(
        self,
        file: File,
        earlier: dict[Place, int] | None = None,
        usual: Usual | None = None,
        waves: Sequence[Wave] = (),
    ) -> None:
        """With a rush of all that is usual."""
        super().begin(file, earlier, usual)
        self.books_agree_with_the_model()
        if usual is not None:
            kinds = product(usual.budgets, usual.routes, usual.runs)
            self.calls_rush_in([Alike(20, *kind) for kind in kinds], waves)

    def let_time_pass(self) -> None:
        """In an activation of its own: a desk looks at so many calls in one, and a cut is between two."""
        self.clock_ms += 1
        super().let_time_pass()

    @rule(calls=st.lists(alike, min_size=1, max_size=2), waves=st.lists(wave, max_size=3))
    def calls_rush_in(self, calls: list[Alike], waves: list[Wave]) -> None:
        """Many ask, and then, wave by wave, many holds end and as many ask again."""
        self.update(list(self._asked(calls)))
        for wave in waves:
            self.advance_to(self.clock_ms + wave.jump)
            asked = list(self._asked(calls[: wave.kinds_again]))
            ended = list(self._ended(wave.ends, self.in_state("pending")))
            pairs = zip_longest(ended, asked)
            commands = [each for pair in pairs for each in pair if each] if wave.in_turn else ended + asked
            self.update([*commands, *commands[: len(commands) // 4 if wave.some_twice else 0]])

    @precondition(lambda self: self.in_state("pending"))
    @rule(ends=ends)
    def many_holds_end(self, ends: Ends) -> None:
        self.update(list(self._ended(ends, self.in_state("pending"))))

    def _asked(self, calls: Sequence[Alike]) -> Iterator[Command]:
        for number in range(max((each.number for each in calls), default=0)):
            for c in calls:
                if number < c.number:
                    yield self.request(c.budgets, c.wanted, c.mode, c.priority, c.wait_ms, c.input_bytes, c.run)

    def _ended(self, ends: Ends, pending: list[HeldMoney]) -> Iterator[Command]:
        holds = pending[: ends.number] if ends.oldest_first else pending[: -ends.number - 1 : -1]
        for number, hold in enumerate(holds):
            hold_id, quarters = hold.grant.hold_id, ends.quarters[number % len(ends.quarters)]
            if ends.voided and number % ends.voided == 1:
                yield Void(hold_id=hold_id)
            else:
                confirmed = not ends.unconfirmed or number % ends.unconfirmed != 0
                cost_nanos = hold.grant.bound_nanos * quarters // 4
                yield Settle(hold_id=hold_id, cost_nanos=cost_nanos, confirmed=confirmed, epoch="this run")

    def update(self, commands: list[Command]) -> None:
        """One update of the ledger."""
        self.let_time_pass()
        self.sent += commands
        again: list[Command] = []
        for command, after in zip(commands, self.on_both(lambda desk: self._handled(desk, commands)), strict=True):
            self.take_in_accounts(after.accounts)
            self.take_in_outbox(after.sequence)
            self.model.gates = after.gates
            counted = self.judge(command, after.answer)
            again += [] if counted is None else [counted]
            self.check_gone()
        self.let_time_pass()
        if again:
            self.update(again)

    def _handled(self, desk: Desk, commands: Sequence[Command]) -> list[After]:
        return [self._after(desk, desk.handle(command, self.clock_ms)) for command in commands]

    def _after(self, desk: Desk, answer: Answer) -> After:
        services = desk.status(StatusRequest(limit=1)).services
        gates = {service.service: service for service in services}
        return After(answer, desk.state.outbox.sequence, frozenset(desk.ledger.accounts), gates)


deep = st.sampled_from([20 * UNIT, 50 * UNIT - 1, 100 * UNIT])
capped: list[Place] = [("budget:acme", "day"), ("budget:acme", "total"), ("budget:acme/team", "24h")]
few_caps = st.dictionaries(st.sampled_from(capped), deep, min_size=1, max_size=2)
of_runs = st.sampled_from(
    [RunTerms(usd_nanos=20 * UNIT), RunTerms(calls=30), RunTerms(calls=10, renews="hour"), RunTerms(calls=40)]
)
at_any_time = usual_candidates.map(lambda candidate: candidate.model_copy(update={"short_below": None}))
rush_routes = st.one_of(
    st.lists(at_any_time, min_size=1, max_size=2),
    st.lists(st.one_of(at_any_time, usual_candidates, countable), min_size=1, max_size=2),
    pools,
    st.just([bought(UNIT)]),
)
rush_runs: st.SearchStrategy[AskedOfRun] = st.sampled_from(
    [NO_RUN, NO_RUN, ("r1", ()), ("r1/a", ()), ("r1", (RunTerms(usd_nanos=20 * UNIT),))]
)
RUSH = Drawn(
    st.builds(
        File,
        caps_nanos=few_caps,
        concurrent_max=st.dictionaries(st.sampled_from(["service:s", "budget:acme"]), st.sampled_from([5, 20, 50])),
        per_run=st.dictionaries(st.just("budget:acme"), of_runs),
        max_parked=st.sampled_from([10, 40]),
    ),
    st.builds(
        Usual,
        budgets=st.lists(usual_budgets, min_size=1, max_size=2),
        routes=st.lists(rush_routes, min_size=1, max_size=2),
        runs=st.lists(rush_runs, min_size=1, max_size=2),
        reads_at_once=st.just(True),
    ),
    left_out=(
        *ODD_RULES,
        *RULES_OF_APPROVERS,
        *OTHER_CALLS,
        "new_call",
        "settle",
        "void",
        "unset_cap",
        "watch_budgets",
        "resume_run",
        "almost_an_hour_passes",
        "desk_wakes_by_itself",
    ),
)
