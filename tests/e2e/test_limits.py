"""A service's limits: requests and tokens per minute, calls at once, and the pause that it asks for itself."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from counting_server import CountingServer, Reply
from paymaster_process import Databases, Site, configuration, results_of, running_site, settled_books, until
from sqlalchemy import text
from stored_rows import entries_of_call

from paymaster import LLMRequest, Outcome
from paymaster.client import generate, start
from paymaster.devstack import EmbeddedStack
from paymaster.providers.bounds import input_bytes
from paymaster.values.money import TokenUsage

pytestmark = pytest.mark.timeout(90)
REQUESTS_PER_MINUTE, CALLS = 300, 65
TOKENS_PER_MINUTE, TOKENS_USED = 60_000, 9_500
AT_ONCE = 4
RETRY_AFTER_S = 3


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    names = ("per-minute", "tokens", "at-once", "asks-for-a-pause", "limits-other")
    services = {name: server.service(name) for name in names}
    tables = configuration(
        list(services.values()),
        routes={name: [service] for name, service in services.items()}
        | {"paused-or-other": [services["asks-for-a-pause"], services["limits-other"]]},
        budgets={"acme": {"cap_usd": {"total": "100"}}},
        only={
            "per-minute": {"requests_per_minute": REQUESTS_PER_MINUTE},
            "tokens": {"tokens_per_minute": TOKENS_PER_MINUTE},
            "at-once": {"max_concurrent": AT_ONCE},
        },
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables, workers=2) as site:
        yield site


def ask(route: str, number: int = 0) -> LLMRequest:
    return LLMRequest(route=route, budget="acme/writer", prompt=f"question {number:04}", call_id=f"{route}-{number}")


def most_within(times_s: Sequence[float], rate: float) -> float:
    """The largest excess of any interval over what drains in it: so large the burst must have been."""
    times = sorted(times_s)
    return max(
        later - first + 1 - rate * (times[later] - times[first])
        for first in range(len(times))
        for later in range(first, len(times))
    )


async def test_no_interval_sees_more_requests_than_the_burst_and_what_drains(
    site: Site, server: CountingServer
) -> None:
    """65 at once against 300 a minute: 30 at once and then 4.5 a second, so that no 60 seconds ever see more than 300.

    Exact at the ledger's own times; at the service with what two seconds on the way can bunch up.
    """
    service = server.service("per-minute")
    rate, burst = 0.9 * REQUESTS_PER_MINUTE / 60, 0.1 * REQUESTS_PER_MINUTE
    calls = await asyncio.gather(*(start(site.client, ask("per-minute", number)) for number in range(CALLS)))
    results = await results_of(calls)
    assert {result.outcome for result in results} == {Outcome.COMPLETED}
    await settled_books(site, service)

    async with site.engine.connect() as connection:
        query = text("SELECT extract(epoch FROM granted_at)::float8 FROM usage_entries WHERE service = 'per-minute'")
        granted = (await connection.execute(query)).scalars().all()
    assert len(granted) == CALLS
    assert burst - 3 < most_within(granted, rate) <= burst + 0.01
    received = [request.at_s for request in service.requests]
    assert most_within(received, rate) <= burst + 2 * rate
    took = max(received) - min(received)
    print(f"{CALLS} requests in {took:.1f} s; {(CALLS - burst) / rate:.1f} s is the least that the limit allows")
    assert took < (CALLS - burst) / rate + 5, "calls wait longer than the limit asks for"


async def test_never_more_calls_at_once_than_allowed_and_never_fewer_when_calls_wait(
    site: Site, server: CountingServer
) -> None:
    """20 at once against 4: the fifth waits until one of the four has ended, with two worker processes."""
    service = server.service("at-once")
    service.hold()
    calls = await asyncio.gather(*(start(site.client, ask("at-once", number)) for number in range(20)))
    for served in range(0, 20, AT_ONCE):
        parked = 20 - served - AT_ONCE

        async def so_many(parked: int = parked) -> bool:
            return (service.held, (await site.ledger.status()).parked) == (AT_ONCE, parked)

        await until(so_many, f"{AT_ONCE} are in flight and {parked} are parked")
        service.release(AT_ONCE)
    service.release()
    await results_of(calls)
    assert service.in_flight_max == AT_ONCE
    await settled_books(site, service)


async def test_tokens_over_the_estimate_are_paid_back_by_the_next_calls(site: Site, server: CountingServer) -> None:
    """One call uses 9,500 tokens where some 2,400 were estimated: the next one waits until the debt has drained."""
    service = server.service("tokens")
    long_one, next_one = (  # so long that it could have used them: what no attempt can use makes no debt
        ask("tokens", number).model_copy(update={"prompt": "tides " * 1_500}) for number in (1, 2)
    )
    estimate = input_bytes(long_one) // 4 + 100
    service.usage = lambda request: TokenUsage(input_tokens=TOKENS_USED if request.number == 1 else 10, output_tokens=5)
    first = await generate(site.client, long_one)
    second = await generate(site.client, next_one)
    (before,), (after,) = [await entries_of_call(site.engine, result.call_id) for result in (first, second)]
    assert before.started_at_ms is not None
    assert before.duration_ms is not None
    burst, per_s = TOKENS_PER_MINUTE // 10, 0.9 * TOKENS_PER_MINUTE / 60
    debt_s = (TOKENS_USED + 5 + estimate - burst) / per_s
    waited_s = (after.granted_at_ms - before.started_at_ms - before.duration_ms) / 1_000
    print(f"granted {waited_s:.2f} s after the answer; the debt drains in {debt_s:.2f} s")
    # Up to the estimate can drain before the settlement.
    assert debt_s - estimate / per_s - 0.05 <= waited_s < debt_s + 3
    assert second.waited_ms > 1_000
    third = await generate(site.client, ask("tokens", 3))
    assert third.waited_ms == 0, "what the second one did not use was not given back"
    await settled_books(site)


async def test_a_429_pauses_its_service_for_all_other_calls_too(site: Site, server: CountingServer) -> None:
    """With Retry-After: meanwhile one call falls back at once, another one is parked, and nothing is sent."""
    service, other = server.service("asks-for-a-pause"), server.service("limits-other")
    service.script.append(Reply(429, headers={"retry-after": str(RETRY_AFTER_S)}))
    first = await start(site.client, ask("asks-for-a-pause", 1))

    async def paused() -> bool:
        return (await site.service_status("asks-for-a-pause")).paused_until_ms is not None

    await until(paused, "the ledger knows of the pause")
    second = await start(site.client, ask("asks-for-a-pause", 2))
    elsewhere = await generate(site.client, ask("paused-or-other"))
    assert (elsewhere.service, elsewhere.waited_ms, other.count) == ("limits-other", 0, 1)
    assert service.count == 1, "something was sent during the pause"
    results = await results_of([first, second])
    assert [result.outcome for result in results] == [Outcome.COMPLETED] * 2
    assert [result.attempts for result in results] == [2, 1]
    assert results[1].waited_ms > 0
    times = [request.at_s for request in service.requests]
    assert times[1] - times[0] >= RETRY_AFTER_S - 0.1
    assert times[2] - times[0] >= RETRY_AFTER_S - 0.1
    await settled_books(site, service, other)
