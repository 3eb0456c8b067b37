"""Calls that count for a team and a customer at once: each tree is exact, and every report's total is the rows'."""

import asyncio
import importlib
import itertools
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import ANSWER, CountingServer, FakeService, Received, Reply
from page_snippets import snippets
from paymaster_process import (
    Databases,
    Site,
    caps_watched,
    configuration,
    results_of,
    running_site,
    settled_books,
    until,
)
from temporalio.worker import Worker

from paymaster import LLMRequest, Outcome
from paymaster.client import start, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import DeskStatus, RaiseCap
from paymaster.providers.bounds import input_bytes
from paymaster.reports.usage import usage_report
from paymaster.values.budget_path import budgets_charged
from paymaster.values.money import TokenUsage, nanos_to_usd

pytestmark = pytest.mark.timeout(200)
TEAMS, CUSTOMERS = 5, 20
NUMBERS: defaultdict[str, int] = defaultdict(itertools.count().__next__)
"""By the name of a test."""
CAPS = random.Random(18)
"""Alike in every run."""


def ask(number: int) -> LLMRequest:
    budgets = (f"teams/team-{number % TEAMS}", f"customers/customer-{number // TEAMS % CUSTOMERS:02}")
    asked = {"route": "writer", "budget": budgets, "prompt": f"question {number:04}", "max_output_tokens": 100}
    return LLMRequest.model_validate({**asked, "on_exhausted": "wait"})


BOUND_NANOS = (input_bytes(ask(0)) + 1_024) * 1_000 + 100 * 4_000


def usd(bounds: int) -> str:
    return str(nanos_to_usd(bounds * BOUND_NANOS))


def at_random(request: Received) -> Reply:
    """An eighth of the requests fails so that nobody knows whether it was billed."""
    return Reply(cut=True) if random.Random(f"{request.prompt} {request.number % 5}").random() < 0.12 else ANSWER


@pytest.fixture
def service(server: CountingServer, request: pytest.FixtureRequest) -> FakeService:
    """One for each test, whose bill is compared with the rows."""
    service = server.service(f"several-{NUMBERS[request.node.name]}")
    service.reply = at_random
    service.usage = lambda request: TokenUsage(
        input_tokens=1_000, output_tokens=random.Random(request.prompt).randint(10, 100)
    )
    return service


@pytest.fixture
async def site(
    stack: EmbeddedStack, databases: Databases, service: FakeService, tmp_path: Path, count: int
) -> AsyncIterator[Site]:
    """Caps of a half to one and a half times what is asked of each."""
    part = [CAPS.randint(5, 15) for _ in range(TEAMS + CUSTOMERS)]
    budgets = {f"teams/team-{n}": count // TEAMS * part[n] for n in range(TEAMS)}
    budgets |= {f"customers/customer-{n:02}": count // CUSTOMERS * part[TEAMS + n] for n in range(CUSTOMERS)}
    tables = configuration(
        [service],
        routes={"writer": [service]},
        budgets={"teams": {}, "customers": {}}
        | {path: {"cap_usd": {"total": usd(tenths // 10)}} for path, tenths in budgets.items()},
        service={"breaker": {"failures": 1_000, "cooldown": "1s"}, "max_unconfirmed": 1},
    )
    async with running_site(stack.temporal_address, await databases.create(), tmp_path, tables, workers=2) as site:
        yield site


def room_in(status: DeskStatus) -> dict[str, int]:
    """What each capped account has left."""
    return {
        account.account: window.cap_nanos - window.posted_nanos - window.pending_nanos
        for account in status.accounts
        for window in account.windows
        if window.cap_nanos is not None
    }


@pytest.mark.parametrize("count", [100, pytest.param(200, marks=pytest.mark.full)])
async def test_each_tree_is_exact_and_every_report_is_the_rows(site: Site, service: FakeService, count: int) -> None:
    async with caps_watched(site):
        calls = await asyncio.gather(*(start(site.client, ask(number)) for number in range(count)))
        ended = [asyncio.create_task(call.result()) for call in calls]

        async def all_parked() -> bool:
            status = await site.ledger.status()
            return status.holds == status.outbox == 0 and status.parked == sum(not end.done() for end in ended) > 0

        await until(all_parked, "whoever is left is parked", 60)
        status = await site.ledger.status()
        room = room_in(status)
        for call in status.waiting:
            charged = budgets_charged(call.budgets)
            assert min(room[f"budget:{path}"] for path in charged if f"budget:{path}" in room) < BOUND_NANOS
        for account in room:
            await site.ledger.raise_cap(RaiseCap(account=account, window="total", by=usd(2 * count), reason="more"))
        results = await results_of(calls, 90)
        await asyncio.gather(*ended)
    assert Outcome.DENIED not in {result.outcome for result in results}
    status = await settled_books(site, service)
    posted = {
        account.account: next(window.posted_nanos for window in account.windows if window.window == "total")
        for account in status.accounts
    }
    ledger = site.settings.ledger.name
    [everything] = await usage_report(site.engine, ledger=ledger, by=())
    for tree in ("teams", "customers"):
        rows = await usage_report(site.engine, ledger=ledger, by=("budget",), budget=tree)
        assert {f"budget:{row.budget}": row.cost_nanos for row in rows} == {
            account: nanos for account, nanos in posted.items() if account.startswith(f"budget:{tree}/")
        }
        assert sum(row.cost_nanos for row in rows) == posted[f"budget:{tree}"] == everything.cost_nanos
        assert sum(row.calls for row in rows) == everything.calls == count


@pytest.mark.parametrize("count", [100])
async def test_a_budget_that_nothing_counts_for_is_named(site: Site) -> None:
    request = ask(0).model_copy(update={"budget": ("teams/team-0", "projects/x")})
    result = await try_generate(site.client, request)
    assert (result.outcome, result.reason) == (Outcome.DENIED, "unknown_budget")
    assert 'add [budgets."projects/x"]' in (result.detail or "")


@pytest.mark.parametrize("count", [100])
async def test_the_agent_of_the_page(
    site: Site, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, code in snippets("budgets.md").items():
        (tmp_path / name).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    agent = importlib.import_module("two_budgets").Answers
    service.reply = lambda request: ANSWER
    async with Worker(site.client, task_queue="page-of-budgets", workflows=[agent]):
        said = await site.client.execute_workflow(
            agent.run, args=["customer-07", "Why?"], id="support", task_queue="page-of-budgets"
        )
    assert said == "answer to Why?"
    status = await settled_books(site, service)
    spent = {each.account for each in status.accounts if any(window.posted_nanos for window in each.windows)}
    assert {"budget:teams", "budget:customers/customer-07", "budget:customers"} <= spent
