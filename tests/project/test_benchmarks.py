"""The benchmarks run, in sizes that say nothing about speed; what they count is asserted here."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from paymaster_process import until

from benchmarks import bare, calls, gateway, reservations, server_load, streams, where_time_goes
from benchmarks import waiting as waiting_calls
from benchmarks.compared import BARE_TASK_QUEUE
from benchmarks.figures import Figure, table
from benchmarks.site import Site, running_site
from paymaster.devstack import EmbeddedStack


@pytest.fixture(scope="module")
async def site(stack: EmbeddedStack, module_folder: Path) -> AsyncIterator[Site]:
    async with running_site(stack, module_folder) as site:
        yield site


async def test_a_call_and_its_budget_leave_few_history_events(site: Site):
    of_a_call, of_the_ledger = await calls.history_events(site, calls=50)
    assert of_a_call.value <= 17
    assert of_the_ledger.value <= 5  # what one command in each update would leave is 10


async def test_governed_and_unbudgeted_calls_are_compared(site: Site):
    ratio, governed, unbudgeted = await calls.throughput(site, calls=4, rounds=1)
    assert ratio.value == pytest.approx(governed.value / unbudgeted.value)
    (added,) = await calls.added_time(site, pairs=1)
    assert added.unit == "ms"


async def test_governed_and_bare_calls_are_compared(site: Site):
    """In each of the ways that the table of speed has; both kinds are made in the number that is asked for."""
    figures = await bare.compared(site, rounds=1, calls=5, alone=1, aged_calls=8)
    assert len(figures) == 6
    assert all(figure.value > 0 and figure.detail for figure in figures)
    warm_up, alone_twice = 5, 2 * (3 + 1)

    async def all_are_listed() -> bool:
        found = await site.client.count_workflows(f'WorkflowType="BareCall" AND TaskQueue="{BARE_TASK_QUEUE}"')
        return found.count == warm_up + alone_twice + 8

    await until(all_are_listed, "Temporal lists as many bare calls")


async def test_the_activity_of_a_bare_call_starts_eagerly(site: Site):
    """It comes with the answer to the workflow task: no poll has brought it, which the server would have recorded."""
    client = await bare.bare_client(site.stack.temporal_address, site.client.namespace)
    before = await starts_by_a_poll(site)
    for number in range(20):
        identity, queue = f"eager/{number}", BARE_TASK_QUEUE
        await client.execute_workflow("BareCall", site.request(), id=identity, task_queue=queue, result_type=str)
    assert await starts_by_a_poll(site) - before < 10  # the ledger has activities too


async def test_so_does_that_of_a_governed_call(site: Site):
    before = await starts_by_a_poll(site)
    for _ in range(20):
        await calls.governed(site)
    assert await starts_by_a_poll(site) - before < 10


async def starts_by_a_poll(site: Site) -> float:
    requests = await server_load.told_by_server(site, "service_requests")
    return sum(each.value for each in requests if each.labels.get("operation") == "RecordActivityTaskStarted")


async def test_the_servers_load_is_counted_by_the_server(site: Site):
    actions, requests, writes, history = await server_load.load_of_the_server(site, calls=10)
    assert actions.value >= 4
    assert requests.value >= 4
    assert "grpc_StartWorkflowExecution 1.00" in actions.detail
    assert writes.value > 1
    assert 2_000 < history.value < 20_000


async def test_processor_time_and_steps_are_told(site: Site):
    figures = await where_time_goes.processor_time(site, calls=5)
    assert sum(figure.value for figure in figures) > 0
    steps = await where_time_goes.steps_of_a_call(site, calls=1)
    assert all(step.value >= 0 for step in steps)


async def test_reservations_and_waiting_calls_are_measured(site: Site):
    ratio, by_update, by_signal = await reservations.per_second(site, reservations=20, signals=5, at_once=5, rounds=1)
    assert ratio.value == pytest.approx(by_update.value / by_signal.value)
    waiting, _ = await waiting_calls.calls_at_once(site, calls=5, waiting_s=0.1)
    assert waiting.value == 5


async def test_the_gateway_is_compared_with_a_client_and_with_another(site: Site):
    ratio, through, without, processor = await gateway.cost_of_the_gateway(site, pairs=1, calls=4)
    assert ratio.value == pytest.approx(through.value / without.value)
    assert processor.value > 0
    provider = gateway.Address(f"{site.provider_url}/now/v1", "-", "bench-model")
    ratio, *_, p50, p99 = await gateway.against_another(site, other=provider, pairs=1, calls=4)
    assert 0 < ratio.value < 1
    assert 0 < p50.value <= p99.value


async def test_streams_are_measured_from_provider_to_caller(site: Site):
    figures = await streams.latency(site, streams=2, a_second=10, tokens=40, every_ms=20)
    assert [figure.value for figure in figures if figure.what == "tokens that did not come"] == [0]
    assert all(figure.value > 0 for figure in figures if figure.unit == "ms")
    holding, *rounds = await streams.how_many_hold(site, at_most=20, together_s=1)
    assert holding.value in (0, 20)
    assert rounds


def test_the_table_says_what_is_reached():
    figures = [
        Figure("events", 13.0, "", ("≤", 17)),
        Figure("ratio", 0.5, "", ("≥", 0.9), "3 pairs"),
        Figure("calls", 1234.5, "a second"),
    ]
    assert table(figures).splitlines() == [
        "events            13.0  ✓ ≤ 17",
        "ratio             0.50  ✗ ≥ 0.9  3 pairs",
        "calls   1,234 a second",
    ]
