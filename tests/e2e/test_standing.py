"""What is left of a budget, as agents, activities and programs learn it."""

import importlib
import shlex
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from counting_server import CountingServer, FakeService
from page_snippets import snippets
from paymaster_process import Databases, Site, configuration, running_site
from sandboxed_agents import run_and_replay, sandboxed_agents
from standing_agents import Asks, AsksByActivity, Calls, left_in_activity

import paymaster.client
from paymaster import LLMRequest, LLMResult, Outcome, Standing, StandingUnknown
from paymaster.client import try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import DeskStatus
from paymaster.values.money import TokenUsage
from paymaster.values.windows import window_end_ms

pytestmark = pytest.mark.timeout(120)
QUEUE = "standing"
COST_NANOS = 1_000 * 1_000 + 100 * 4_000


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    service = server.service("standing")
    service.usage = lambda request: TokenUsage(input_tokens=1_000, output_tokens=100)
    return service


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, service: FakeService, module_folder: Path
) -> AsyncIterator[Site]:
    budgets: dict[str, dict[str, Any]] = {
        "acme": {"cap_usd": {"month": "5", "total": "3"}},
        "acme/content": {"cap_usd": {"day": "2"}},
        "acme/watched": {"cap_usd": {"day": "0.001"}, "enforce": False},
        "acme/short": {"cap_usd": {"day": "0.0025"}},
        "users/*": {"cap_usd": {"day": "1"}},
    }
    cheap, capped = server.service("cheap"), {"standing": {"cap_usd": {"total": "4"}}}
    tables = configuration(
        [service, cheap], routes={"writer": [service], "cheap": [cheap]}, budgets=budgets, only=capped
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables, workers=1) as site:
        yield site


def request(budget: str = "acme/content", **fields: object) -> LLMRequest:
    asked = {"route": "writer", "budget": budget, "prompt": "How much?", "max_output_tokens": 100, **fields}
    return LLMRequest.model_validate(asked)


def in_the_books(status: DeskStatus, *accounts: str) -> dict[tuple[str, str], tuple[int, int | None]]:
    """What is left of the caps of these accounts, and when their windows end."""
    return {
        (account.account, window.window): (
            window.cap_nanos - window.posted_nanos - window.pending_nanos,
            window.ends_at_ms,
        )
        for account in status.accounts
        for window in account.windows
        if account.account in accounts and window.cap_nanos is not None
    }


def told(standing: Standing) -> dict[tuple[str, str], tuple[int, int | None]]:
    return {(each.account, each.window): (each.left_nanos, each.ends_at_ms) for each in standing.accounts}


async def test_after_a_call_an_agent_has_what_the_books_say(site: Site) -> None:
    """Those that are watched only are not in its way."""
    async with sandboxed_agents(site, QUEUE, [Calls]) as client:
        asked = request("acme/watched").model_dump_json()
        result = LLMResult.model_validate_json(await run_and_replay(client, Calls, asked, queue=QUEUE))
    status = await site.ledger.status()
    assert told(result.standing) == in_the_books(status, "budget:acme", "service:standing")
    assert result.standing.left_nanos == min(left for left, _ in told(result.standing).values())
    assert "budget:acme/watched" in {notice.account for notice in result.budget}


async def test_a_workflow_asks_without_a_plugin_and_replays(site: Site) -> None:
    async with sandboxed_agents(site, QUEUE, [Asks]) as client:
        answer = await run_and_replay(client, Asks, ["acme/content/writer"], queue=QUEUE)
    assert told(Standing.model_validate_json(answer)) == in_the_books(
        await site.ledger.status(), "budget:acme", "budget:acme/content"
    )


async def test_an_activity_asks_by_its_client(site: Site) -> None:
    async with sandboxed_agents(site, QUEUE, [AsksByActivity], [left_in_activity]) as client:
        left = await run_and_replay(client, AsksByActivity, "acme/content", queue=QUEUE)
    assert left == str((await paymaster.client.standing(site.client, "acme/content")).left_usd)


async def test_a_program_asks_for_what_several_budgets_leave(site: Site) -> None:
    """One of them a name that was never used: it is known when its rows are read."""
    standing = await paymaster.client.standing(site.client, ("acme/content", "users/ann"))
    accounts = ("budget:acme", "budget:acme/content", "budget:users/ann")
    assert told(standing) == in_the_books(await site.ledger.status(), *accounts)


async def test_what_nobody_knows_is_an_error_in_words(site: Site) -> None:
    with pytest.raises(StandingUnknown, match="neither nowhere nor an ancestor is configured"):
        await paymaster.client.standing(site.client, "nowhere")
    with pytest.raises(StandingUnknown, match="names 1 to 4 budgets, and this one 0"):
        await paymaster.client.standing(site.client, ())
    async with sandboxed_agents(site, QUEUE, [Asks]) as client:
        assert await run_and_replay(client, Asks, ["acme", "nowhere"], queue=QUEUE) == (
            "neither nowhere nor an ancestor is configured"
        )


async def test_who_is_denied_knows_what_is_in_the_way(site: Site) -> None:
    """And the command that is said to help does."""
    assert (await try_generate(site.client, request("acme/short"))).outcome is Outcome.COMPLETED
    denied = await try_generate(site.client, request("acme/short", on_exhausted="fail"))
    assert denied.reason == "cap_reached"
    [notice] = denied.standing.accounts
    day_ends_at_ms = window_end_ms("day", int(datetime.now(UTC).timestamp() * 1000))
    assert (notice.account, notice.window, notice.ends_at_ms) == ("budget:acme/short", "day", day_ends_at_ms)
    assert notice.posted_nanos == COST_NANOS
    command = (denied.detail or "").partition("`")[2].partition("`")[0]
    done = await site.command(*shlex.split(command)[1:])
    assert done.code == 0, done
    assert (await try_generate(site.client, request("acme/short"))).outcome is Outcome.COMPLETED


async def test_the_agent_of_the_page(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "saving.py").write_text(snippets("budgets.md")["saving.py"])
    monkeypatch.syspath_prepend(tmp_path)
    agent = importlib.import_module("saving").Saving
    async with sandboxed_agents(site, QUEUE, [agent]) as client:
        said = await run_and_replay(client, agent, ["Why?", "And then?"], queue=QUEUE)
    assert said == ["answer to Why?", "answer to And then?"]
