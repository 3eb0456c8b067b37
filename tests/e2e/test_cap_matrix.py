"""A cap is never passed, whatever the calls look like: few or many at once, prompts of a byte to a megabyte, with and
without `max_output_tokens`, one worker process or three. And nobody is refused while money is only on hold."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import CountingServer, Received
from paymaster_process import Databases, Site, caps_watched, configuration, running_site, settled_books

from paymaster import LLMRequest, LLMResult, Outcome
from paymaster.admission.routing import INPUT_OVERHEAD_TOKENS
from paymaster.client import try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.providers.bounds import input_bytes
from paymaster.values.money import TokenUsage, nanos_to_usd

PAID = 20
PROMPT_BYTES_MAX = 1_000_000
OUTPUT_TOKENS = 100
"""Of the model, where the request does not say less."""

SHORT = (60, 30, False)
COMBINATIONS = [SHORT, *((200, at_once, limited) for at_once in (1, 10, 50, 100) for limited in (True, False))]
"""How many calls, so many at once, with or without `max_output_tokens`."""


def requests(calls: int, budget: str, route: str, limited: bool) -> list[LLMRequest]:
    """Sizes are drawn so that each order of magnitude is as likely; the same ones every time."""
    draw = random.Random(f"{budget} {limited}")
    sizes = [1, PROMPT_BYTES_MAX, *(int(PROMPT_BYTES_MAX ** draw.random()) for _ in range(calls - 2))]
    draw.shuffle(sizes)
    output = {"max_output_tokens": OUTPUT_TOKENS // 4} if limited else {}
    usual = {"budget": budget, "route": route, "on_exhausted": "fail", **output}
    return [LLMRequest.model_validate({**usual, "prompt": "x" * size}) for size in sizes]


def up_to_the_bound(request: Received) -> TokenUsage:
    """Between a fifth and all of what the request may use, the same for the same size."""
    size = len(request.prompt)
    output_max = request.body["max_tokens"] if "max_tokens" in request.body else request.body["max_completion_tokens"]
    share = random.Random(size).uniform(0.2, 1)
    return TokenUsage(input_tokens=int((size + INPUT_OVERHEAD_TOKENS) * share), output_tokens=int(output_max * share))


def budget_of(calls: int, at_once: int, limited: bool) -> str:
    return f"acme/{calls}-{at_once}-{'limited' if limited else 'unlimited'}"


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.full), 3])
async def site(
    request: pytest.FixtureRequest, stack: EmbeddedStack, databases: Databases, server: CountingServer,
    module_folder: Path,
) -> AsyncIterator[Site]:  # fmt: skip
    """Each combination has a budget of its own, with money for 20 of its calls, if they were all of the usual size."""
    workers: int = request.param
    service = server.service(f"matrix-{workers}")
    service.usage, service.text = up_to_the_bound, lambda request: f"{len(request.prompt)} bytes"
    folder = module_folder / f"{workers}"
    budgets: dict[str, dict[str, object]] = {"acme": {}}
    for calls, at_once, limited in COMBINATIONS:
        wanted = requests(calls, budget_of(calls, at_once, limited), service.name, limited)
        cap = sum(sorted(bound_nanos(each) for each in wanted)[:: calls // PAID])
        budgets[budget_of(calls, at_once, limited)] = {"cap_usd": {"total": str(nanos_to_usd(cap))}}
    tables = configuration([service], budgets=budgets)
    async with running_site(stack.temporal_address, await databases.create(), folder, tables, workers=workers) as site:
        yield site


def bound_nanos(request: LLMRequest) -> int:
    """By the rule in the design, at $1 and $4 per million tokens."""
    input_max = input_bytes(request) + INPUT_OVERHEAD_TOKENS
    return input_max * 1_000 + (request.max_output_tokens or OUTPUT_TOKENS) * 4_000


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("calls", "at_once", "limited"),
    [pytest.param(*each, marks=() if each == SHORT else pytest.mark.full) for each in COMBINATIONS],
)
async def test_the_cap_holds_and_nobody_is_refused_who_could_have_been_paid(
    site: Site, server: CountingServer, calls: int, at_once: int, limited: bool
) -> None:
    budget = budget_of(calls, at_once, limited)
    service = server.service(next(iter(site.settings.services)))
    sent_before, billed_before = service.count, service.bill_nanos(site.price(service))
    waiting = iter(requests(calls, budget, service.name, limited))
    results: list[tuple[LLMRequest, LLMResult]] = []

    async def ask_on() -> None:
        for request in waiting:
            results.append((request, await try_generate(site.client, request)))

    async with caps_watched(site):
        await asyncio.gather(*(ask_on() for _ in range(at_once)))
    await settled_books(site, service)

    completed = [request for request, result in results if result.outcome is Outcome.COMPLETED]
    denied = [(request, result) for request, result in results if result.outcome is Outcome.DENIED]
    assert len(completed) + len(denied) == calls
    assert service.count - sent_before == len(completed), "a denied call was sent, or one was sent twice"
    balance = await site.balance(f"budget:{budget}")
    assert balance.cap_nanos is not None
    bill = service.bill_nanos(site.price(service)) - billed_before
    # Short of processor, Temporal starts some that no worker gets (docs/performance.md): each stays at its bound.
    lost = sum(hold.posted_nanos for hold in await site.ledger.unconfirmed_holds() if hold.grant.budget == budget)
    assert balance.posted_nanos == bill + lost == sum(result.cost_nanos for _, result in results) <= balance.cap_nanos
    left = balance.cap_nanos - balance.posted_nanos
    for request, result in denied:
        assert result.reason in ("cap_reached", "bound_above_cap")
        assert bound_nanos(request) > left, "a call was denied that still fits when everything has settled"
    print(
        f"{at_once} at once, {budget}: {len(completed)} completed, {len(denied)} denied, "
        f"{nanos_to_usd(bill)} of {nanos_to_usd(balance.cap_nanos)} spent"
    )
