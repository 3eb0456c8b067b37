"""A call id that was paid for is used when Temporal has forgotten its call, and only then."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities import used_call_ids
from activities.used_call_ids import UsedCallIds
from paymaster.messages import CallRef
from paymaster.storage.paid_calls import PaidCall

PAID = CallRef(workflow_id="call/one", run_id="paid")
NEW = CallRef(workflow_id="call/one", run_id="new")


class Temporal:
    """Knows some runs, or answers with another status about those that it does not."""

    def __init__(self, *known: str, otherwise: RPCStatusCode = RPCStatusCode.NOT_FOUND) -> None:
        self.known, self.otherwise = known, otherwise
        self.asked: list[str] = []

    def get_workflow_handle(self, workflow_id: str, *, run_id: str) -> "Temporal":
        self.asked.append(run_id)
        return self

    async def describe(self) -> None:
        if self.asked[-1] not in self.known:
            raise RPCError("", self.otherwise, b"")


class Rows:
    """Stands for the database: the runs that were paid for, by the ids of their calls' workflows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, paid: dict[str, tuple[CallRef, ...] | PaidCall]) -> None:
        self.groups: list[list[str]] = []
        self.is_away = False

        async def paid_calls(engine: object, ledger: str, workflow_ids: Sequence[str]) -> list[PaidCall]:
            self.groups.append(list(workflow_ids))
            await asyncio.sleep(0)
            if self.is_away:
                raise ConnectionRefusedError("no database")
            found = [paid.get(each, ()) for each in workflow_ids]
            return [each if isinstance(each, PaidCall) else PaidCall(each) for each in found]

        monkeypatch.setattr(used_call_ids, "paid_calls", paid_calls)


def used_in(temporal: Temporal, engine: Any = None) -> UsedCallIds:
    return UsedCallIds(cast(Client, temporal), cast(AsyncEngine, engine), "default")


@pytest.mark.parametrize("status", [RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT])
async def test_a_paid_call_that_is_forgotten_used_the_id(
    monkeypatch: pytest.MonkeyPatch, status: RPCStatusCode
) -> None:
    """Also for whoever asks for a later generation."""
    Rows(monkeypatch, {"call/one": (PAID,)})
    used = used_in(Temporal(otherwise=status))
    assert await used.was_used(NEW)
    assert await used.was_used(CallRef(workflow_id="call/one~g2", run_id="new"))
    assert not await used.was_used(CallRef(workflow_id="call/two", run_id="new"))


async def test_what_has_a_history_is_the_same_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run itself, of which nobody asks, and those that a reset or an earlier generation left."""
    Rows(monkeypatch, {"call/one": (NEW, PAID)})
    temporal = Temporal("paid")
    assert not await used_in(temporal).was_used(NEW)
    assert temporal.asked == ["paid"]


async def test_a_later_generation_used_the_id_whatever_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one is begun anew only when it has no history any more."""
    Rows(monkeypatch, {"call/one": (CallRef(workflow_id="call/one~g3", run_id="paid"),)})
    for generation, is_used in {"": True, "~g2": True, "~g3": False, "~g4": False}.items():
        temporal = Temporal("paid")
        asks = CallRef(workflow_id=f"call/one{generation}", run_id="new")
        assert await used_in(temporal).was_used(asks) is is_used
        assert bool(temporal.asked) is not is_used


async def test_a_call_whose_rows_are_pruned_used_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    Rows(monkeypatch, {"call/one": PaidCall(is_pruned=True)})
    temporal = Temporal()
    assert await used_in(temporal).was_used(NEW)
    assert not temporal.asked


async def test_a_temporal_that_does_not_tell_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    Rows(monkeypatch, {"call/one": (PAID,)})
    with pytest.raises(RPCError):
        await used_in(Temporal(otherwise=RPCStatusCode.UNAVAILABLE)).was_used(NEW)


async def test_calls_at_once_are_looked_up_together(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(monkeypatch, {"call/one": (PAID,), "call/9": (PAID,)})
    used = used_in(Temporal())
    calls = [CallRef(workflow_id=f"call/{number}", run_id="new") for number in range(20)]
    assert await asyncio.gather(*map(used.was_used, calls)) == [number == 9 for number in range(20)]
    assert len(rows.groups) == 1


async def test_without_a_database_calls_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of one outage the log tells once, however often it is looked; afterwards ids are found again."""
    rows = Rows(monkeypatch, {"call/one": (PAID,)})
    now = 1_000.0
    monkeypatch.setattr(used_call_ids.time, "monotonic", lambda: now)
    used = used_in(Temporal())
    for _ in range(2):
        rows.is_away, before = True, len(rows.groups)
        for _ in range(3):
            assert not await used.was_used(NEW)
            assert not await used.was_used(NEW), "nobody asks again at once"
            now += used_call_ids.LOOK_AGAIN_AFTER_S + 1
        assert len(rows.groups) - before == 3
        rows.is_away = False
        assert await used.was_used(NEW)
    told = [record for record in caplog.records if "the database does not answer" in record.message]
    assert len(told) == 2


async def test_a_database_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """No longer than a database may take to answer."""
    monkeypatch.setattr(used_call_ids, "DATABASE_ANSWERS_WITHIN_S", 0.1)

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        engine = create_async_engine(f"postgresql+asyncpg://nobody@127.0.0.1:{port}/nothing")
        async with asyncio.timeout(2):
            assert not await used_in(Temporal(), engine).was_used(NEW)
        await engine.dispose()
