"""The Temporal server's clock is a year ahead and comes back: the real ledger follows it, with a new run."""

import pytest
from paymaster_process import new_namespace, until
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

from paymaster.client import Ledger
from paymaster.devstack import EmbeddedStack
from paymaster.ledger.versions import worker_identity
from paymaster.messages import (
    ACTIVITIES_TASK_QUEUE,
    LEDGER_TASK_QUEUE,
    AccountConfig,
    Alert,
    Alerts,
    CallMessages,
    CallRef,
    Candidate,
    Delivery,
    DeskConfig,
    Granted,
    LoadedSpend,
    LoadSpend,
    Notices,
    ParkedAnswer,
    Reserve,
    ServiceConfig,
    TakeClock,
)
from paymaster.plugin import PaymasterPlugin
from paymaster.settings import Settings
from paymaster.values.money import Price
from workflows import budget
from workflows.budget import BudgetWorkflow

pytestmark = pytest.mark.timeout(60)
YEAR_MS = 365 * 86_400_000
CONFIG = DeskConfig(
    digest="one", budgets={"acme": AccountConfig(caps_nanos={"total": 2_000})}, services={"s": ServiceConfig()}
)


class ServerClock:
    """What a workflow sees of a server's clock that is ahead: within a run it never goes back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_ms = 0
        self._latest: dict[str, int] = {}
        self._shown: dict[tuple[str, int], int] = {}
        """By run and real time: whoever replays the run is shown the same."""
        self._real = budget._now_ms  # pyright: ignore[reportPrivateUsage]
        monkeypatch.setattr(budget, "_now_ms", self._now_ms)

    def _now_ms(self) -> int:
        run_id, real_ms = workflow.info().run_id, self._real()
        if (run_id, real_ms) not in self._shown:
            self._latest[run_id] = max(self._latest.get(run_id, 0), real_ms + self.ahead_ms)
            self._shown[run_id, real_ms] = self._latest[run_id]
        return self._shown[run_id, real_ms]


class Others:
    """The ledger's activities: nothing was spent before, and everything arrives."""

    def __init__(self) -> None:
        self._alerts: dict[int, str] = {}
        self.answered: list[ParkedAnswer] = []

    @property
    def alerts(self) -> list[str]:
        """Once each: one may come twice, as a row would."""
        return list(self._alerts.values())

    @activity.defn
    async def load_spend(self, wanted: LoadSpend) -> LoadedSpend:
        return LoadedSpend(number=wanted.number, posted_nanos={})

    @activity.defn
    async def recall_parked(self) -> int:
        return 0

    @activity.defn
    async def answer_calls(self, batch: CallMessages) -> Delivery:
        self.answered += [message for message in batch.messages if isinstance(message, ParkedAnswer)]
        return Delivery(delivered=tuple(message.sequence for message in batch.messages))

    @activity.defn
    async def store_notices(self, batch: Notices) -> Delivery:
        self._alerts |= {notice.sequence: notice.what for notice in batch.notices if isinstance(notice, Alert)}
        return Delivery(delivered=tuple(notice.sequence for notice in batch.notices))

    @activity.defn
    async def send_alerts(self, batch: Alerts) -> Delivery:
        return Delivery(delivered=tuple(notice.sequence for notice in batch.alerts))


@pytest.fixture
async def client(stack: EmbeddedStack) -> Client:
    namespace = await new_namespace(stack.temporal_address)
    return await Client.connect(stack.temporal_address, namespace=namespace, plugins=[PaymasterPlugin(Settings())])


def request(hold_id: str, asked_at_ms: int) -> Reserve:
    price = Price(input_nanos=0, output_nanos=1_000_000_000, source="test")
    return Reserve(
        hold_id=hold_id,
        call=CallRef(workflow_id=f"call/{hold_id}", run_id=hold_id),
        budget="acme",
        candidates=(Candidate(service="s", model="m", max_output_tokens=2, price=price),),
        input_bytes=0,
        on_exhausted="wait",
        deadline_at_ms=asked_at_ms + 3_600_000,
        asked_at_ms=asked_at_ms,
    )


@pytest.mark.parametrize("by_admin", [True, False])
async def test_the_ledger_follows_a_clock_that_comes_back(
    client: Client, monkeypatch: pytest.MonkeyPatch, by_admin: bool
) -> None:
    """A call that waits is not denied by the jump; the time goes back by an admin, or because calls are older."""
    clock, others, ledger = ServerClock(monkeypatch), Others(), Ledger(client)
    monkeypatch.setattr("paymaster.admission.clock.BEHIND_FOR_MS", 300)
    monkeypatch.setattr("paymaster.admission.desk.BEHIND_FOR_MS", 300)
    activities = [
        others.load_spend,
        others.recall_parked,
        others.answer_calls,
        others.store_notices,
        others.send_alerts,
    ]
    async with (
        Worker(client, task_queue=LEDGER_TASK_QUEUE, workflows=[BudgetWorkflow], identity=worker_identity()),
        Worker(client, task_queue=ACTIVITIES_TASK_QUEUE, activities=activities, identity=worker_identity()),
    ):
        await ledger.start(CONFIG)

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
