"""A PostgreSQL and its streaming replica, on loopback, that are frozen, killed and promoted."""

import os
import pwd
import signal
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from paymaster_process import free_address, until
from sqlalchemy import text

from paymaster.devstack import GuardedProcess
from paymaster.devstack.postgres import USER, postgres_programs
from paymaster.storage.engine import create_engine

_RUNS_AS = "nobody" if os.geteuid() == 0 else None
"""PostgreSQL does not run as root."""
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


class DatabaseServer:
    """One of the two."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self.data = folder / "data"
        self.address = free_address()
        self._process: GuardedProcess | None = None

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://{USER}@{self.address}/postgres"

    async def run(self, program: str, *arguments: str | Path) -> None:
        """One of PostgreSQL's other programs, as the user that the server runs as."""
        process = self._start([self._programs / program, *arguments], signal.SIGTERM)
        assert await process.wait(60) == 0, process.log_tail()

    async def start(self, *settings: str) -> None:
        host, port = self.address.split(":")
        usual = [f"listen_addresses={host}", f"port={port}", "unix_socket_directories=", "fsync=off"]
        options = [option for setting in (*usual, *settings) for option in ("-c", setting)]
        process = self._process = self._start([self._programs / "postgres", "-D", self.data, *options], signal.SIGQUIT)

        async def answers() -> bool:
            assert process.poll() is None, process.log_tail()
            engine = create_engine(self.url)
            try:
                async with engine.connect() as connection:
                    return await connection.scalar(text("SELECT true")) is True
            except Exception:  # the driver has several for a server that starts
                return False
            finally:
                await engine.dispose()

        await until(answers, "the database answers")

    def freeze(self) -> None:
        """All of it stands still, as a machine that has vanished."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    async def stop(self) -> None:
        """At once: no transaction ends, and nothing more is sent to a replica."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            await self._process.stop()

    async def promote(self) -> None:
        await self.run("pg_ctl", "promote", "-w", "-D", self.data)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        for process in (self._process.pid, *_children(self._process.pid)):
            os.kill(process, number)

    def _start(self, command: Sequence[str | Path], stop_signal: signal.Signals) -> GuardedProcess:
        return GuardedProcess(
            command,
            env=_ENVIRONMENT,
            cwd=Path("/"),
            log_file=self._folder / "log",
            user=_RUNS_AS,
            stop_signal=stop_signal,
        )


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in found]


@asynccontextmanager
async def primary_and_replica() -> AsyncGenerator[tuple[DatabaseServer, DatabaseServer]]:
    """A transaction that the primary has committed is on the replica, while that is there."""
    programs = await postgres_programs(lambda line: None)
    with tempfile.TemporaryDirectory(prefix="pm-replica-") as name:
        folder = Path(name)
        _give(folder)
        primary, replica = (DatabaseServer(programs, _made(folder / each)) for each in ("primary", "replica"))
        try:
            await primary.run("initdb", "-D", primary.data, "-U", USER, "--auth=trust", "--encoding=UTF8", "--no-sync")
            await primary.start()
            host, port = primary.address.split(":")
            source = ["-h", host, "-p", port, "-U", USER]
            await replica.run("pg_basebackup", *source, "-D", replica.data, "-R", "-X", "stream", "-c", "fast")
            await replica.start()
            await _settle(primary, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
            yield primary, replica
        finally:
            await replica.stop()
            await primary.stop()


async def _settle(server: DatabaseServer, *statements: str) -> None:
    engine = create_engine(server.url).execution_options(isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()


def _made(folder: Path) -> Path:
    folder.mkdir()
    _give(folder)
    return folder


def _give(folder: Path) -> None:
    if _RUNS_AS is not None:
        os.chown(folder, pwd.getpwnam(_RUNS_AS).pw_uid, -1)
