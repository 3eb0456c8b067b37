"""docs/frameworks.md: each of its agents runs as it is written there, on a worker with Paymaster's sandbox."""

import importlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from counting_server import CountingServer, Reply
from framework_answers import chat, response
from page_snippets import snippets
from paymaster_process import MODEL, PRICE, Databases, Site, configuration, running_site, settled_books
from temporalio.client import Client

from paymaster.devstack import EmbeddedStack

pytestmark = pytest.mark.timeout(90)
LINES_MAX = 25
OSLO = {"city": "Oslo"}
AGENTS = {
    "warm": ("Warm", "writer", [chat(("degrees_in", OSLO)), chat("7 degrees")]),
    "desk": (
        "Desk",
        "answers",
        [response(("transfer_to_hours", {})), response(("opening_hours", {"day": "Sunday"})), response("7 degrees")],
    ),
    "graph": ("Graph", "writer", [chat(("degrees_in", OSLO)), chat("7 degrees")]),
}
"""Module → its workflow, the service that it asks, and what that answers."""


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration(
        [server.service(name) for name in ("writer", "answers")],
        budgets={"acme/content": {"cap_usd": {"total": "1"}}},
        service={"models": {MODEL: {"max_output_tokens": 2_000, "price": PRICE}}},
        only={"answers": {"api": "openai-responses"}},
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


@pytest.fixture(scope="module")
def page(module_folder: Path) -> dict[str, str]:
    """Module → code, importable."""
    found = {file.removesuffix(".py"): code for file, code in snippets("frameworks.md").items()}
    for name, code in found.items():
        (module_folder / f"{name}.py").write_text(code)
    return found


def test_each_example_is_short_and_is_run(page: dict[str, str]) -> None:
    assert page.keys() == {*AGENTS, "run_agent"}
    assert {name: len(code.splitlines()) for name, code in page.items() if len(code.splitlines()) > LINES_MAX} == {}


@pytest.mark.parametrize("module", AGENTS)
async def test_an_agent_of_the_page(
    site: Site,
    page: dict[str, str],
    server: CountingServer,
    module: str,
    module_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert module in page
    monkeypatch.syspath_prepend(module_folder)
    program = importlib.import_module("run_agent")
    client = await Client.connect(site.temporal_address, namespace=site.namespace)

    async def connect(address: str) -> Client:
        assert address == "localhost:7233"
        return client

    monkeypatch.setattr(program.Client, "connect", connect)
    name, service, answers = AGENTS[module]
    answered: list[Reply] = list(answers)
    server.service(service).script.extend(answered)
    agent: Any = getattr(importlib.import_module(module), name)
    assert await program.run_agent(agent, "How warm is Oslo?") == "7 degrees"
    assert not server.service(service).script
    await settled_books(site)
