"""Commands and answers cross compressed where both sides read that, and as they are where one does not."""

from collections.abc import AsyncIterator

import pytest
from ledger_alone import LedgerActivities, capped, client_in_new_namespace, running
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.service import RPCError

from paymaster.client import Ledger
from paymaster.devstack import EmbeddedStack
from paymaster.messages import AnswerBatch, CommandBatch, LedgerStart, Settled, Void, budget_workflow_id
from paymaster.messages.temporal_names import APPLY, LEDGER_WORKFLOW, ledger_task_queue
from paymaster.security.payloads import as_raw, read_raw

pytestmark = pytest.mark.usefixtures("heap_of_a_worker")
CONFIG = capped(10**9)
PLAIN, COMPRESSED = "json/plain", "json/zlib"


@pytest.fixture
async def client(stack: EmbeddedStack) -> AsyncIterator[Client]:
    client = await client_in_new_namespace(stack.temporal_address)
    async with running(client, LedgerActivities()):
        yield client


async def started(client: Client, rules: int) -> Ledger:
    await client.start_workflow(
        LEDGER_WORKFLOW.name,
        LedgerStart(ledger="default", config=CONFIG, rules=rules),
        id=budget_workflow_id("default"),
        task_queue=ledger_task_queue("default"),
    )
    return Ledger(client)


def voids(number: int) -> tuple[Void, ...]:
    return tuple(Void(hold_id=f"nobody's/{each}") for each in range(number))


async def encodings(client: Client) -> list[tuple[str, str]]:
    """Of each update and of its answer."""
    asked: list[str] = []
    answered: list[str] = []
    async for event in client.get_workflow_handle(budget_workflow_id("default")).fetch_history_events():
        accepted = event.workflow_execution_update_accepted_event_attributes
        completed = event.workflow_execution_update_completed_event_attributes
        asked += [each.metadata["encoding"].decode() for each in accepted.accepted_request.input.args.payloads]
        answered += [each.metadata["encoding"].decode() for each in completed.outcome.success.payloads]
    return list(zip(asked, answered, strict=True))


async def test_a_process_compresses_once_the_ledger_reads_it(client: Client) -> None:
    ledger = await started(client, rules=2)
    for number in (200, 200, 1):
        batch = await ledger.apply(voids(number), CONFIG, sender="s")
        assert [type(answer) for answer in batch.answers] == [Settled] * number
    assert await encodings(client) == [(PLAIN, COMPRESSED), (COMPRESSED, COMPRESSED), (PLAIN, PLAIN)]


async def test_a_ledger_that_older_workers_may_run_is_sent_none(client: Client) -> None:
    ledger = await started(client, rules=1)
    for _ in range(2):
        await ledger.apply(voids(200), CONFIG, sender="s")
    assert await encodings(client) == [(PLAIN, COMPRESSED)] * 2


async def test_a_process_of_an_older_version_is_answered_plainly(client: Client) -> None:
    await started(client, rules=2)
    ledger = client.get_workflow_handle(budget_workflow_id("default"))
    answer = await ledger.execute_update(
        APPLY.name, as_raw(CommandBatch(commands=voids(200), sender="s")), result_type=RawValue
    )
    assert len(read_raw(answer, AnswerBatch).answers) == 200
    assert await encodings(client) == [(PLAIN, PLAIN)]


async def test_after_a_failure_it_asks_plainly_again(client: Client) -> None:
    """The ledger may have been lost, and begun anew by an older worker."""
    ledger = await started(client, rules=2)
    for _ in range(2):
        await ledger.apply(voids(200), CONFIG)
    await client.get_workflow_handle(budget_workflow_id("default")).terminate()
    with pytest.raises(RPCError):
        await ledger.apply(voids(200), CONFIG)  # which begins it anew
    for _ in range(2):
        await ledger.apply(voids(200), CONFIG)
    assert await encodings(client) == [(PLAIN, COMPRESSED), (COMPRESSED, COMPRESSED)]
