"""examples/go and examples/typescript: agents in other languages, each in a namespace of its own, get an answer."""

import asyncio
import os
import shutil
import sysconfig
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from counting_server import CountingServer
from nexus_callers import make_endpoint
from paymaster_process import ROOT, Databases, Site, configuration, new_namespace, running_site

from paymaster.devstack import EmbeddedStack

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
ANSWER = "answer to Tides? ($0.000032000)"


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration([server.service("languages")], budgets={"acme": {"cap_usd": {"total": "1"}}})
    tables |= {"nexus": {"endpoints": {"languages": {"budget": "acme"}}}}
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        await make_endpoint(site, "languages")
        yield site


@pytest.fixture
async def environment(site: Site) -> dict[str, str]:
    """The shell's, for its proxies and caches, and where the agents live."""
    namespace = await new_namespace(site.temporal_address)
    programs = os.pathsep.join([os.environ["PATH"], sysconfig.get_path("scripts")])
    return os.environ | {
        "PATH": programs,
        "TEMPORAL_ADDRESS": site.temporal_address,
        "TEMPORAL_NAMESPACE": namespace,
    }


async def test_an_agent_in_go(environment: dict[str, str], tmp_path: Path) -> None:
    folder = example("go", tmp_path)
    await get_or_skip(folder, environment, "go", "mod", "download")
    await succeeds(folder, environment, "go", "vet", ".")
    await succeeds(folder, environment, "go", "build", "-o", "content", ".")
    said = await succeeds(folder, environment, str(folder / "content"), "languages", "languages", "Tides?")
    assert ANSWER in said.splitlines(), said


async def test_an_agent_in_typescript(environment: dict[str, str], tmp_path: Path) -> None:
    folder = example("typescript", tmp_path)
    await get_or_skip(folder, environment, "npm", "ci", "--no-audit", "--no-fund")
    await succeeds(folder, environment, "npm", "run", "build")
    said = await succeeds(folder, environment, "npm", "start", "--", "languages", "languages", "Tides?")
    assert ANSWER in said.splitlines(), said


def example(language: str, folder: Path) -> Path:
    """A copy, without what was built in the original."""
    built = shutil.ignore_patterns("node_modules", "lib", "content")
    return shutil.copytree(ROOT / "examples" / language, folder / language, ignore=built)


async def get_or_skip(folder: Path, environment: Mapping[str, str], *command: str) -> None:
    """Gets what the example needs. Skips where there is no toolchain, or its registry cannot be reached."""
    if shutil.which(command[0], path=environment["PATH"]) is None:
        pytest.skip(f"no {command[0]} here: install it, or `uv sync --inexact --all-extras --group languages`")
    code, said = await run(folder, environment, *command)
    if code != 0:
        pytest.skip(f"{' '.join(command)} got nothing: {said[-500:]}")


async def succeeds(folder: Path, environment: Mapping[str, str], *command: str) -> str:
    code, said = await run(folder, environment, *command)
    assert code == 0, said
    return said


async def run(folder: Path, environment: Mapping[str, str], *command: str) -> tuple[int | None, str]:
    """The exit code, and what it said."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=dict(environment), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode(errors="replace")
