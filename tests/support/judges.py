"""Other people's programs that judge the gateway, from npm and from PyPI, each in a process of its own."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import platformdirs
import pytest
from paymaster_process import ROOT

JUDGES = ROOT / "tests" / "judges"
_LISTS = ("package.json", "package-lock.json")
_NOWHERE = "http://127.0.0.1:9"
"""Where nobody listens: the proxy of programs that may ask nobody outside."""


class Ended(NamedTuple):
    """A program that has ended."""

    code: int | None
    output: str
    errors: str


def packages(folder: Path) -> Path:
    """The `node_modules` of a folder's lock file, installed once for all runs. Skips where npm gets nothing."""
    lock = (folder / "package-lock.json").read_bytes()
    kept = platformdirs.user_cache_path("paymaster-tests") / f"judges-{sha256(lock).hexdigest()[:16]}"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        _install(folder, kept)
    return kept / "node_modules"


def _install(folder: Path, kept: Path) -> None:
    npm = shutil.which("npm", path=_programs())
    if npm is None:
        pytest.skip("no npm here: install it, or `uv sync --inexact --all-extras --group languages`")
    made = Path(mkdtemp(dir=kept.parent))
    try:
        for name in _LISTS:
            shutil.copy(folder / name, made)
        command = [npm, "ci", "--no-audit", "--no-fund"]
        environment = os.environ | {"PATH": _programs()}
        ran = subprocess.run(command, cwd=made, env=environment, capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            pytest.skip(f"npm ci got nothing: {(ran.stderr or ran.stdout)[-500:]}")
        if not kept.exists():  # else another run was quicker
            made.rename(kept)
    finally:
        shutil.rmtree(made, ignore_errors=True)


async def verdict(judge: str, address: str, key: str, models: Mapping[str, object], folder: Path) -> Any:
    """What a judge of tests/judges saw at an address. `models`: what judge.mjs says. `folder`: an empty one."""
    for file in (*JUDGES.glob("*.mjs"), *JUDGES.glob("*.py")):
        shutil.copy(file, folder)
    ended = await run_script(folder / judge, address, key, json.dumps(models))
    assert ended.code == 0, ended
    return json.loads(ended.output)


async def run_script(script: Path, *arguments: str) -> Ended:
    """Runs a file of Python, or of JavaScript with the packages of tests/judges, in its folder. Skips without Node."""
    if script.suffix == ".py":
        return await run([sys.executable, script, *arguments], script.parent, {})
    (script.parent / "node_modules").symlink_to(packages(JUDGES))
    node = shutil.which("node", path=_programs())
    assert node is not None, "npm is here, and node is not"
    return await run([node, script, *arguments], script.parent, {})


async def run(
    command: Sequence[str | Path], folder: Path, environment: Mapping[str, str], *, within_s: float = 100.0
) -> Ended:
    """Runs a program in a folder, which is its home too, with no way to anybody but this machine."""
    quiet = {"HTTP_PROXY": _NOWHERE, "HTTPS_PROXY": _NOWHERE, "NO_PROXY": "127.0.0.1"}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={"PATH": _programs(), "HOME": str(folder), **quiet, **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(within_s):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(process.returncode, output.decode(errors="replace"), errors.decode(errors="replace"))


def _programs() -> str:
    """Where programs are looked for: those of the group `languages` too."""
    return os.pathsep.join([os.environ["PATH"], sysconfig.get_path("scripts")])
