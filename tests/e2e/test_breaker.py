"""A service that keeps failing is left alone for a while, and the calls go on without it."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import ANSWER, CountingServer, FakeService, Reply
from paymaster_process import Databases, Site, configuration, results_of, running_site, settled_books, until

from paymaster import LLMRequest, Outcome
from paymaster.client import start, try_generate
from paymaster.devstack import EmbeddedStack

pytestmark = pytest.mark.timeout(60)
FAILURES, COOLDOWN_S = 4, 2
NUMBERS = itertools.count(1)
BROKEN = Reply(500, message="broken")


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    first, second, alone = (server.service(f"breaking-{name}") for name in ("first", "second", "alone"))
    tables = configuration(
        [first, second, alone],
        routes={"both": [first, second], "alone": [alone]},
        budgets={"acme": {"cap_usd": {"total": "100"}}},
        service={
            "retry": {"initial_interval": "20ms", "maximum_interval": "20ms", "maximum_attempts": 2},
            "breaker": {"failures": FAILURES, "cooldown": f"{COOLDOWN_S}s"},
        },
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


def ask(route: str, on_exhausted: str = "wait") -> LLMRequest:
    number = next(NUMBERS)
    request = {"route": route, "budget": "acme/writer", "prompt": f"{number}", "on_exhausted": on_exhausted}
    return LLMRequest.model_validate(request)


async def until_cooled_down(site: Site, service: FakeService) -> None:
    """The status says so by itself: nothing happens at the ledger meanwhile."""

    async def half_open() -> bool:
        return (await site.service_status(service.name)).breaker == "half_open"

    await until(half_open, "the cooldown is over")


async def breaker_alerts(site: Site, service: FakeService) -> list[str]:
    account = f"service:{service.name}"
    return [row["what"] for row in await site.alerts() if row["account"] == account]


async def test_failures_in_a_row_open_the_breaker_and_one_probe_after_the_cooldown_closes_it(
    site: Site, server: CountingServer
) -> None:
    """While it is open calls take the second service at once; when it works again, they come back."""
    first, second = server.service("breaking-first"), server.service("breaking-second")
    first.reply = lambda request: BROKEN
    for _ in range(FAILURES // 2):  # two attempts each
        result = await try_generate(site.client, ask("both"))
        assert (result.outcome, result.service, result.fell_back) == (Outcome.COMPLETED, "breaking-second", True)
    assert (first.count, (await site.service_status(first.name)).breaker) == (FAILURES, "open")
    result = await try_generate(site.client, ask("both"))
    assert (result.service, result.attempts, result.waited_ms) == ("breaking-second", 1, 0)
    assert first.count == FAILURES

    await until_cooled_down(site, first)
    first.reply = lambda request: ANSWER
    first.hold()
    probe = await start(site.client, ask("both"))
    await until(lambda: first.held == 1, "the probe is in flight")
    result = await try_generate(site.client, ask("both"))
    assert (result.service, first.count) == ("breaking-second", FAILURES + 1), "a second call probed too"
    first.release()
    (result,) = await results_of([probe])
    assert (result.outcome, result.service) == (Outcome.COMPLETED, first.name)
    assert (await site.service_status(first.name)).breaker == "closed"
    assert (await try_generate(site.client, ask("both"))).service == first.name
    await settled_books(site, first, second)
    assert await breaker_alerts(site, first) == ["breaker_opened", "breaker_closed"]
    assert await breaker_alerts(site, second) == []


async def test_when_every_breaker_is_open_calls_end_soon_as_unavailable(site: Site, server: CountingServer) -> None:
    """`fail` at once; `wait` after one cooldown, in which the service is tried once more, however many calls wait."""
    service = server.service("breaking-alone")
    service.reply = lambda request: BROKEN
    for _ in range(FAILURES // 2):
        result = await try_generate(site.client, ask("alone"))
        assert (result.outcome, result.reason) == (Outcome.UNAVAILABLE, "server_error")
    assert service.count == FAILURES
    result = await try_generate(site.client, ask("alone", "fail"))
    assert (result.outcome, result.reason, result.waited_ms) == (Outcome.UNAVAILABLE, "breaker_open", 0)
    assert "4 times in a row" in (result.detail or "")

    calls = [await start(site.client, ask("alone")) for _ in range(5)]

    async def parked() -> bool:
        return (await site.ledger.status()).parked == 5

    await until(parked, "five calls wait for the service")
    results = await results_of(calls, 3 * COOLDOWN_S + 5)
    assert [result.outcome for result in results] == [Outcome.UNAVAILABLE] * 5
    assert all(result.waited_ms >= (COOLDOWN_S - 1) * 1_000 for result in results)
    print(f"they waited {sorted(result.waited_ms for result in results)} ms, cooldown {COOLDOWN_S} s")
    assert max(result.waited_ms for result in results) < (2 * COOLDOWN_S + 1) * 1_000
    probes = service.count - FAILURES
    assert probes <= 4, f"{probes} attempts while it was broken"
    await settled_books(site, service)
