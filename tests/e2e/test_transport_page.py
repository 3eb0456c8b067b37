"""docs/transport.md: its program runs as it is written there, and its activity pays once."""

import importlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from counting_server import CountingServer, Reply
from page_snippets import snippets
from paymaster_process import Databases, Site, configuration, running_site, settled_books
from sdk_agents import Summarizes
from sdk_answers import GENERATED, RESPONSE
from temporalio.client import Client
from temporalio.worker import Worker

import paymaster
from paymaster.devstack import EmbeddedStack

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration(
        [server.service(name) for name in ("writer", "summaries", "flash")],
        budgets={"acme/content": {"cap_usd": {"total": "1"}}},
        only={"summaries": {"api": "openai-responses"}, "flash": {"api": "gemini"}},
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The page's modules by name."""
    monkeypatch.syspath_prepend(tmp_path)
    found = snippets("transport.md")
    for file, code in found.items():
        (tmp_path / file).write_text(code)
    return {file: importlib.import_module(file.removesuffix(".py")) for file in found}


async def test_the_snippets_of_the_page(
    site: Site, page: dict[str, Any], server: CountingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert page.keys() == {"haiku.py", "summary.py", "tide.py"}
    client = await Client.connect(site.temporal_address, namespace=site.namespace)

    async def connect(address: str) -> Client:
        assert address == "localhost:7233"
        return client

    monkeypatch.setattr(page["haiku.py"].Client, "connect", connect)
    server.service("writer").text = lambda request: f"answer to {request.prompt}"
    assert await page["haiku.py"].main() == "answer to A haiku about tides."

    server.service("summaries").script.append(Reply(body=RESPONSE))
    worker = Worker(
        client,
        task_queue="summaries",
        workflows=[Summarizes],
        activities=[page["summary.py"].summary],
        workflow_runner=paymaster.sandbox(),
    )
    async with worker:
        said = await client.execute_workflow(Summarizes.run, "tides", id="summary", task_queue="summaries")
    assert said == "é"

    async def connected() -> Client:
        return client

    monkeypatch.setattr("paymaster.client.connect", connected)
    server.service("flash").script.append(Reply(body=GENERATED))
    assert await page["tide.py"].tide("tides") == "é"
    await settled_books(site)
