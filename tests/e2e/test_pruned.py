"""Old rows go while the ledger runs: its caps, its books and those of a ledger that begins anew are as before."""

import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService
from paymaster_process import Site, configuration, running_site, until
from records import charged_entry

from paymaster import LLMRequest, Outcome
from paymaster.client import generate, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.providers.bounds import input_bytes
from paymaster.storage.engine import create_engine
from paymaster.storage.usage_rows import insert_entries
from paymaster.values.money import nanos_to_usd

pytestmark = pytest.mark.timeout(90)
NUMBERS = itertools.count(1)
HALF_A_YEAR_AGO = datetime.now(UTC) - timedelta(days=183)
OLD_NANOS = 700_000_000_007


def ask(number: int) -> LLMRequest:
    asked = {"route": "writer", "budget": "acme/content", "prompt": f"question {number}", "max_output_tokens": 20}
    return LLMRequest.model_validate(asked | {"on_exhausted": "fail"})


BOUND_NANOS = (input_bytes(ask(0)) + 1_024) * 1_000 + 20 * 4_000


@pytest.fixture
def service(server: CountingServer) -> FakeService:
    return server.service(f"pruned-{next(NUMBERS)}")


@pytest.fixture
async def site(stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path) -> AsyncIterator[Site]:
    """A ledger that has spent nearly all of a cap for good half a year ago."""
    engine = create_engine(database_url)
    granted = {"granted_at_ms": round(HALF_A_YEAR_AGO.timestamp() * 1000)}
    old = [charged_entry("default", number, ("acme/content",), service.name, OLD_NANOS // 7) for number in range(7)]
    await insert_entries(engine, [each.model_copy(update=granted) for each in old])
    await engine.dispose()
    caps = {"total": str(nanos_to_usd(OLD_NANOS + 2 * BOUND_NANOS))}
    tables = configuration([service], routes={"writer": [service]}, budgets={"acme": {"cap_usd": caps}})
    async with running_site(stack.temporal_address, database_url, tmp_path, tables) as site:
        yield site


async def spent(site: Site) -> int:
    return (await site.balance("budget:acme", "total")).posted_nanos


async def test_a_cap_for_good_knows_what_is_pruned(site: Site) -> None:
    """In the ledger that runs, and in the one that begins anew when it is lost."""
    first = await generate(site.client, ask(1))
    assert await spent(site) == OLD_NANOS + first.cost_nanos
    pruned = await site.command("usage", "prune", "--older-than", "2mo", "--yes")
    assert "7 rows have gone" in pruned.output
    assert (await site.document("reconcile"))["agree"]
    epoch = (await site.ledger.status()).epoch
    await site.client.get_workflow_handle("budget/default").terminate("its state is lost")
    second = await generate(site.client, ask(2))

    async def is_loaded() -> bool:
        status = await site.ledger.status()
        return status.epoch != epoch and not any(account.loading for account in status.accounts)

    await until(is_loaded, "the new ledger knows what was spent")
    assert await spent(site) == OLD_NANOS + first.cost_nanos + second.cost_nanos
    assert (await site.document("reconcile"))["agree"]
    await spend_the_rest(site)


async def spend_the_rest(site: Site) -> None:
    """Until a call does not fit any more, which is when less than its bound is left."""
    cap_nanos = OLD_NANOS + 2 * BOUND_NANOS
    for number in itertools.count(3):
        left = cap_nanos - await spent(site)
        result = await try_generate(site.client, ask(number))
        assert (result.outcome is Outcome.DENIED) == (left < BOUND_NANOS), left
        if result.outcome is Outcome.DENIED:
            return
