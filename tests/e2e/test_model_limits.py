"""A 429 that names a limit of the model's own: the next model of the same service is asked at once."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from counting_server import CountingServer, FakeService, Received, Reply
from paymaster_process import MODEL, Databases, Site, configuration, running_site, settled_books
from stored_rows import entries_of_call

from paymaster import LLMRequest, Outcome
from paymaster.client import generate, try_generate
from paymaster.devstack import EmbeddedStack

pytestmark = pytest.mark.timeout(60)
OTHER = "the-other-model"


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    return server.service("one")


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, service: FakeService, module_folder: Path
) -> AsyncIterator[Site]:
    tables: dict[str, Any] = configuration([service], budgets={"acme": {"cap_usd": {"total": "1"}}})
    models = tables["services"]["one"]["models"]
    models[OTHER] = models[MODEL]
    tables["routes"] = {"both": [f"one/{MODEL}", f"one/{OTHER}"], "one": [f"one/{MODEL}"]}
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


def ask(route: str) -> LLMRequest:
    return LLMRequest(route=route, budget="acme/writer", prompt="Say hello", max_output_tokens=50)


def model_of(request: Received) -> str:
    return request.body["model"]


async def test_another_model_answers_and_who_has_none_waits(site: Site, service: FakeService) -> None:
    """Both while the first model is paused: it is asked again only when its wait is over, under a new hold."""
    limit = Reply(429, headers={"retry-after": "4"}, message=f"Rate limit reached for {MODEL} on tokens per min (TPM)")
    service.script.append(limit)
    result = await generate(site.client, ask("both"))
    assert (result.outcome, result.fell_back) == (Outcome.COMPLETED, True)
    refused, answered = service.requests
    assert [model_of(refused), model_of(answered)] == [MODEL, OTHER]
    assert answered.at_s - refused.at_s < 3
    rows = [
        (row.attempt_id.partition("/")[2], row.error_class)
        for row in await entries_of_call(site.engine, result.call_id)
    ]
    assert rows == [("1/1", "rate_limited"), ("2/1", None)]

    alone = await generate(site.client, ask("one"))
    assert (alone.outcome, alone.fell_back, alone.attempts) == (Outcome.COMPLETED, False, 1)
    assert model_of(service.requests[-1]) == MODEL
    assert service.requests[-1].at_s - refused.at_s >= 4
    await settled_books(site, service)


async def test_a_limit_that_is_reached_again_and_again_ends_the_call(site: Site, service: FakeService) -> None:
    """After as many attempts as the service may get; none of them cost anything."""
    limit = Reply(429, headers={"retry-after": "0.2"}, message=f"Rate limit reached for {MODEL}")
    service.script.extend([limit] * 3)
    before = service.count
    result = await try_generate(site.client, ask("one"))
    assert (result.outcome, result.reason) == (Outcome.UNAVAILABLE, "rate_limited")
    assert service.count - before == result.attempts == 3
    assert result.cost_nanos == 0
