"""Services that share the load of a route, and the candidates of a route for when the money is short."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from counting_server import CountingServer, Reply
from paymaster_process import MODEL, Databases, Site, configuration, results_of, running_site, settled_books, until
from sqlalchemy import select
from stored_rows import entries_of_call

from paymaster import LLMRequest, Outcome
from paymaster.client import generate, start
from paymaster.devstack import EmbeddedStack
from paymaster.providers.bounds import input_bytes
from paymaster.storage.usage_rows import usage_table
from paymaster.values.money import TokenUsage, nanos_to_usd

pytestmark = pytest.mark.timeout(120)
CALLS = 200
FEW, MANY, PER_MINUTE = 20, 40, 300
BURST, PER_S = PER_MINUTE / 10, 0.9 * PER_MINUTE / 60
LIMITED = ("few-places", "many-places", "per-minute")
WELL = ("well-1", "well-2")


def ask(route: str, number: int, budget: str = "acme/writer") -> LLMRequest:
    return LLMRequest(route=route, budget=budget, prompt=f"question {number:04}", call_id=f"{route}-{number}")


BOUND_NANOS = (input_bytes(ask("thrifty", 0, "thrifty")) + 1_024) * 1_000 + 100 * 4_000


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    ill = ("fails", "asks-for-a-pause")
    services = {f"pools-{name}": server.service(f"pools-{name}") for name in (*LIMITED, *WELL, *ill, "large", "small")}

    def named(*names: str) -> list[str]:
        return [f"pools-{name}/{MODEL}" for name in names]

    tables = configuration(
        list(services.values()),
        budgets={
            "acme": {"cap_usd": {"total": "100"}},
            "thrifty": {"cap_usd": {"total": str(nanos_to_usd(4 * BOUND_NANOS))}},
        },
        only={
            "pools-few-places": {"max_concurrent": FEW},
            "pools-many-places": {"max_concurrent": MANY},
            "pools-per-minute": {"requests_per_minute": PER_MINUTE},
            "pools-fails": {"breaker": {"failures": 1, "cooldown": "5m"}, "retry": {"maximum_attempts": 1}},
        },
    )
    tables["routes"] = {
        "limited": [named(*LIMITED)],
        **{name: named(name) for name in ill},
        **{f"with-{name}": [named(name, *WELL)] for name in ill},
        "thrifty": {"candidates": named("large"), "when_short": {"below": 0.5, "candidates": named("small")}},
    }
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables, workers=2) as site:
        yield site


async def granted_at_ms(site: Site) -> dict[str, list[int]]:
    """By service, when its calls were granted."""
    times: defaultdict[str, list[int]] = defaultdict(list)
    async with site.engine.connect() as connection:
        for row in await connection.execute(select(usage_table.c.service, usage_table.c.granted_at)):
            times[row.service].append(round(row.granted_at.timestamp() * 1_000))
    return {service: sorted(each) for service, each in times.items()}


def levels_of(times_ms: Sequence[int]) -> list[float]:
    """How much of the burst is used after each of the grants, while what was used drains at nine tenths of the rate."""
    levels: list[float] = []
    level, before_ms = 0.0, times_ms[0]
    for at_ms in times_ms:
        level = max(0.0, level - PER_S * (at_ms - before_ms) / 1_000) + 1
        before_ms = at_ms
        levels.append(level)
    return levels


async def test_every_limit_is_used_before_a_call_waits(site: Site, server: CountingServer) -> None:
    """200 calls at once for two that have places and one with a rate, none of which answers: when the first one waits,
    each limit is used to 95 % at least, and none is ever passed."""
    services = {name: server.service(f"pools-{name}") for name in LIMITED}
    for service in services.values():
        service.hold()
    calls = [asyncio.create_task(start(site.client, ask("limited", number))) for number in range(CALLS)]
    parked: set[int] = set()

    async def some_wait_and_all_came() -> bool:
        status = await site.ledger.status()
        parked.update(call.parked_at_ms for call in status.waiting)
        return all(call.done() for call in calls) and status.parked + status.holds == CALLS and len(parked) > 0

    await until(some_wait_and_all_came, "all have asked, and some are parked", 60)
    for service in services.values():
        service.release()
    results = await results_of(await asyncio.gather(*calls), 60)
    assert {result.outcome for result in results} == {Outcome.COMPLETED}
    assert any(result.waited_ms > 0 for result in results)
    times = await granted_at_ms(site)
    before = {name: [at for at in times[f"pools-{name}"] if at <= min(parked)] for name in LIMITED}
    assert (len(before["few-places"]), len(before["many-places"])) == (FEW, MANY)
    levels = levels_of(before["per-minute"])
    used = levels[-1] - PER_S * (min(parked) - before["per-minute"][-1]) / 1_000
    print(f"when the first call waited, {used:.1f} of the burst of {BURST:.0f} requests were used")
    assert used >= 0.95 * BURST
    assert max(levels_of(times["pools-per-minute"])) <= BURST + 0.01
    assert services["few-places"].in_flight_max == FEW
    assert services["many-places"].in_flight_max == MANY
    await settled_books(site)


@pytest.mark.parametrize("how", ["fails", "asks-for-a-pause"])
async def test_one_that_fails_is_left_out_at_once(site: Site, server: CountingServer, how: str) -> None:
    ill, well = server.service(f"pools-{how}"), [server.service(f"pools-{name}") for name in WELL]
    before = [service.count for service in well]
    ill.reply = lambda request: Reply(503) if how == "fails" else Reply(429, headers={"retry-after": "3000"})
    first = await start(site.client, ask(how, 0).model_copy(update={"on_exhausted": "fail"}))

    async def is_shut() -> bool:
        status = await site.service_status(f"pools-{how}")
        return status.breaker == "open" or status.paused_until_ms is not None

    await until(is_shut, f"{how} gets no more calls", 20)
    asked = ill.count
    calls = await asyncio.gather(*(start(site.client, ask(f"with-{how}", number)) for number in range(30)))
    results = await results_of(calls)
    assert {result.outcome for result in results} == {Outcome.COMPLETED}
    assert not any(result.fell_back or result.waited_ms for result in results)
    assert ill.count == asked
    shares = [service.count - count for service, count in zip(well, before, strict=True)]
    assert sum(shares) == 30
    assert min(shares) >= 5, "those that are well share the load"
    await first.cancel()


async def test_a_cheaper_one_is_asked_when_money_gets_short(site: Site, server: CountingServer) -> None:
    """Of a cap of four bounds less than half is unspent after three calls of nearly a bound each."""
    large, small = server.service("pools-large"), server.service("pools-small")
    large.usage = lambda request: TokenUsage(input_tokens=BOUND_NANOS // 1_000 - 500, output_tokens=100)
    results = [await generate(site.client, ask("thrifty", number, "thrifty")) for number in range(4)]
    assert [(result.service, result.money_short) for result in results] == [
        *[("pools-large", False)] * 3,
        ("pools-small", True),
    ]
    assert not any(result.fell_back for result in results)
    assert (large.count, small.count) == (3, 1)
    [entry] = await entries_of_call(site.engine, results[-1].call_id)
    assert entry.service == "pools-small"
