"""The backlog's activity: what the database or the ledger refuses for good is named and told; the rest goes on."""

from collections.abc import Sequence
from typing import cast

import pytest
from records import record
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import ActivityEnvironment

from activities.catch_up import CatchUpActivities
from paymaster.ledger.group_commit import CommitUnavailable, GroupCommit, PoisonedBatch
from paymaster.messages import Answer, AttemptReport, BacklogBatch, CaughtUp, Command, Settled, UsageEntry

BATCH = BacklogBatch(records=tuple(record(n) for n in range(1, 6)), voids=("run/void",))


class Refused(Exception):
    sqlstate = "22P05"


class Site:
    """A database and a ledger that refuse some holds; `commands` and `rows` are what they took."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, rows: str = "", commands: str = "", away: bool = False
    ) -> None:
        self.rows: list[str] = []
        self.commands: list[str] = []
        self.alerts: list[str] = []
        self._refused_row, self._refused_command, self._away = rows, commands, away
        monkeypatch.setattr("activities.catch_up.insert_entries", self.insert)

    async def insert(self, engine: AsyncEngine, entries: Sequence[UsageEntry]) -> None:
        if any(entry.hold_id == self._refused_row for entry in entries):
            raise DBAPIError("INSERT", {}, Refused())
        self.rows += [entry.hold_id for entry in entries]

    async def settle(self, commands: Sequence[Command]) -> Sequence[Answer]:
        if self._away:
            raise ConnectionError("the ledger is away")
        if any(command.hold_id == self._refused_command for command in commands):
            raise PoisonedBatch("no such command")
        self.commands += [command.hold_id for command in commands]
        return [Settled(hold_id=command.hold_id) for command in commands]

    async def report(self, reports: Sequence[AttemptReport]) -> Sequence[None]:
        self.alerts += [report.alert or "" for report in reports]
        return [None] * len(reports)

    async def catch_up(self) -> CaughtUp:
        commits = GroupCommit[Command, Answer](self.settle, size_of=lambda command: 1, give_up_after_s=0.05)
        reports = GroupCommit[AttemptReport, None](self.report, size_of=lambda report: 1)
        activities = CatchUpActivities("default", cast(AsyncEngine, None), commits, reports)
        return await ActivityEnvironment().run(activities.catch_up, BATCH)


ALL = [f"run/{n}" for n in range(1, 6)]


async def test_all_of_a_batch_is_stored_and_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch)
    assert await site.catch_up() == CaughtUp()
    assert site.rows == ALL
    assert sorted(site.commands) == sorted([*ALL, "run/void"])


async def test_a_refused_row_is_named_told_and_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its money stays in the books, and the rows around it are stored."""
    site = Site(monkeypatch, rows="run/3")
    assert await site.catch_up() == CaughtUp(rejected=("run/3",))
    assert sorted(site.rows) == [hold for hold in ALL if hold != "run/3"]
    assert sorted(site.commands) == sorted([*ALL, "run/void"])
    (alert,) = site.alerts
    assert "$0.0005 of acme/content at openai are in no row: hold run/3" in alert


@pytest.mark.parametrize("refused", ["run/3", "run/void"])
async def test_a_refused_settlement_stops_no_other(monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    site = Site(monkeypatch, commands=refused)
    done = await site.catch_up()
    assert done.rejected == (("run/3",) if refused == "run/3" else ())
    assert sorted(site.commands) == sorted(hold for hold in [*ALL, "run/void"] if hold != refused)
    assert len(site.alerts) == len(done.rejected)


async def test_it_is_done_again_while_the_ledger_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, away=True)
    with pytest.raises(CommitUnavailable):
        await site.catch_up()
