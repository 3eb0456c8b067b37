"""A run of the ledger ends when Temporal wants it to, also while one of its activities hangs."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from weakref import WeakSet

import pytest
from ledger_alone import LedgerActivities, capped, client_in_new_namespace, request, running
from paymaster_process import until

from paymaster.admission import books
from paymaster.client import Ledger
from paymaster.devstack import EmbeddedStack
from paymaster.messages import DeskStatus, RaiseCap, budget_workflow_id
from paymaster.values.collection import no_collection

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("heap_of_a_worker")]


@pytest.fixture(scope="module")
async def forgetful_temporal() -> AsyncIterator[str]:
    """The address of a server that suggests continue-as-new after every 30 events."""
    limits = {"limit.historyCount.suggestContinueAsNew": 30}
    async with EmbeddedStack(postgres=False, model=False, headless=True, dynamic_config=limits) as stack:
        yield stack.temporal_address


class Hanging(LedgerActivities):
    """One of them hangs the first time."""

    def __init__(self, hangs: str) -> None:
        self._hangs = hangs
        self.begun, self.done = Counter[str](), Counter[str]()
        self.goes_on = asyncio.Event()

    async def does(self, name: str, batch: object) -> None:
        self.begun[name] += 1
        if name == self._hangs and self.begun[name] == 1:
            await self.goes_on.wait()
        self.done[name] += 1


@pytest.mark.parametrize(
    "hangs", ["load_spend", "recall_parked", "answer_calls", "store_notices", "store_status", "send_alerts"]
)
async def test_a_run_ends_while_an_activity_hangs(forgetful_temporal: str, hangs: str) -> None:
    """Updates keep coming. The next run begins with all that was to be done, and has it done."""
    client = await client_in_new_namespace(forgetful_temporal)
    ledger, others = Ledger(client), Hanging(hangs)
    handle = client.get_workflow_handle(budget_workflow_id("default"))
    async with running(client, others):
        await ledger.start(capped(3_000))
        first = (await handle.describe()).run_id
        now_ms = (await ledger.status()).now_ms
        if hangs != "load_spend":

            async def is_open() -> bool:  # the activity's end is not yet the ledger's
                return not any(account.loading for account in (await ledger.status()).accounts)

            await until(is_open, "the budgets are open")
        waiting = request("waiting/1", now_ms)
        if hangs == "answer_calls":
            waiting = waiting.model_copy(update={"deadline_at_ms": now_ms + 2_000})
        answers = await ledger.send([request("first/1", now_ms), waiting])
        assert [answer.kind for answer in answers] == ["parked" if hangs == "load_spend" else "granted", "parked"]
        await ledger.raise_cap(RaiseCap(account="budget:acme", window="total", by="0.000000001", reason="a notice"))
        await handle.signal("no_such_signal")  # an alert
        await until(lambda: others.begun[hangs] >= 1, f"{hangs} hangs")

        async def is_begun_again() -> bool:
            await ledger.send([request("more/1", now_ms)])
            return others.begun[hangs] >= 2

        await until(is_begun_again, f"the run has ended, and the next one has it done again: {hangs}", deadline_s=15)
        assert (await handle.describe()).run_id != first
        others.goes_on.set()
        await until(lambda: others.done[hangs] >= 2, "the activity that hung comes too late, and nobody misses it")

        async def is_done() -> bool:
            status = await ledger.status()
            return status.outbox == 0 and not any(account.loading for account in status.accounts)

        await until(is_done, "everything has arrived")
        assert others.done["recall_parked"] == (2 if hangs == "recall_parked" else 1)


async def test_what_a_run_knew_is_gone_when_it_has_ended(
    forgetful_temporal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a search for garbage. Who asks the run that has ended is answered from its history."""
    known, begin = WeakSet[books.Ledger](), books.Ledger.__init__

    def begun(ledger: books.Ledger, *arguments: object) -> None:
        known.add(ledger)
        begin(ledger, *arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(books.Ledger, "__init__", begun)
    client = await client_in_new_namespace(forgetful_temporal)
    ledger, handle = Ledger(client), client.get_workflow_handle(budget_workflow_id("default"))
    with no_collection():
        async with running(client, LedgerActivities()):
            await ledger.start(capped(3_000))
            now_ms = (await ledger.status()).now_ms

            async def is_held() -> bool:  # perhaps not yet by the first run, which may end while it loads
                [answer] = await ledger.send([request("first/1", now_ms)])
                return answer.kind == "granted"

            await until(is_held, "a call is on hold")
            holds = (await handle.describe()).run_id

            async def is_next() -> bool:
                await ledger.send([request("first/1", now_ms)])
                return (await handle.describe()).run_id != holds

            await until(is_next, "the run with the hold has ended")
            await until(lambda: len(known) == 1, "of the ended runs' books nothing is left")
            ended = client.get_workflow_handle(budget_workflow_id("default"), run_id=holds)
            status = await ended.query("status", result_type=DeskStatus)
            assert (status.holds, (await ledger.status()).holds) == (1, 1)
