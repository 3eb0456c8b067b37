"""The ledger does not answer: nothing is sent without a budget, and what was paid for is neither lost nor hidden.

Paymaster's own workers run in this process, so that the ledger's can be stopped alone; and they have less patience.
"""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService
from paymaster_process import Site, configuration, own_workers, results_of, running_site, settled_books, until

import worker
from paymaster import LLMRequest, Outcome
from paymaster.client import start
from paymaster.devstack import EmbeddedStack
from paymaster.ledger import commits
from paymaster.ledger.group_commit import AnswerT, GroupCommit, ItemT

pytestmark = pytest.mark.timeout(60)


class Changeable(GroupCommit[ItemT, AnswerT]):
    """Gives up after `patience_s` seconds, as of the time of sending."""

    patience_s = 30.0

    async def submit(self, item: ItemT) -> AnswerT:
        self.give_up_after_s = Changeable.patience_s
        return await super().submit(item)


class Patience:
    """How long Paymaster waits for the ledger: as usual, or one second where a test knows that nobody answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        for module in (worker, commits):
            monkeypatch.setattr(module, "GroupCommit", Changeable)

    def set(self, seconds: float) -> None:
        self._monkeypatch.setattr(Changeable, "patience_s", seconds)
        self._monkeypatch.setattr("paymaster.ledger.handle.ANSWER_WITHIN", timedelta(seconds=min(seconds, 10.0)))


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Patience:
    return Patience(monkeypatch)


@pytest.fixture
def service(server: CountingServer) -> FakeService:
    return server.service("outage")


@pytest.fixture
async def site(stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path) -> AsyncIterator[Site]:
    """Without worker processes."""
    tables = configuration([service], budgets={"acme": {"cap_usd": {"total": "1"}}})
    async with running_site(stack.temporal_address, database_url, tmp_path, tables, workers=0) as site:
        yield site


def ask() -> LLMRequest:
    return LLMRequest(route="outage", budget="acme/writer", prompt="Say hello")


async def test_a_ledger_that_does_not_answer_is_a_typed_outcome_and_nothing_is_sent(
    site: Site, service: FakeService, patience: Patience
) -> None:
    """Never an unbudgeted call, and no error that an agent does not expect."""
    count = service.count
    patience.set(1.0)
    async with own_workers(site) as (ledger, activities, calls), activities, calls:
        (result,) = await results_of([await start(site.client, ask())], 30)
        assert (result.outcome, result.reason) == (Outcome.UNAVAILABLE, "ledger_unreachable")
        assert service.count == count
        patience.set(30.0)
        async with ledger:
            await settled_books(site, service)


async def test_a_paid_answer_is_not_lost_while_the_ledger_does_not_answer(
    site: Site, service: FakeService, patience: Patience, caplog: pytest.LogCaptureFixture
) -> None:
    """The agent gets what it paid for at once; the backlog settles when the ledger answers again."""
    service.hold()
    async with (
        own_workers(site) as (ledger, activities, calls),
        own_workers(site) as (ledger_again, _, _),
        activities,
        calls,
    ):
        async with ledger:
            call = await start(site.client, ask())
            await until(lambda: service.held == 1, "the call is in flight")
        patience.set(1.0)
        service.release()
        (result,) = await results_of([call], 30)
        assert result.outcome is Outcome.COMPLETED
        assert "could not be settled" in caplog.text, "the settlement met a ledger, so this proves nothing"
        patience.set(30.0)
        async with ledger_again:
            await settled_books(site, service)
