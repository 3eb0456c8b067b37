"""Who adds to the usage backlog waits while its run has too much history: the server would end it with all it keeps."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from records import record
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from paymaster.ledger.backlog_sender import LOOKS_AFTER_SIGNALS, Backlog
from paymaster.values.limits import BACKLOG_EVENTS_MAX, BACKLOG_HISTORY_BYTES_MAX


class Temporal:
    """A client of a Temporal in which the backlog's run has one history after the other."""

    def __init__(self, *histories: tuple[int, int] | None) -> None:
        """Events and bytes; None: there is no run. The last one stays."""
        self._histories = list(histories)
        self.looks = 0
        self.signals: list[Any] = []

    def get_workflow_handle(self, workflow_id: str) -> "Temporal":
        return self

    async def describe(self) -> object:
        self.looks += 1
        history = self._histories.pop(0) if len(self._histories) > 1 else self._histories[0]
        if history is None:
            raise RPCError("none", RPCStatusCode.NOT_FOUND, b"")
        raw = SimpleNamespace(history_size_bytes=history[1])
        return SimpleNamespace(close_time=None, history_length=history[0], raw_info=raw)

    async def start_workflow(self, *_: object, start_signal_args: list[Any], **__: object) -> None:
        self.signals += start_signal_args

    def backlog(self) -> Backlog:
        return Backlog(cast(Client, self), "default")


@pytest.mark.parametrize(
    "full", [(BACKLOG_EVENTS_MAX + 1, 1), (1, BACKLOG_HISTORY_BYTES_MAX + 1)], ids=["events", "bytes"]
)
async def test_a_sender_waits_until_the_next_run(full: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    temporal = Temporal(full, full, (3, 1_000))
    await temporal.backlog().add_record(record(1))
    assert (temporal.looks, len(temporal.signals)) == (3, 1)
    assert [entry.levelname for entry in caplog.records] == ["ERROR"]
    assert "usage-backlog/default" in caplog.text


async def test_the_first_record_needs_no_run() -> None:
    temporal = Temporal(None)
    await temporal.backlog().add_void("run/1")
    assert len(temporal.signals) == 1


@pytest.mark.parametrize(("large", "looks_at_most"), [(False, 2), (True, 7)])
async def test_a_sender_looks_now_and_then(large: bool, looks_at_most: int) -> None:
    """After 100 signals, or half a MiB of them."""
    temporal = Temporal((3, 1_000))
    backlog = temporal.backlog()
    for number in range(2 * LOOKS_AFTER_SIGNALS):
        await backlog.add_record(record(number, {"a": "x" * 15_000} if large else None))
    assert 2 <= temporal.looks <= looks_at_most
