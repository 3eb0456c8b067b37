"""Many calls at once on four budgets below one, three worker processes, failures at random, caps raised meanwhile."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest
from counting_server import ANSWER, CountingServer, FakeService, Received, Reply
from paymaster_process import (
    Site,
    caps_watched,
    configuration,
    results_of,
    running_site,
    settled_books,
    until,
)

from paymaster import LLMRequest, LLMResult, Outcome
from paymaster.client import start
from paymaster.devstack import EmbeddedStack
from paymaster.messages import RaiseCap
from paymaster.providers.bounds import input_bytes
from paymaster.values.money import TokenUsage, nanos_to_usd

pytestmark = pytest.mark.timeout(200)
TEAMS = 4


def ask(number: int) -> LLMRequest:
    request = {
        "route": "shared",
        "budget": f"acme/team-{number % TEAMS}/writer",
        "prompt": f"question {number:04}",
        "max_output_tokens": 100,
        "priority": number % 3,
        "on_exhausted": "wait",
    }
    return LLMRequest.model_validate(request)


BOUND_NANOS = (input_bytes(ask(0)) + 1_024) * 1_000 + 100 * 4_000


def usd(bounds: int) -> str:
    return str(nanos_to_usd(bounds * BOUND_NANOS))


def at_random(request: Received) -> Reply:
    """A quarter of the requests fails: unbilled, or so that nobody knows. The same ones every time."""
    draw = random.Random(f"{request.prompt} {request.number % 5}").random()
    if draw < 0.08:
        return Reply(500)
    if draw < 0.16:
        return Reply(429)
    if draw < 0.20:
        return Reply(cut=True)
    return Reply(502) if draw < 0.25 else ANSWER


def some_of_the_bound(request: Received) -> TokenUsage:
    draw = random.Random(request.prompt)
    return TokenUsage(input_tokens=draw.randint(200, 1_100), output_tokens=draw.randint(10, 100))


@pytest.fixture(params=[pytest.param("usual", marks=pytest.mark.full), "cut"])
async def temporal_address(request: pytest.FixtureRequest, stack: EmbeddedStack) -> AsyncIterator[str]:
    """The session's server, and one that suggests continue-as-new after every 50 events."""
    if request.param == "usual":
        yield stack.temporal_address
        return
    limits = {"limit.historyCount.suggestContinueAsNew": 50}
    async with EmbeddedStack(postgres=False, model=False, headless=True, dynamic_config=limits) as forgetful:
        yield forgetful.temporal_address


@pytest.fixture
def services(server: CountingServer, request: pytest.FixtureRequest) -> list[FakeService]:
    """Two, of which the first one fails at random."""
    kind = "-".join(str(value) for value in request.node.callspec.params.values())
    first, second = server.service(f"shared-first-{kind}"), server.service(f"shared-second-{kind}")
    first.reply = at_random
    first.usage = second.usage = some_of_the_bound
    return [first, second]


def fits(room: Mapping[str, int], budget: str) -> bool:
    """Whether a bound fits into what the budget and its ancestors have left."""
    segments = budget.split("/")
    paths = ["/".join(segments[:depth]) for depth in range(1, len(segments) + 1)]
    return all(room.get(f"budget:{path}", BOUND_NANOS) >= BOUND_NANOS for path in paths)


@pytest.mark.parametrize("count", [80, pytest.param(200, marks=pytest.mark.full)])
async def test_no_cap_is_ever_passed_and_no_call_is_left_parked_that_would_fit(
    temporal_address: str, database_url: str, services: list[FakeService], tmp_path: Path, count: int
) -> None:
    """Caps are raised twice: each time calls go on until no other one fits; in the end all complete.

    At first there is money for three tenths of the calls in the budget above, and for one in each of the four.
    """
    shared, each = usd(count * 3 // 10), usd(count // 10)
    tables = configuration(
        services,
        routes={"shared": services},
        budgets={"acme": {"cap_usd": {"total": shared}}}
        | {f"acme/team-{n}": {"cap_usd": {"total": each, "month": each}} for n in range(TEAMS)},
        service={"breaker": {"failures": 1_000, "cooldown": "1s"}, "max_unconfirmed": 1},
    )
    async with running_site(temporal_address, database_url, tmp_path, tables, workers=3) as site, caps_watched(site):
        calls = await asyncio.gather(*(start(site.client, ask(number)) for number in range(count)))
        ended = [asyncio.create_task(call.result()) for call in calls]

        await until_nothing_moves(site, ended)
        raised = RaiseCap(account="budget:acme", window="total", by=usd(count * 3 // 20), reason="more")
        await site.ledger.raise_cap(raised)
        await until_nothing_moves(site, ended)
        before = sum(end.done() for end in ended)
        for n in range(TEAMS):
            for window in ("month", "total"):
                change = RaiseCap.model_validate(
                    {"account": f"budget:acme/team-{n}", "window": window, "by": usd(count)}
                )
                await site.ledger.signal_raise_cap(change)
        await until(lambda: sum(end.done() for end in ended) > before, "calls go on")
        await site.ledger.raise_cap(raised.model_copy(update={"by": usd(2 * count)}))
        results = await results_of(calls, 90)
        await asyncio.gather(*ended)

        assert Counter(result.outcome for result in results) == {Outcome.COMPLETED: count}
        status = await settled_books(site, *services)
        assert status.unconfirmed > 0, "nothing failed, so this proves less"
        print(f"{count} calls, {sum(r.attempts for r in results)} attempts, {status.unconfirmed} unconfirmed")


async def until_nothing_moves(site: Site, ended: Sequence["asyncio.Task[LLMResult]"]) -> None:
    """Waits until everybody who is left is parked for money, and checks that it would not have been enough for them."""

    async def all_parked() -> bool:
        status = await site.ledger.status()
        left = sum(not end.done() for end in ended)
        return status.holds == status.outbox == 0 and status.parked == left > 0

    await until(all_parked, "whoever is left is parked", 60)
    status = await site.ledger.status()
    room = {
        account.account: min(
            window.cap_nanos - window.posted_nanos - window.pending_nanos
            for window in account.windows
            if window.cap_nanos is not None
        )
        for account in status.accounts
        if account.account.startswith("budget:")
    }
    assert [call.budget for call in status.waiting if fits(room, call.budget)] == []
