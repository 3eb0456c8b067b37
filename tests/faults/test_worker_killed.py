"""Promises 1 to 6 with workers killed (SIGKILL) at every point where something is half done."""

import itertools
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService
from load import asking
from paymaster_process import Databases, Site, configuration, running_site, settled_books, until

from paymaster.devstack import EmbeddedStack

WORKER_THAT_DIES = Path(__file__).with_name("worker_that_dies.py")
AGENTS = 24
"""Each asks one thing after the other."""
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
async def forgetful_temporal() -> AsyncIterator[str]:
    """The address of a server that suggests continue-as-new after every 50 events.

    And gives the workflow tasks of a dead worker to others after 4 s instead of 10, for which the test would wait."""
    limits = {"limit.historyCount.suggestContinueAsNew": 50, "history.defaultWorkflowTaskTimeout": "4s"}
    async with EmbeddedStack(postgres=False, model=False, headless=True, dynamic_config=limits) as stack:
        yield stack.temporal_address


@pytest.fixture
def service(server: CountingServer) -> FakeService:
    return server.service(f"killed-{next(NUMBERS)}")


@pytest.fixture
async def site(
    forgetful_temporal: str, databases: Databases, service: FakeService, tmp_path: Path
) -> AsyncIterator[Site]:
    """Without worker processes."""
    tables = configuration(
        [service],
        routes={"writer": [service]},
        budgets={"acme": {"cap_usd": {"total": "5"}}},
        service={"max_unconfirmed": 20},  # one call may be killed many times here
    )
    database_url = await databases.create()
    async with running_site(forgetful_temporal, database_url, tmp_path, tables, workers=0) as site:
        yield site


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("how", "others"),
    [
        pytest.param("at-all-points", 0, id="at-all-points-in-a-few-seconds"),
        pytest.param("at-each-point", 1, id="at-each-point-of-two-workers", marks=pytest.mark.full),
        pytest.param("at-each-point", 0, id="at-each-point-of-one-that-restarts", marks=pytest.mark.full),
        pytest.param("100-times", 1, id="at-100-random-times", marks=[pytest.mark.full, pytest.mark.timeout(900)]),
    ],
)
async def test_a_worker_that_is_killed_loses_nothing_hides_nothing_and_pays_nothing_twice(
    site: Site, service: FakeService, how: str, others: int
) -> None:
    """It dies again and again under load; alone, or beside one that lives on."""
    deadline_s = 800.0 if how == "100-times" else 120.0
    await site.start_workers(others)
    dying = site.launch_worker([WORKER_THAT_DIES, how])
    async with asking(site, AGENTS) as load:
        try:
            await until(
                lambda: "worker ready" in dying.log().partition("lives on")[2], "it was killed for good", deadline_s
            )
        finally:
            print("\n".join(line for line in dying.log().splitlines() if line.startswith("killed")))

    results = load.results
    status = await settled_books(site, service)
    assert sum(result.attempts for result in results) == len(results) + status.unconfirmed
    times_sent = Counter(request.prompt for request in service.requests)
    sent_again = sum(times_sent.values()) - len(times_sent)
    assert sent_again <= status.unconfirmed, "sent twice under one hold"
