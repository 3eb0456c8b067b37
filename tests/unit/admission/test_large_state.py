"""At the bounds of docs/limits.md, all at once, no activation of the ledger takes longer than 500 ms.

10,000 budgets with six windows each, 10,000 parked calls, 100,000 unconfirmed holds. Processor time.
"""

import random
import time
from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple
from uuid import UUID

import pytest
from desk_kit import DAY, MINUTE, USD, Site, at, candidate, capped, config

from paymaster.admission.desk import Desk
from paymaster.admission.holds import Hold
from paymaster.admission.pressure import estimated_bytes
from paymaster.messages import (
    AccountConfig,
    CallRef,
    Command,
    Grant,
    Granted,
    LoadedSpend,
    Parked,
    RaiseCap,
    Reserve,
    Settle,
)
from paymaster.messages.bounds import check_command
from paymaster.values.collection import keep_what_is_there
from paymaster.values.limits import LOADED_AT_ONCE, STATE_BYTES_MAX
from paymaster.values.windows import WINDOWS

BUDGETS, PARKED, UNCONFIRMED = 10_000, 10_000, 100_000
COMMANDS = 100
TEAM, TEAM_SIZE = "company-0/team-0", 110
ACTIVATION_S = 0.5

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]

Shape = Literal["everywhere", "one account"]
SHAPES: tuple[Shape, ...] = ("everywhere", "one account")


def paths() -> list[str]:
    """Budgets like an organisation's: 10 companies, each with 9 teams, each with 110 agents."""
    companies = [f"company-{number}" for number in range(10)]
    teams = [f"{company}/team-{number}" for company in companies for number in range(9)]
    agents = [f"{team}/agent-{number:03d}" for team in teams for number in range(110)]
    return (companies + teams + agents)[:BUDGETS]


class Large(Site):
    """Its calls have ids as Temporal makes them, and no two amounts are equal."""

    def __init__(self, shape: Shape) -> None:
        self._chance = chance = random.Random(4)
        agents = [path for path in paths() if path.count("/") == 2]
        self.team, others = agents[:TEAM_SIZE], agents[TEAM_SIZE:]
        super().__init__(config("large", self._budgets(shape), max_parked=PARKED + COMMANDS))
        self.running = [self._held(path) for path in self.team[:COMMANDS]]
        for path in others:
            self.settle(self._held(path), chance.randint(0, 999_999_999) / 1e9 + 10_000 * (shape == "everywhere"))
        waiting = self.team if shape == "one account" else others
        for number in range(PARKED):
            request = self.ask(waiting[number % len(waiting)])
            assert isinstance(self.desk.handle(request, self.now_ms), Parked)
        self._leave_unconfirmed(others)
        self.desk.state.outbox.notices.clear()
        self.desk.state.ended.clear()

    def _budgets(self, shape: Shape) -> dict[str, AccountConfig]:
        def caps(path: str) -> list[int]:
            return [self._chance.randint(1_000, 9_999) * (1 if path.count("/") == 2 else 100_000) for _ in WINDOWS]

        budgets = {path: capped(**dict(zip(WINDOWS, caps(path), strict=True))) for path in paths()}
        if shape == "one account":  # what its running calls hold is all that the team may have
            budgets[TEAM] = capped(total=10 * COMMANDS)
        return budgets

    def ask(self, path: str) -> Reserve:
        """It can cost $10."""
        self.now_ms += 2
        chance, model = self._chance, "claude-haiku-5-5"
        run_id = str(UUID(int=chance.getrandbits(128)))
        first, second = (candidate(usd=usd).model_copy(update={"model": model}) for usd in (10, 11))
        return Reserve(
            hold_id=f"{run_id}/1",
            call=CallRef(workflow_id=f"call/{UUID(int=chance.getrandbits(128))}", run_id=run_id),
            budget=path,
            candidates=(first, second),
            input_bytes=chance.randint(100, 100_000),
            on_exhausted="wait",
            deadline_at_ms=self.now_ms + DAY + chance.randint(0, DAY),
            asked_at_ms=self.now_ms,
        )

    def _held(self, path: str) -> Grant:
        answer = self.desk.handle(self.ask(path), self.now_ms)
        assert isinstance(answer, Granted)
        return answer.grant

    def _leave_unconfirmed(self, paths: list[str]) -> None:
        """Nobody resolved a timeout for months."""
        account = paths[-1]
        grant = self.running[0]
        for number in range(UNCONFIRMED):
            run_id = str(UUID(int=self._chance.getrandbits(128)))
            at_ms = self.now_ms + number // 100
            held = grant.model_copy(update={"hold_id": f"{run_id}/1", "budget": account, "granted_at_ms": at_ms})
            accounts = self.desk.ledger.charged_accounts(held, "s")
            self.desk.ledger.hold(Hold(CallRef(workflow_id=f"call/{run_id}", run_id=run_id), held, accounts))
            self.desk.ledger.post(held.hold_id, 1_000, confirmed=False)
        self.now_ms += MINUTE
        self.desk.advance(self.now_ms)


