"""docs/temporal-plugins.md: its programs run as they are written there."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from counting_server import CountingServer, Reply
from page_snippets import snippets
from paymaster_process import Databases, configuration, running_site, settled_books
from plugin_agents import ANSWER, completion, response
from temporalio.client import Client

from paymaster.devstack import EmbeddedStack

pytestmark = pytest.mark.timeout(60)
APIS = {"poet": "openai-responses", "critic": "openai"}


@pytest.mark.parametrize("name", APIS)
async def test_a_program_of_the_page(
    stack: EmbeddedStack,
    databases: Databases,
    server: CountingServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    program = snippets("temporal-plugins.md")[f"{name}.py"]
    (tmp_path / f"page_{name}.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    page: Any = importlib.import_module(f"page_{name}")
    service = server.service(f"page-{name}")
    service.reply = lambda request: Reply(body=response() if name == "poet" else completion())
    tables = configuration(
        [service],
        routes={"writer": [service]},
        budgets={"acme/content": {"cap_usd": {"total": "1"}}},
        service={"api": APIS[name]},
    )
    async with running_site(stack.temporal_address, await databases.create(), tmp_path, tables) as site:
        real = Client.connect

        async def connect(address: str, **options: Any) -> Client:
            assert address == "localhost:7233"
            return await real(site.temporal_address, namespace=site.namespace, **options)

        monkeypatch.setattr(page.Client, "connect", connect)
        assert await page.main() == ANSWER
        assert service.count == 1
        history = await site.client.get_workflow_handle(name).fetch_history()
        assert not any(event.HasField("activity_task_scheduled_event_attributes") for event in history.events)
        await settled_books(site)
