"""A team with a repository of its own installs the wheel and asks from its own agent workflow."""

import json
import zipfile
from pathlib import Path

import pytest
from counting_server import CountingServer
from paymaster_process import configuration, running_site, settled_books
from wheel import build_wheel, install, run

from paymaster.devstack import EmbeddedStack

pytestmark = pytest.mark.timeout(120)

THEIR_WORKFLOW = '''
"""Their package is called `workflows`, as ours is."""

from temporalio import workflow

from paymaster import LLMRequest, generate


@workflow.defn
class HaikuAgent:
    @workflow.run
    async def run(self, topic: str) -> dict[str, object]:
        answer = await generate(LLMRequest(route="writer", budget="acme/haiku", prompt=f"A haiku about {topic}"))
        return {"text": answer.text, "cost": str(answer.cost_usd)}
'''

THEIR_PROGRAM = """
import asyncio
import gc
import json

from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.worker import Worker

import paymaster
import workflows.haiku
from paymaster.plugin import PaymasterPlugin


async def main() -> None:
    client = await Client.connect(**ClientConfig.load_client_connect_config(), plugins=[PaymasterPlugin()])
    agent = workflows.haiku.HaikuAgent
    async with Worker(client, task_queue="haikus", workflows=[agent]):
        result = await client.execute_workflow(agent.run, "tides", id="haiku-1", task_queue="haikus")
    print(json.dumps({"result": result, "paymaster": paymaster.__file__, "workflows": workflows.__file__}))


async def leave_cleanly() -> None:
    await main()
    gc.collect()
    await asyncio.sleep(0.1)


asyncio.run(leave_cleanly())
"""


@pytest.fixture
async def their_python(tmp_path: Path) -> Path:
    """Their environment: our wheel, without any extra."""
    wheel = await build_wheel(tmp_path)
    names = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"paymaster"}
    return await install(tmp_path, wheel)


async def test_an_agent_in_another_repository_gets_an_answer(
    stack: EmbeddedStack, database_url: str, server: CountingServer, tmp_path: Path, their_python: Path
) -> None:
    """Their `workflows` package and ours do not meet; their worker needs only the wheel and PaymasterPlugin."""
    service = server.service("haiku")
    service.text = lambda request: "Waves come, waves go out"
    tables = configuration([service], routes={"writer": [service]}, budgets={"acme": {"cap_usd": {"total": "1"}}})
    project = tmp_path / "their-project"
    (project / "workflows").mkdir(parents=True)
    (project / "workflows" / "__init__.py").touch()
    (project / "workflows" / "haiku.py").write_text(THEIR_WORKFLOW)
    (project / "program.py").write_text(THEIR_PROGRAM)
    async with running_site(stack.temporal_address, database_url, tmp_path / "site", tables) as site:
        printed = json.loads(await run([their_python, "program.py"], project, site.environment))
        assert printed["result"] == {"text": "Waves come, waves go out", "cost": "0.000032000"}
        assert Path(printed["paymaster"]).is_relative_to(their_python.parent.parent)
        assert Path(printed["workflows"]).is_relative_to(project)
        assert service.requests[0].prompt == "A haiku about tides"
        await settled_books(site, service)
        assert (await site.balance("budget:acme")).posted_nanos == 32_000