class Dumped(NamedTuple):
    dump: str
    now_ms: int
    commands: tuple[Command, ...]
    """A hundred settlements, which may free what parked calls wait for, and a hundred new calls, in turn."""


@cache
def large(shape: Shape) -> Dumped:
    """Nothing but the dump is kept: the garbage collector would go through all the rest again and again."""
    site = Large(shape)
    status = site.desk.status()
    assert (len(site.desk.ledger.accounts), status.parked, status.unconfirmed) == (BUDGETS + 1, PARKED, UNCONFIRMED)
    assert status.holds == COMMANDS
    settled = [Settle(hold_id=grant.hold_id, cost_nanos=USD, epoch="this run") for grant in site.running]
    commands = [each for pair in zip(settled, map(site.ask, site.team), strict=False) for each in pair]
    assert len(commands) == 2 * COMMANDS
    dumped = Dumped(site.desk.dump(), site.now_ms, tuple(commands))
    del site
    keep_what_is_there()  # as a worker does
    return dumped


def measured(what: str, shape: Shape, act: Callable[[Desk], object]) -> None:
    """The best of three, each from the same state; on a machine that is busy with others, of a few more."""
    dumped, took_s = large(shape).dump, 60.0
    for number in range(9):
        if number >= 3 and took_s < ACTIVATION_S:
            break
        desk = Desk.load(dumped)
        began = time.process_time()
        act(desk)
        took_s = min(took_s, time.process_time() - began)
    print(f"\n{what} ({shape}): {1_000 * took_s:.0f} ms")
    assert took_s < ACTIVATION_S


@pytest.mark.parametrize("shape", SHAPES)
def test_the_dump_is_within_its_bound_and_the_estimate_near_it(shape: Shape) -> None:
    dumped = large(shape).dump
    size, estimate = len(dumped), estimated_bytes(Desk.load(dumped).state)
    print(f"\n{shape}: {size / 1024:,.0f} KiB dumped, {estimate / 1024:,.0f} KiB estimated")
    assert size < STATE_BYTES_MAX
    assert size <= estimate < 2 * size


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_written_and_read_within_an_activation(shape: Shape) -> None:
    """And is the same afterwards."""
    dumped = large(shape).dump
    measured("read", shape, lambda _: Desk.load(dumped))
    measured("written", shape, lambda desk: desk.dump())
    assert Desk.load(dumped).dump() == dumped


@pytest.mark.parametrize("shape", SHAPES)
def test_an_update_is_applied_within_an_activation(shape: Shape) -> None:
    _, now_ms, commands = large(shape)

    def apply(desk: Desk) -> None:
        for command in commands:
            check_command(command)
            desk.handle(command, now_ms)
        desk.advance(now_ms)

    measured(f"{len(commands)} commands", shape, apply)


@pytest.mark.parametrize("shape", SHAPES)
def test_operators_and_the_clock_take_one_activation_at_most(shape: Shape) -> None:
    """A page of the status, a raise that many wait for, the end of every window, and accounts that are read again."""
    now_ms = large(shape).now_ms
    raised = RaiseCap(account=f"budget:{TEAM}", window="total", by="1000000")

    def read_again(desk: Desk) -> None:
        desk.reload(now_ms)
        wanted = desk.to_load()
        assert wanted is not None
        assert len(wanted.accounts) == LOADED_AT_ONCE
        posted = {key: dict.fromkeys(WINDOWS, USD) for key in wanted.accounts}
        desk.loaded(LoadedSpend(number=wanted.number, posted_nanos=posted), now_ms)

    measured("status", shape, lambda desk: desk.status().model_dump_json())
    measured("a cap is raised", shape, lambda desk: desk.raise_cap(raised, now_ms))
    measured("a month ends", shape, lambda desk: desk.advance(at(2027, 4)))
    measured("accounts are read again", shape, read_again)
