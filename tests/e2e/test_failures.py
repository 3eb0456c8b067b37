"""What a failing service does to a call: retried, passed over or given up, and each attempt booked for what it cost.

These tell single stories; the table of all faults is in test_faults.py.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from counting_server import ANSWER, CountingServer, Reply
from paymaster_process import Databases, Site, configuration, running_site, settled_books, until
from stored_rows import entries_of_call

from paymaster import LLMRequest, LLMResult, Outcome
from paymaster.client import generate, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.errors import CallUnavailable
from paymaster.messages import UsageEntry

pytestmark = pytest.mark.timeout(60)
ROUTES = ("throttled", "away", "wrong", "gateway", "forbidden", "cut", "slow", "hopeless")
ANSWER_NANOS = 12 * 1_000 + 5 * 4_000  # the server's usual usage at its usual price
Row = tuple[str, str, str, str | None, int | None, int]


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    """Each test has a route of its own, with a first and a second service."""
    routes = {name: [server.service(f"{name}-1"), server.service(f"{name}-2")] for name in ROUTES}
    services = [service for pair in routes.values() for service in pair]
    tables: dict[str, Any] = configuration(services, routes=routes, budgets={"acme": {"cap_usd": {"total": "1"}}})
    tables["services"]["slow-1"]["timeout"] = "500ms"
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


def ask(route: str) -> LLMRequest:
    return LLMRequest(route=route, budget="acme/writer", prompt="Say hello", max_output_tokens=50)


class Story:
    """A call on a route, with what its two services got and what was booked for it."""

    def __init__(self, site: Site, server: CountingServer, route: str) -> None:
        self.site = site
        self.first, self.second = (server.service(f"{route}-{n}") for n in (1, 2))
        self.route = route

    async def run(self, first: Sequence[Reply], second: Sequence[Reply] = ()) -> LLMResult:
        """Asks; the two services answer by their scripts and after that normally. The books must agree."""
        self.first.script.extend(first)
        self.second.script.extend(second)
        self._before = self.counts()
        async with asyncio.timeout(30):
            self.result = await try_generate(self.site.client, ask(self.route))
        assert not self.first.script
        assert not self.second.script
        self.entries = await entries_of_call(self.site.engine, self.result.call_id)
        self.run_id = self.entries[0].run_id
        self.bound_nanos = self.site.bound_nanos(self.first, ask(self.route))
        await settled_books(self.site, self.first, self.second)
        assert sum(entry.cost_nanos for entry in self.entries) == self.result.cost_nanos
        assert self.result.attempts == len(self.entries)
        return self.result

    def counts(self) -> tuple[int, int]:
        return self.first.count, self.second.count

    def sent(self) -> tuple[int, int]:
        """Requests to the first and to the second service."""
        return self.first.count - self._before[0], self.second.count - self._before[1]

    def rows(self) -> list[Row]:
        """What is stored, in the order of sending; attempt ids without the run id."""
        assert all(entry.hold_id == entry.attempt_id.rpartition("/")[0] for entry in self.entries)
        return [self._row(entry) for entry in self.entries]

    def _row(self, entry: UsageEntry) -> Row:
        run_id, _, attempt = entry.attempt_id.partition("/")
        assert run_id == self.run_id
        service = entry.service.rpartition("-")[2]
        return (attempt, service, entry.state, entry.error_class, entry.http_status, entry.cost_nanos)


async def test_a_429_is_retried_under_the_same_hold_after_the_time_that_the_service_asked_for(
    site: Site, server: CountingServer
) -> None:
    """One hold, two attempts, two rows; the first cost nothing."""
    story = Story(site, server, "throttled")
    result = await story.run([Reply(429, headers={"retry-after": "2.5"})])
    assert (result.outcome, result.fell_back) == (Outcome.COMPLETED, False)
    assert story.sent() == (2, 0)
    assert story.rows() == [
        ("1/1", "1", "final", "rate_limited", 429, 0),
        ("1/2", "1", "final", None, 200, ANSWER_NANOS),
    ]
    first, second = story.first.requests
    assert second.at_s - first.at_s >= 2.5, "the service asked for more patience"
    assert [entry.status for entry in story.entries] == ["failed", "completed"]
    assert [entry.provider_request_id for entry in story.entries] == ["throttled-1-1", "throttled-1-2"]


async def test_a_service_that_asks_for_days_is_left_alone(site: Site, server: CountingServer) -> None:
    """It says until when, in seconds since the epoch: the call goes on elsewhere, somebody is told, and later calls
    send nothing there, however often they come."""
    story = Story(site, server, "away")
    until_s = int(time.time()) + 2 * 86_400
    result = await story.run([Reply(429, headers={"retry-after": str(until_s)})])
    assert (result.outcome, result.fell_back) == (Outcome.COMPLETED, True)
    assert story.rows() == [
        ("1/1", "1", "final", "quota_exhausted", 429, 0),
        ("2/1", "2", "final", None, 200, ANSWER_NANOS),
    ]
    status = await site.service_status(story.first.name)
    assert status.paused_until_ms is not None
    assert abs(status.paused_until_ms - until_s * 1_000) < 60_000
    assert status.breaker == "closed"
    for _ in range(3):
        result = await story.run([])
        assert (story.sent(), result.attempts, result.waited_ms) == ((0, 1), 1, 0)
    await until(lambda: site.alerts("service_refuses"), "the alert is stored")
    (alert,) = await site.alerts("service_refuses")
    assert "paymaster services resume away-1" in alert["text"]


async def test_what_one_service_refuses_is_asked_of_the_next(site: Site, server: CountingServer) -> None:
    """400 is never retried and costs nothing. When all refuse, the outcome has the last one's reason."""
    story = Story(site, server, "wrong")
    result = await story.run([Reply(400, message="temperature must be 1 for this model")])
    assert (result.outcome, result.fell_back) == (Outcome.COMPLETED, True)
    assert story.sent() == (1, 1)
    refused = ("1/1", "1", "final", "invalid_request", 400, 0)
    assert story.rows() == [refused, ("2/1", "2", "final", None, 200, ANSWER_NANOS)]

    wrong = Reply(400, message="temperature is above 2")
    result = await story.run([wrong], [wrong])
    assert result.outcome is Outcome.UNAVAILABLE
    assert (result.reason, result.cost_nanos) == ("invalid_request", 0)
    assert "temperature is above 2" in str(result.detail)
    assert story.rows() == [refused, ("2/1", "2", "final", "invalid_request", 400, 0)]

    for service in (story.first, story.second):
        service.script.append(Reply(400))
    with pytest.raises(CallUnavailable) as unavailable:
        await generate(site.client, ask("wrong"))
    assert unavailable.value.result.reason == "invalid_request"


