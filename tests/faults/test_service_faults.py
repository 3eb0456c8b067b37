"""Promise 7 with promises 1 to 6: every service fails in its own way, and then they recover."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
from counting_server import CountingServer, FakeService, Received, Reply
from load import asking
from paymaster_process import Databases, Site, caps_watched, configuration, running_site, settled_books

from paymaster import LLMRequest, Outcome
from paymaster.client import start
from paymaster.devstack import EmbeddedStack

pytestmark = pytest.mark.timeout(120)
CALLS = 12


@pytest.fixture
def services(server: CountingServer) -> list[FakeService]:
    return [server.service(name) for name in ("talks-garbage", "hangs-up", "is-overloaded")]


@pytest.fixture
async def site(
    stack: EmbeddedStack, databases: Databases, services: list[FakeService], tmp_path: Path
) -> AsyncIterator[Site]:
    tables = configuration(
        services,
        routes={"writer": services},
        budgets={"acme": {"cap_usd": {"total": "100"}}},
        service={"breaker": {"failures": 5, "cooldown": "1s"}},
    )
    async with running_site(stack.temporal_address, await databases.create(), tmp_path, tables) as site:
        yield site


async def test_every_service_down_gives_typed_outcomes_and_when_they_recover_calls_go_on(
    site: Site, services: list[FakeService]
) -> None:
    """One answers with noise, which may have been billed, one hangs up, one says 503. The noise is never the same."""
    garbage, cutting, overloaded = services
    random = Random(8)

    def noise(request: Received) -> Reply:
        return Reply(body=random.randbytes(random.randrange(2_000)), headers={"x-noise": "1"})

    garbage.reply = noise
    cutting.reply = lambda request: Reply(cut=True)
    overloaded.reply = lambda request: Reply(503)
    async with caps_watched(site):
        requests = [LLMRequest(route="writer", budget="acme", prompt=f"question {n}") for n in range(CALLS)]
        calls = [await start(site.client, request.model_copy(update={"on_exhausted": "fail"})) for request in requests]
        results = [await call.result() for call in calls]
        assert Counter(result.outcome for result in results) == {Outcome.UNAVAILABLE: CALLS}
        assert all(result.reason and result.detail for result in results)
        await settled_books(site, *services)
        for service in services:
            service.reply = lambda request: Reply()
        async with asking(site) as load:
            await load.answers(24)
    status = await settled_books(site, *services)
    assert status.unconfirmed > 0, "nothing was left in doubt, so this proves little"
