"""What became of an update that gave no result, and how long it is asked for."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, cast

import pytest
from temporalio.api.common.v1 import GrpcStatus
from temporalio.api.enums.v1 import ResourceExhaustedCause
from temporalio.api.errordetails.v1 import ResourceExhaustedFailure
from temporalio.client import (
    Client,
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError, RPCStatusCode

from paymaster.client import Ledger
from paymaster.errors import AdminRefused, LedgerNotFound
from paymaster.ledger.group_commit import Busy, PoisonedBatch
from paymaster.ledger.handle import NewRun
from paymaster.ledger.updates import Fate, Unanswered, fate_of, update_until_answered
from paymaster.messages import AnswerBatch, CapState, ConfigState, DeskConfig, RaiseCap, Void
from paymaster.messages.temporal_names import RELOAD
from paymaster.security.payloads import as_raw

RAISE = RaiseCap(account="budget:acme", window="day", by="5")
STATE = CapState(account="budget:acme", window="day", cap_nanos=5)


def failed(kind: str | None, message: str = "no") -> WorkflowUpdateFailedError:
    return WorkflowUpdateFailedError(ApplicationError(message, type=kind))


def rpc(status: RPCStatusCode) -> RPCError:
    return RPCError(status.name, status, b"")


def exhausted(cause: ResourceExhaustedCause.ValueType) -> RPCError:
    """What Temporal has too much of."""
    detail = GrpcStatus(code=RPCStatusCode.RESOURCE_EXHAUSTED.value)
    detail.details.add().Pack(ResourceExhaustedFailure(cause=cause))
    return RPCError("RESOURCE_EXHAUSTED", RPCStatusCode.RESOURCE_EXHAUSTED, detail.SerializeToString())


class Handle:
    """A workflow handle that gives what it is told to give, one at a time, and then the same for ever."""

    def __init__(self, *outcomes: object) -> None:
        self.outcomes = list(outcomes)
        self.ids: list[str | None] = []
        self.limits: list[timedelta] = []

    async def execute_update(self, name: str, *, id: str | None, rpc_timeout: timedelta, **more: Any) -> object:
        self.ids.append(id)
        self.limits.append(rpc_timeout)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return as_raw(outcome() if callable(outcome) else outcome)


def ledger_of(handle: Handle) -> Ledger:
    return Ledger(cast(Client, _ClientOf(handle)))


class _ClientOf:
    namespace = "default"

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def get_workflow_handle(self, workflow_id: str) -> Handle:
        return self._handle


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paymaster.ledger.updates.PAUSE_S", 0.001)
    monkeypatch.setattr("paymaster.ledger.updates.PAUSE_MAX_S", 0.002)


PASSING = [
    failed("UnprocessedUpdate"),
    failed("AcceptedUpdateCompletedWorkflow"),
    failed("UnhandledCommand"),
    WorkflowUpdateFailedError(CancelledError("the worker went away")),
    WorkflowUpdateRPCTimeoutOrCancelledError(),
    *(
        rpc(status)
        for status in (
            RPCStatusCode.UNAVAILABLE,
            RPCStatusCode.ABORTED,
            RPCStatusCode.DEADLINE_EXCEEDED,
            RPCStatusCode.CANCELLED,
            RPCStatusCode.RESOURCE_EXHAUSTED,
            RPCStatusCode.FAILED_PRECONDITION,  # "unexpected workflow task failure", and 2,000 updates in one run
            RPCStatusCode.INTERNAL,
            RPCStatusCode.UNKNOWN,
        )
    ),
]


def test_only_an_unprocessed_update_certainly_did_nothing() -> None:
    fates = {error: fate_of(error) for error in PASSING}
    busy = next(error for error in PASSING if isinstance(error, RPCError) and "EXHAUSTED" in error.message)
    assert fates.pop(PASSING[0]) is Fate.NOT_PROCESSED
    assert fates.pop(busy) is Fate.BUSY
    assert set(fates.values()) == {Fate.UNKNOWN}


@pytest.mark.parametrize(
    ("error", "fate"),
    [
        (failed("Refused"), Fate.REFUSED),
        (failed(None), Fate.REFUSED),
        (failed("ValueError"), Fate.REFUSED),
        (rpc(RPCStatusCode.NOT_FOUND), Fate.NO_LEDGER),
        (rpc(RPCStatusCode.PERMISSION_DENIED), Fate.NOT_TAKEN),
        (rpc(RPCStatusCode.INVALID_ARGUMENT), Fate.NOT_TAKEN),
        (rpc(RPCStatusCode.UNAUTHENTICATED), Fate.NOT_TAKEN),
    ],
)
async def test_an_answer_that_stays_the_same_is_asked_for_once(error: Exception, fate: Fate) -> None:
    handle = Handle(error)
    assert fate_of(error) is fate
    with pytest.raises(AdminRefused if fate is Fate.REFUSED else LedgerNotFound) as raised:
        await ledger_of(handle).raise_cap(RAISE)
    assert len(handle.ids) == 1
    assert getattr(raised.value, "command_id", None) is None


@pytest.mark.parametrize("error", PASSING, ids=lambda error: str(fate_of(error)))
async def test_a_command_is_given_again_with_the_same_id(error: Exception) -> None:
    handle = Handle(error, error, STATE)
    assert await ledger_of(handle).raise_cap(RAISE) == STATE
    assert len(handle.ids) == 3
    assert len(set(handle.ids)) == 1


async def configures(ledger: Ledger) -> object:
    return await ledger.configure(DeskConfig(digest=""))


async def reloads(ledger: Ledger) -> object:
    return await ledger.reload()


async def settles(ledger: Ledger) -> object:
    return await ledger.send([Void(hold_id="a")])


@pytest.mark.parametrize(
    ("give", "answer"),
    [
        (configures, ConfigState(digest="d", applied=True, detail="")),
        (reloads, None),
        (settles, AnswerBatch(answers=())),
    ],
)
async def test_every_command_is_given_again(give: Callable[[Ledger], Awaitable[object]], answer: object) -> None:
    handle = Handle(failed("UnprocessedUpdate"), rpc(RPCStatusCode.UNAVAILABLE), answer)
    await give(ledger_of(handle))
    assert len(handle.ids) == 3
    assert len(set(handle.ids)) == 1


@pytest.mark.parametrize(
    ("outcomes", "nobody_knows"),
    [
        ([failed("UnprocessedUpdate")], False),
        ([rpc(RPCStatusCode.UNAVAILABLE)], True),
        ([rpc(RPCStatusCode.UNAVAILABLE), failed("UnprocessedUpdate")], True),
    ],
)
async def test_who_gets_no_answer_learns_whether_it_may_be_applied(
    monkeypatch: pytest.MonkeyPatch, outcomes: list[Exception], nobody_knows: bool
) -> None:
    monkeypatch.setattr("paymaster.ledger.handle.ANSWER_WITHIN", timedelta(seconds=0.5))
    handle = Handle(*outcomes)
    with pytest.raises(LedgerNotFound, match="no ledger 'default' answered in the Temporal namespace") as raised:
        await ledger_of(handle).raise_cap(RAISE, "my-id")
    assert raised.value.command_id == ("my-id" if nobody_knows else None)
    [same] = set(handle.ids)
    assert same is not None
    assert same.startswith("my-id#")
    assert len(handle.ids) > 2
    assert handle.limits[-1] < handle.limits[0] <= timedelta(seconds=0.5), "the tries share the time"


@pytest.mark.parametrize("error", PASSING, ids=lambda error: str(fate_of(error)))
async def test_a_batch_that_nobody_answered_is_nobodys_fault(error: Exception) -> None:
    """It goes back to group commit, which sends it again with what has come meanwhile."""
    with pytest.raises(Busy if fate_of(error) is Fate.BUSY else type(error)):
        await ledger_of(Handle(error)).apply([Void(hold_id="a")], DeskConfig(digest=""))


async def test_a_batch_that_came_while_a_new_run_began_is_told_apart() -> None:
    """It is sent again sooner than one for which there was no place."""
    closing = exhausted(ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_BUSY_WORKFLOW)
    full = exhausted(ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_CONCURRENT_LIMIT)
    assert (fate_of(closing), fate_of(full)) == (Fate.NEW_RUN, Fate.BUSY)
    assert Fate.NEW_RUN.asks_again
    for error, is_new_run in ((closing, True), (full, False)):
        with pytest.raises(Busy) as raised:
            await ledger_of(Handle(error)).apply([Void(hold_id="a")], DeskConfig(digest=""))
        assert isinstance(raised.value, NewRun) is is_new_run


async def test_a_batch_that_is_refused_is_poisoned() -> None:
    with pytest.raises(PoisonedBatch, match="cannot be read"):
        await ledger_of(Handle(failed(None, "cannot be read"))).apply([Void(hold_id="a")], DeskConfig(digest=""))


async def test_a_task_that_is_cancelled_asks_no_more() -> None:
    """The SDK raises its own error then, which is not to be taken for an update that nobody answered."""

    class Waits(Handle):
        async def execute_update(self, name: str, **more: Any) -> object:
            self.ids.append(None)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                raise WorkflowUpdateRPCTimeoutOrCancelledError from error

    handle = Waits()
    asking = asyncio.create_task(
        update_until_answered(
            cast(WorkflowHandle[Any, Any], handle), RELOAD, None, within=timedelta(seconds=60), update_id="a"
        )
    )
    while not handle.ids:
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert len(handle.ids) == 1


def test_the_servers_words_are_passed_on() -> None:
    assert str(Unanswered(failed("UnprocessedUpdate", "it wasn't processed"), nothing_applied=True)).endswith(
        "it wasn't processed"
    )


async def test_another_command_under_an_id_is_another_update() -> None:
    """Temporal would answer it what it answered the first one; the ledger, which knows both, refuses it."""
    ids: list[str | None] = []
    for change in (RAISE, RAISE, RAISE.model_copy(update={"by": "7"})):
        handle = Handle(STATE)
        await ledger_of(handle).raise_cap(change, "my-id")
        ids += handle.ids
    assert ids[0] == ids[1] != ids[2]