async def test_the_name_of_the_cap_is_learnt_from_a_refusal(site: Site, server: CountingServer) -> None:
    """A gateway has a model that wants the newer name: this attempt is repeated with it, and later ones begin so."""
    story = Story(site, server, "gateway")
    refusal = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    )
    result = await story.run([Reply(400, message=refusal)])
    assert (result.outcome, result.fell_back) == (Outcome.COMPLETED, False)
    assert story.rows() == [
        ("1/1", "1", "final", "invalid_request", 400, 0),
        ("1/2", "1", "final", None, 200, ANSWER_NANOS),
    ]
    await story.run([])
    names = [name for request in story.first.requests for name in request.body if name.startswith("max_")]
    assert names == ["max_tokens", "max_completion_tokens", "max_completion_tokens"]

    result = await story.run([Reply(400, message="Unrecognized request argument supplied: max_completion_tokens")])
    assert (result.outcome, result.fell_back) == (Outcome.COMPLETED, True), "it is not asked back and forth"


async def test_a_refused_key_sends_the_call_to_the_next_service(site: Site, server: CountingServer) -> None:
    """401 is not retried: the key does not get better by itself."""
    story = Story(site, server, "forbidden")
    result = await story.run([Reply(401)])
    assert (result.outcome, result.fell_back, result.service) == (Outcome.COMPLETED, True, "forbidden-2")
    assert story.sent() == (1, 1)
    assert story.rows() == [("1/1", "1", "final", "auth", 401, 0), ("2/1", "2", "final", None, 200, ANSWER_NANOS)]


async def test_a_cut_connection_is_charged_at_its_bound_and_tried_once_more_under_a_new_hold(
    site: Site, server: CountingServer
) -> None:
    """Nobody knows whether it was billed: the bound stays charged. Once more (max_unconfirmed), then the next one."""
    unconfirmed = (await site.ledger.status()).unconfirmed
    story = Story(site, server, "cut")

    result = await story.run([Reply(cut=True), ANSWER])
    assert (result.outcome, result.fell_back) == (Outcome.COMPLETED, False)
    assert story.sent() == (2, 0)
    assert story.rows() == [
        ("1/1", "1", "unconfirmed", "connection_lost", None, story.bound_nanos),
        ("2/1", "1", "final", None, 200, ANSWER_NANOS),
    ]

    result = await story.run([Reply(cut=True), Reply(cut=True)])
    assert (result.outcome, result.fell_back, result.service) == (Outcome.COMPLETED, True, "cut-2")
    assert story.sent() == (2, 1)
    assert story.rows() == [
        ("1/1", "1", "unconfirmed", "connection_lost", None, story.bound_nanos),
        ("2/1", "1", "unconfirmed", "connection_lost", None, story.bound_nanos),
        ("3/1", "2", "final", None, 200, ANSWER_NANOS),
    ]
    assert result.cost_nanos == 2 * story.bound_nanos + ANSWER_NANOS
    assert [entry.status for entry in story.entries] == ["unknown", "unknown", "completed"]
    assert (await site.ledger.status()).unconfirmed == unconfirmed + 3


async def test_a_service_that_does_not_answer_in_time_is_charged_at_its_bound(
    site: Site, server: CountingServer
) -> None:
    """A read timeout is as unknown as a cut connection, and never retried under the same hold."""
    story = Story(site, server, "slow")
    story.first.hold()
    result = await story.run([])
    story.first.release()
    assert (result.outcome, result.service) == (Outcome.COMPLETED, "slow-2")
    assert story.rows() == [
        ("1/1", "1", "unconfirmed", "timeout", None, story.bound_nanos),
        ("2/1", "1", "unconfirmed", "timeout", None, story.bound_nanos),
        ("3/1", "2", "final", None, 200, ANSWER_NANOS),
    ]


async def test_when_every_service_fails_the_agent_gets_a_typed_outcome(site: Site, server: CountingServer) -> None:
    """`unavailable` with the last service's reason, what was spent, and nothing left on hold."""
    story = Story(site, server, "hopeless")
    result = await story.run([Reply(403)], [Reply(503, body=b"<html>")] * 2)  # no provider's own error body: unknown
    assert (result.outcome, result.reason) == (Outcome.UNAVAILABLE, "server_error")
    assert result.cost_nanos == 2 * story.bound_nanos
    assert story.rows() == [
        ("1/1", "1", "final", "auth", 403, 0),
        ("2/1", "2", "unconfirmed", "server_error", 503, story.bound_nanos),
        ("3/1", "2", "unconfirmed", "server_error", 503, story.bound_nanos),
    ]
