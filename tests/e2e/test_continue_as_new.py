"""Promise 10, on a real server: cutting the budget workflow again and again changes nothing."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import CountingServer
from paymaster_process import (
    caps_watched,
    configuration,
    results_of,
    running_site,
    settled_books,
    until,
    write_configuration,
)
from temporalio.client import WorkflowExecutionStatus

from paymaster import LLMRequest, Outcome
from paymaster.client import start
from paymaster.devstack import EmbeddedStack
from paymaster.errors import AdminRefused
from paymaster.messages import RaiseCap
from paymaster.providers.bounds import input_bytes
from paymaster.security.signing_key import SigningKey
from paymaster.values.money import nanos_to_usd

pytestmark = pytest.mark.timeout(120)
CALLS, PAID = 60, 20
USD = 10**9


@pytest.fixture
async def forgetful_temporal() -> AsyncIterator[str]:
    """The address of a server that suggests continue-as-new after every 50 events."""
    limits = {"limit.historyCount.suggestContinueAsNew": 50}
    async with EmbeddedStack(postgres=False, model=False, headless=True, dynamic_config=limits) as stack:
        yield stack.temporal_address


def ask(number: int) -> LLMRequest:
    return LLMRequest(route="cut-off", budget="acme/writer", prompt=f"question {number:04}", max_output_tokens=100)


async def test_continue_as_new_after_every_50_events_loses_no_hold_no_parked_call_and_no_money(
    forgetful_temporal: str, database_url: str, server: CountingServer, tmp_path: Path
) -> None:
    """60 calls against a cap for 20, raised in the middle while holds are open: exact at each step, all complete."""
    service = server.service("cut-off")
    bound = (input_bytes(ask(0)) + 1_024) * 1_000 + 100 * 4_000
    tables = configuration([service], budgets={"acme": {"cap_usd": {"total": str(nanos_to_usd(PAID * bound))}}})
    async with running_site(forgetful_temporal, database_url, tmp_path, tables) as site:

        async def runs() -> int:
            query = 'WorkflowId = "budget/default"'
            return sum([1 async for _ in site.client.list_workflows(query)])

        async def in_flight() -> bool:
            status = await site.ledger.status()
            return (status.holds, status.parked, service.held) == (PAID, CALLS - PAID, PAID)

        async with caps_watched(site):
            service.hold()
            calls = await asyncio.gather(*(start(site.client, ask(number)) for number in range(CALLS)))
            await until(in_flight, "20 calls are in flight, 40 are parked")
            raised = RaiseCap(account="budget:acme", window="total", by=str(nanos_to_usd(PAID * bound)), reason="more")
            await site.ledger.signal_raise_cap(raised)
            await until(lambda: service.held == 2 * PAID, "the raise lets 20 more through")
            assert service.count == 2 * PAID
            service.release()
            await site.ledger.raise_cap(raised)
            results = await results_of(calls)

        assert Counter(result.outcome for result in results) == {Outcome.COMPLETED: CALLS}
        assert service.count == CALLS
        status = await settled_books(site, service)
        budget = await site.client.get_workflow_handle("budget/default").describe()
        assert budget.status is WorkflowExecutionStatus.RUNNING
        assert status.epoch != budget.run_id, "the epoch is the first run's id, and this is not the first run"

        async def was_cut() -> bool:  # once or several times: the more commands go together, the fewer events they make
            return await runs() >= 2

        await until(was_cut, "Temporal lists the runs")
        print(f"{await runs()} runs of the budget workflow")


async def test_a_raise_given_again_in_a_later_run_is_applied_once(
    forgetful_temporal: str, database_url: str, tmp_path: Path, server: CountingServer
) -> None:
    """Temporal knows the ids of updates for one run only. Signed, and by the real command with `--command-id`."""
    tables = configuration([server.service("given-again")], budgets={"acme": {"cap_usd": {"total": "1"}}})
    async with running_site(forgetful_temporal, database_url, tmp_path, tables) as site:
        made = await site.document("admin", "new-key", "alice.pem", "--name", "alice")
        signed = {"admin": {"require_signature": True, "keys": {"alice": made["public"]}}}
        write_configuration(tmp_path / "paymaster.toml", tables | signed)
        await site.document("config", "apply")
        key = SigningKey.read(tmp_path / "alice.pem")
        change = RaiseCap(account="budget:acme", window="total", by="1", reason="launch")

        async def raised(command_id: str, change: RaiseCap = change) -> int | None:
            command = key.sign("raise_cap", change, by="alice", ledger="default", epoch=await site.ledger.epoch())
            return (await site.ledger.raise_cap(command, command_id)).cap_nanos

        async def run_id() -> str:
            return (await site.client.get_workflow_handle("budget/default").describe()).run_id

        once = key.sign("raise_cap", change, by="alice", ledger="default", epoch=await site.ledger.epoch())
        assert (await site.ledger.raise_cap(once, "once")).cap_nanos == 2 * USD
        by_command = ("budget", "raise", "acme", "--window", "total", "--by", "1", "--reason", "launch")
        by_command += ("--command-id", "typed", "--sign-with", "alice.pem")
        assert (await site.document(*by_command))["cap_usd"] == "3.000000000"
        assert await raised("spent") == 4 * USD
        first, caps = await run_id(), 4
        while await run_id() == first:
            caps += 1
            assert await raised(f"more {caps}") == caps * USD
        for _ in range(2):
            assert (await site.ledger.raise_cap(once, "once")).cap_nanos == 2 * USD
            assert (await site.document(*by_command))["cap_usd"] == "3.000000000"
        assert await raised("another") == (caps + 1) * USD
        with pytest.raises(AdminRefused, match="was used before: each is good for one command"):
            await site.ledger.raise_cap(once, "a copy")
        with pytest.raises(AdminRefused, match="the command id 'spent' was used before, for another command"):
            await raised("spent", change.model_copy(update={"by": "7"}))
        assert (await site.balance("budget:acme")).cap_nanos == (caps + 1) * USD
