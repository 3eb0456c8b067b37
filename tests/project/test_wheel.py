"""The wheel without extras: what it can do, and what it says to type for the rest."""

import importlib.metadata
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest
from paymaster_process import ROOT
from temporalio.runtime import LoggingConfig
from wheel import build_wheel, install, outcome, run

from paymaster.observability.telemetry import telemetry_of
from paymaster.settings import Settings
from paymaster.values.extras import EXTRAS, ExtraMissing, extra_missing

MODULES = ("agent", "client", "errors", "messages", "nexus", "plugin", "settings", "testing")
VAULT = """
from paymaster.keys.ring import kept_keys
from paymaster.settings import Settings
kept_keys(Settings.model_validate({"keys": {"source": "azure-key-vault", "vault_url": "https://v.vault.azure.net"}}))
"""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
async def core(module_folder: Path) -> Path:
    """Python of an environment with the wheel alone."""
    return await install(module_folder, await build_wheel(module_folder))


async def test_the_core_imports_every_public_module(core: Path, tmp_path: Path) -> None:
    imports = "".join(f"import paymaster.{name}\n" for name in MODULES)
    program = f"{imports}print(*[name for name in paymaster.__all__ if getattr(paymaster, name)])"
    assert "generate" in await run([core, "-W", "error", "-c", program], tmp_path)


async def test_it_is_as_light_as_it_says(core: Path, tmp_path: Path) -> None:
    """Temporal's SDK, pydantic and cryptography with what they need, and nothing else."""
    program = "import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions()))"
    found = set((await run([core, "-c", program], tmp_path)).split())
    assert found <= {
        *("paymaster", "temporalio", "nexus-rpc", "protobuf", "types-protobuf", "python-dateutil", "six"),
        *("pydantic", "pydantic_core", "pydantic-core", "annotated-types", "typing-inspection", "typing_extensions"),
        *("pydantic-settings", "python-dotenv", "cryptography", "cffi", "pycparser"),
    }


async def test_it_is_typed(core: Path, tmp_path: Path) -> None:
    program = "import paymaster, pathlib; print((pathlib.Path(paymaster.__file__).parent / 'py.typed').exists())"
    assert await run([core, "-c", program], tmp_path) == "True\n"


async def test_it_has_the_schema_of_its_configuration(core: Path, tmp_path: Path) -> None:
    program = "import importlib.resources as r; print(*(f.name for f in r.files('paymaster.settings').iterdir()))"
    assert "paymaster.schema.json" in await run([core, "-c", program], tmp_path)


async def test_the_command_without_its_extra_says_what_to_type(core: Path, tmp_path: Path) -> None:
    for command in ([core.with_name("paymaster"), "budget", "show"], [core, "-m", "paymaster", "--version"]):
        code, output, errors = await outcome(command, tmp_path)
        assert (code, output) == (2, "")
        assert re.fullmatch(r"paymaster: the command needs \w+, .*: pip install 'paymaster\[cli\]'\n", errors)


async def test_keys_in_azure_say_it_too(core: Path, tmp_path: Path) -> None:
    _, _, errors = await outcome([core, "-c", VAULT], tmp_path)
    assert re.search(r"ExtraMissing: keys in Azure Key Vault needs azure\S*, .* 'paymaster\[azure\]'$", errors.rstrip())


async def test_with_the_extra_cli_the_database_is_what_is_missing(module_folder: Path, tmp_path: Path) -> None:
    (wheel,) = module_folder.glob("paymaster-*.whl")
    python = await install(tmp_path, wheel, "[cli]")
    (tmp_path / "paymaster.toml").write_text('[database]\nurl = "postgresql+asyncpg://nobody@127.0.0.1:1/none"\n')
    environment = {"PATH": os.defpath, "HOME": str(tmp_path), "TEMPORAL_ADDRESS": "127.0.0.1:1"}

    async def said(*arguments: str) -> str:
        code, output, errors = await outcome([python.with_name("paymaster"), *arguments], tmp_path, environment)
        assert (code, output) == (2, "")
        return errors

    assert (await said("budget", "show")).startswith("paymaster: no Temporal at 127.0.0.1:1")
    for command in (["usage"], ["migrate"], ["doctor"], ["codec"], ["worker"]):
        errors = await said(*command)
        assert errors.endswith("which is not installed: pip install 'paymaster[worker]'\n"), (command, errors)


async def test_telemetry_that_is_configured_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "paymaster.observability.exporters", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.metrics", None)
    settings = Settings.model_validate({"telemetry": {"otlp_endpoint": "http://127.0.0.1:1"}})
    with pytest.raises(ExtraMissing, match=r"pip install 'paymaster\[telemetry\]'"):
        async with telemetry_of(settings, LoggingConfig.default, {}):
            pass


def test_another_package_is_nobodys_extra() -> None:
    assert extra_missing(ModuleNotFoundError(name="their_own")) is None
    assert extra_missing(ImportError(name="typer")) is None


def test_the_table_of_extras_is_that_of_the_project() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    imported = importlib.metadata.packages_distributions()
    for extra, packages in EXTRAS.items():
        required = {re.split(r"[\[>]", line)[0] for line in extras[extra]}
        for package in packages:
            distributions = {canonical(name) for name in imported[package.partition(".")[0]]}
            assert distributions & required, f"{package} comes with nothing that {extra} asks for"
        for line in required - {"temporalio", "aiohttp"}:  # the core has the one, and the worker the other
            found = {name for name, by in imported.items() if line in map(canonical, by)}
            assert found & {package.partition(".")[0] for package in packages}, f"{line} is not in the table"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
