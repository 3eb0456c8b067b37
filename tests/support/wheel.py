"""The wheel, built and installed as an agent's project does it."""

import asyncio
import os
import shutil
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from paymaster_process import ROOT


async def run(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str] = os.environ) -> str:
    """What a command printed that must succeed."""
    code, output, errors = await outcome(command, folder, environment)
    assert code == 0, f"{output}\n{errors}"
    return output


async def outcome(
    command: Sequence[str | Path], folder: Path, environment: Mapping[str, str] = os.environ
) -> tuple[int, str, str]:
    """Exit code, output and errors of a command."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=dict(environment), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def build_wheel(folder: Path) -> Path:
    """The wheel of this checkout, in the folder."""
    await _uv(folder, "build", "--wheel", "--out-dir", folder, ROOT)
    (wheel,) = folder.glob("paymaster-*.whl")
    return wheel


async def install(folder: Path, wheel: Path, extras: str = "") -> Path:
    """Python of a new environment in the folder, with the wheel, its dependencies, and those of `extras`: `[cli]`."""
    await _uv(folder, "venv", "--python", f"{sysconfig.get_path('scripts')}/python", "env")
    python = folder / "env" / "bin" / "python"
    await _uv(folder, "pip", "install", "--python", python, f"paymaster{extras} @ {wheel.as_uri()}")
    return python


async def _uv(folder: Path, *arguments: str | Path) -> None:
    # `make` puts a uv beside the environment when the machine has none.
    uv = shutil.which("uv") or shutil.which("uv", path=str(ROOT / ".uv" / "bin"))
    assert uv is not None, "there is no uv; `make test` brings one"
    environment = os.environ | {"UV_SYSTEM_CERTS": "1", "UV_PYTHON_DOWNLOADS": "never"}
    await run([uv, "--quiet", *arguments], folder, environment)
