"""Claude Code and Codex, from npm, do a task with one call of a tool each: the gateway is all that they are told."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from counting_server import CountingServer
from gateway_process import KEY, client_table, running_gateway
from judges import JUDGES, Ended, packages, run
from paymaster_process import MODEL, PRICE, Databases, Site, configuration, running_site, settled_books
from scripted_agents import LAST_WORD, of_messages, of_responses

from paymaster.devstack import EmbeddedStack

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]
SERVICES = ("claude-code", "codex-cli", "codex-strict")
TASK = "Write the time of high tide into tides.txt."
TIDES = "06:12"
PROVIDER = """\
model_provider = "paymaster"

[model_providers.paymaster]
name = "Paymaster"
base_url = "{address}/v1"
env_key = "PAYMASTER_KEY"
wire_api = "responses"
"""
BUILT_IN = 'openai_base_url = "{address}/v1"\n'
"""Its own provider, which tries a WebSocket first."""
QUIET_CODEX = """
[analytics]
enabled = false

[features]
plugins = false
"""
QUIET = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL": "1"}


class Agent(NamedTuple):
    """Where it works, what it is started with, and the file that it is told to write."""

    folder: Path
    programs: Path
    file: Path


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration(
        [server.service(name) for name in SERVICES],
        budgets={"acme": {"cap_usd": {"total": "10"}}},
        service={"models": {MODEL: {"max_output_tokens": 32_000, "price": PRICE}}},
        only={
            "claude-code": {"api": "anthropic"},
            "codex-cli": {"api": "openai-responses", "allow": ["tools.web_search"]},
            "codex-strict": {"api": "openai-responses"},
        },
    )
    tables["gateway"] = {"clients": {"tester": client_table(KEY, "acme")}}
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


@pytest.fixture(scope="module")
async def address(site: Site) -> AsyncIterator[str]:
    async with running_gateway(site) as gateway:
        yield gateway.url


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    """In a folder that is its home too."""
    return Agent(tmp_path, packages(JUDGES / "clis") / ".bin", tmp_path / "tides.txt")


async def claude(agent: Agent, address: str) -> Ended:
    environment = {
        "ANTHROPIC_BASE_URL": address,
        "ANTHROPIC_AUTH_TOKEN": KEY,
        "ANTHROPIC_MODEL": "claude-code",
        **QUIET,
    }
    return await run([agent.programs / "claude", "-p", TASK, "--allowedTools", "Write"], agent.folder, environment)


async def codex(agent: Agent, address: str, *options: str, provider: str = PROVIDER) -> Ended:
    table = (
        'model = "codex-cli"\ncheck_for_update_on_startup = false\n' + provider.format(address=address) + QUIET_CODEX
    )
    (agent.folder / "config.toml").write_text(table)
    environment = {"CODEX_HOME": str(agent.folder), "PAYMASTER_KEY": KEY, "CODEX_API_KEY": KEY}
    command = [agent.programs / "node", agent.programs / "codex", "exec", "--skip-git-repo-check"]
    return await run([*command, "--sandbox", "danger-full-access", *options, TASK], agent.folder, environment)


async def test_claude_code_calls_a_tool(address: str, server: CountingServer, agent: Agent) -> None:
    service = server.service("claude-code")
    service.reply = of_messages("Write", {"file_path": str(agent.file), "content": TIDES})
    ended = await claude(agent, address)
    assert (ended.code, ended.output.strip()) == (0, LAST_WORD), ended
    assert agent.file.read_text() == TIDES
    assert service.count == 2
    assert {request.body["model"] for request in service.requests} == {MODEL}


@pytest.mark.parametrize("provider", [PROVIDER, BUILT_IN], ids=["ours", "built in"])
async def test_codex_calls_a_tool(address: str, server: CountingServer, agent: Agent, provider: str) -> None:
    service, before = server.service("codex-cli"), server.service("codex-cli").count
    service.reply = of_responses("exec_command", {"cmd": f"printf {TIDES} > {agent.file}"})
    ended = await codex(agent, address, provider=provider)
    assert (ended.code, ended.output.strip()) == (0, LAST_WORD), ended
    assert agent.file.read_text() == TIDES
    assert service.count - before == 2


async def test_codex_is_told_what_has_to_be_allowed(address: str, server: CountingServer, agent: Agent) -> None:
    """Or does without."""
    service = server.service("codex-strict")
    service.reply = of_responses("exec_command", {"cmd": f"printf {TIDES} > {agent.file}"})
    refused = await codex(agent, address, "--model", "codex-strict")
    assert refused.code != 0
    assert "tools.web_search" in refused.output + refused.errors
    assert service.count == 0
    ended = await codex(agent, address, "--model", "codex-strict", "--config", 'web_search="disabled"')
    assert (ended.code, ended.output.strip()) == (0, LAST_WORD), ended


async def test_each_session_is_a_run(site: Site, server: CountingServer) -> None:
    """Paid as it was billed."""
    await settled_books(site, *(server.service(name) for name in SERVICES))
    usage = await site.document("usage", "--by", "run")
    assert [row["calls"] for row in usage["rows"]] == [2, 2, 2, 2]
