"""The Temporal server's clock is a year ahead and comes back: the real ledger follows it, with a new run."""

import pytest
from ledger_alone import LedgerActivities, capped, client_in_new_namespace, request, running
from paymaster_process import until
from temporalio import workflow

from paymaster.client import Ledger
from paymaster.devstack import EmbeddedStack
from paymaster.messages import (
    Alert,
    CallMessages,
    Granted,
    Notices,
    ParkedAnswer,
    TakeClock,
)

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("heap_of_a_worker")]
YEAR_MS = 365 * 86_400_000


class ServerClock:
    """What a workflow sees of a server's clock that is ahead: within a run it never goes back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_ms = 0
        self._latest: dict[str, int] = {}
        self._shown: dict[tuple[str, int], int] = {}
        """By run and real time: whoever replays the run is shown the same."""
        self._real = workflow.time_ns
        monkeypatch.setattr(workflow, "time_ns", self._time_ns)

    def _time_ns(self) -> int:
        run_id, real_ms = workflow.info().run_id, self._real() // 1_000_000
        if (run_id, real_ms) not in self._shown:
            self._latest[run_id] = max(self._latest.get(run_id, 0), real_ms + self.ahead_ms)
            self._shown[run_id, real_ms] = self._latest[run_id]
        return self._shown[run_id, real_ms] * 1_000_000


class Others(LedgerActivities):
    """They remember alerts, and what calls were answered."""

    def __init__(self) -> None:
        self._alerts: dict[int, str] = {}
        self.answered: list[ParkedAnswer] = []

    @property
    def alerts(self) -> list[str]:
        """Once each: one may come twice, as a row would."""
        return list(self._alerts.values())

    async def does(self, name: str, batch: object) -> None:
        if isinstance(batch, CallMessages):
            self.answered += [message for message in batch.messages if isinstance(message, ParkedAnswer)]
        if isinstance(batch, Notices):
            self._alerts |= {notice.sequence: notice.what for notice in batch.notices if isinstance(notice, Alert)}


@pytest.mark.parametrize("by_admin", [True, False])
async def test_the_ledger_follows_a_clock_that_comes_back(
    stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch, by_admin: bool
) -> None:
    """A call that waits is not denied by the jump; the time goes back by an admin, or because calls are older."""
    client = await client_in_new_namespace(stack.temporal_address)
    clock, others, ledger = ServerClock(monkeypatch), Others(), Ledger(client)
    monkeypatch.setattr("paymaster.admission.clock.BEHIND_FOR_MS", 300)
    monkeypatch.setattr("paymaster.admission.desk.BEHIND_FOR_MS", 300)
    async with running(client, others):
        await ledger.start(capped(2_000))

        async def is_loaded() -> bool:
            return not any(account.loading for account in (await ledger.status()).accounts)

        await until(is_loaded, "the ledger knows what was spent")
        true_ms = (await ledger.status()).now_ms
        granted, parked = await ledger.send([request("a/1", true_ms), request("b/1", true_ms)])
        assert isinstance(granted, Granted)
        assert parked.kind == "parked"

        clock.ahead_ms = YEAR_MS
        assert (await ledger.send([request("c/1", true_ms + YEAR_MS)]))[0].kind == "parked"
        assert others.answered == []
        await until(lambda: others.alerts.count("clock_jumped") == 1, "an alert says so")

        clock.ahead_ms = 0
        if by_admin:
            told = await ledger.take_clock(TakeClock(reason="a test"))
            assert told.now_ms > true_ms + YEAR_MS // 2
        else:
            await ledger.send([request(f"d{number}/1", true_ms) for number in range(8)])

        async def is_back() -> bool:
            return (await ledger.status()).now_ms < true_ms + YEAR_MS // 2

        await until(is_back, "the ledger's time goes back")
        await until(lambda: others.alerts.count("clock_jumped") == 2, "an alert says so")
        await until(is_loaded, "the ledger has read again what was spent")
        assert others.answered == [], "nobody was denied for it"
        status = await ledger.status()
        assert status.parked == (2 if by_admin else 10)
        assert status.accounts[0].windows[-1].pending_nanos == 2_000
