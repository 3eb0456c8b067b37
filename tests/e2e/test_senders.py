"""Many processes on one ledger, each with a connection of its own: they take turns, also while it begins anew."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ledger_alone import LedgerActivities, client_in_new_namespace, running
from paymaster_process import balance_of, until

from benchmarks import senders
from benchmarks.site import running_site
from paymaster.client import Ledger
from paymaster.devstack import EmbeddedStack
from paymaster.messages import budget_workflow_id
from paymaster.values.limits import BATCH_ITEMS_MAX

pytestmark = pytest.mark.usefixtures("heap_of_a_worker")
SENDERS, CALLS, SECONDS = 12, 4, 6.0
CAPPED_HOLDS = 100


@pytest.fixture
async def forgetful_temporal() -> AsyncIterator[str]:
    """The address of a server that suggests continue-as-new after every 300 events: every second here."""
    limits = {"limit.historyCount.suggestContinueAsNew": 300}
    async with EmbeddedStack(postgres=False, model=False, headless=True, dynamic_config=limits) as stack:
        yield stack.temporal_address


@pytest.mark.timeout(120)
async def test_a_dozen_take_turns_across_many_runs_of_the_ledger(forgetful_temporal: str) -> None:
    """Each call is answered within seconds, also while runs end, and a cap that all want at once is exact."""
    client = await client_in_new_namespace(forgetful_temporal)
    config = senders.config_of(CAPPED_HOLDS)
    workflow = client.get_workflow_handle(budget_workflow_id("default"))

    async def runs() -> int:
        query = f'WorkflowId = "{workflow.id}"'
        return sum([1 async for _ in client.list_workflows(query)])

    async with running(client, LedgerActivities()):
        await Ledger(client).start(config)
        dozen = await senders.senders_of(forgetful_temporal, client.namespace, "default", config, SENDERS)
        await senders.until_granted(dozen[0])
        async with senders.calling(dozen, CALLS):
            await asyncio.sleep(SECONDS)  # that is how long they call
        waits_s = senders.waits_of(dozen)
        assert all(sender.waits_s for sender in dozen), "some got nothing"
        assert not any(sender.not_granted for sender in dozen)
        for sender in dozen:
            await sender.hold(2 * CAPPED_HOLDS // SENDERS)

        async def were_many() -> bool:
            return await runs() >= 3

        await until(were_many, "Temporal lists the runs")
        status = await Ledger(client).status()
    usual_s = waits_s[len(waits_s) // 2]
    print(f"{len(waits_s) / SECONDS:.0f} a second, p50 {usual_s:.3f} s, longest {waits_s[-1]:.3f} s")
    assert waits_s[-1] < 8.0, (
        "more than a new run, an aborted update and a machine that is busy with other tests explain"
    )
    assert sum(sender.held_nanos for sender in dozen) == CAPPED_HOLDS * senders.BOUND_NANOS
    balance = balance_of(status, f"budget:{senders.CAPPED}")
    assert balance.pending_nanos == balance.cap_nanos == CAPPED_HOLDS * senders.BOUND_NANOS
    assert status.holds == CAPPED_HOLDS + 1, "every other hold was settled, once"


@pytest.mark.timeout(120)
async def test_one_alone_has_two_updates_in_flight_until_another_comes(forgetful_temporal: str) -> None:
    """Also while runs end: each call gets its hold, once."""
    client = await client_in_new_namespace(forgetful_temporal)
    config = senders.config_of(CAPPED_HOLDS)
    first, second = senders.Updates(), senders.Updates()
    async with running(client, LedgerActivities()):
        await Ledger(client).start(config)
        asked = forgetful_temporal, client.namespace, "default", config, 1
        (one,), (other,) = [await senders.senders_of(*asked, updates) for updates in (first, second)]
        await senders.until_granted(one)

        async def hold(sender: senders.Sender, calls: int) -> None:
            assert all(await asyncio.gather(*(sender.reserve(senders.PLENTY) for _ in range(calls))))

        for _ in range(10):
            await hold(one, 3 * BATCH_ITEMS_MAX)
        assert first.most_in_flight == 2
        await hold(other, 1)
        await hold(one, 1)
        first.clear()
        second.clear()
        both = [asyncio.create_task(hold(sender, 5 * BATCH_ITEMS_MAX)) for sender in (one, other)]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)  # from then on the one that is left is alone
        assert (first.most_in_flight, second.most_in_flight) == (1, 1)
        await asyncio.gather(*both)
        status = await Ledger(client).status()
    assert status.holds == 40 * BATCH_ITEMS_MAX + 3
    assert balance_of(status, f"budget:{senders.PLENTY}").pending_nanos == status.holds * senders.BOUND_NANOS


@pytest.mark.full
async def test_sixty_four_take_turns(stack: EmbeddedStack, tmp_path: Path) -> None:
    """What `python -m benchmarks senders-busy` measures, for a machine that is busy with other tests."""
    async with running_site(stack, tmp_path) as site:
        figures = await senders.busy(site, seconds=20)
    print(*figures, sep="\n")
    rate, p99_s, not_exact, not_granted = figures[:4]
    assert not_exact.value == not_granted.value == 0
    assert rate.value >= 600
    assert p99_s.value <= 4.0, "more than updates that were refused, and then wait, explain"
