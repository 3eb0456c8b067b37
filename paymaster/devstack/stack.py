"""The embedded stack: Temporal, PostgreSQL and a local model, started together and gone together."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from paymaster.devstack.errors import StackError
from paymaster.devstack.folders import TemporaryFolder, fits_a_socket, lock_data_dir
from paymaster.devstack.model import ModelServer
from paymaster.devstack.postgres import PostgresServer, postgres_programs
from paymaster.devstack.progress import Progress, tell_if_slow
from paymaster.devstack.temporal import TemporalServer
from paymaster.devstack.temporal_binary import temporal_binary
from paymaster.devstack.temporal_on_postgres import TemporalOnPostgres
from paymaster.devstack.temporal_programs import TemporalPrograms


class EmbeddedStack:
    """`async with EmbeddedStack() as stack:` runs the servers; leaving it stops them.

    They end with this process, however it ends, and listen on loopback or a Unix socket only. The parts are there for
    tests that stop, kill and start them one by one: `await stack.postgres.stop()`, `stack.temporal.process.kill()`.
    """

    temporal: TemporalServer | TemporalOnPostgres
    postgres: PostgresServer
    model: ModelServer

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        progress: Progress = lambda line: None,
        temporal: bool = True,
        postgres: bool = True,
        model: bool = True,
        temporal_port: int | None = None,
        temporal_on_disk: bool = False,
        headless: bool = False,
        dynamic_config: Mapping[str, bool | int | float | str] | None = None,
        search_attributes: Mapping[str, str] | None = None,
        temporal_programs: TemporalPrograms | None = None,
    ) -> None:
        """`data_dir` None keeps nothing: everything is in a temporary folder that is removed at the end. Else the data
        of Temporal and PostgreSQL and the logs stay in that folder, which one stack at a time can use.

        `progress` gets a line for each thing that takes more than a second. `temporal`, `postgres` and `model` say
        which parts to start. `temporal_port` None means a free one. `temporal_on_disk` lets workflows survive a restart
        of Temporal within this stack, at the price of slower steps; with a `data_dir` they always do. `headless`,
        `dynamic_config` and `search_attributes` as in `TemporalServer`. `temporal_programs` are those of Temporal's own
        server, which then runs on the stack's PostgreSQL in the place of the embedded one; it has no Web UI, a free
        port, and no search attributes yet.
        """
        if temporal_programs is not None and (search_attributes or temporal_port or not postgres):
            raise ValueError("Temporal's own server takes a free port, no search attributes, and needs PostgreSQL")
        self._data_dir = None if data_dir is None else data_dir.absolute()
        self._progress = progress
        self._wanted = (temporal, postgres, model)
        self._temporal_port = temporal_port
        self._temporal_on_disk = temporal_on_disk or data_dir is not None
        self._headless = headless
        self._dynamic_config = dynamic_config
        self._search_attributes = search_attributes
        self._temporal_programs = temporal_programs
        self._postgres_runs = asyncio.Event()
        self._temporary: TemporaryFolder | None = None
        self._data_lock: int | None = None
        self._started: list[TemporalServer | TemporalOnPostgres | PostgresServer | ModelServer] = []

    @property
    def temporal_address(self) -> str:
        """`127.0.0.1:PORT`, namespace `default`, no TLS."""
        return self.temporal.address

    @property
    def temporal_ui_url(self) -> str | None:
        """Temporal's Web UI; None if headless."""
        return self.temporal.ui_url

    @property
    def database_url(self) -> str:
        """An empty or kept database for SQLAlchemy with asyncpg."""
        return self.postgres.database_url

    @property
    def model_base_url(self) -> str:
        """`http://127.0.0.1:PORT/v1`; see `ModelServer`."""
        return self.model.base_url

    @property
    def log_dir(self) -> Path:
        """The folder with one log file for each part."""
        return self._folder() / "logs"

    async def start(self) -> None:
        """Starts the parts, all at once. Whatever goes wrong, and when cancelled, nothing of it stays behind.

        Raises StackError.
        """
        try:
            await self._start()
        except OSError as error:  # a full disk, say
            await self.stop()
            raise StackError(f"The embedded stack can't be set up: {error}") from error
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stops what was started and removes the temporary folder. May be called again."""
        try:
            await asyncio.gather(*(part.stop() for part in self._started))
        finally:
            self._started = []
            if self._temporary is not None:
                self._temporary.remove()
                self._temporary = None
            if self._data_lock is not None:
                os.close(self._data_lock)
                self._data_lock = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def _start(self) -> None:
        self._temporary = TemporaryFolder()
        if self._data_dir is not None:
            self._data_lock = await lock_data_dir(self._data_dir)
        self.log_dir.mkdir(mode=0o700, exist_ok=True)
        starts = (self._start_temporal, self._start_postgres, self._start_model)
        try:
            async with asyncio.TaskGroup() as group:
                for wanted, start in zip(self._wanted, starts, strict=True):
                    if wanted:
                        group.create_task(start())
        except ExceptionGroup as errors:
            raise _most_telling(errors) from None

    async def _start_temporal(self) -> None:
        if self._temporal_programs is None:
            self.temporal = await self._embedded_temporal()
        else:
            await self._postgres_runs.wait()
            self.temporal = self._temporal_on_postgres(self._temporal_programs)
        self._started.append(self.temporal)
        async with tell_if_slow(self._progress, "Temporal: starting"):
            await self.temporal.start()

    async def _embedded_temporal(self) -> TemporalServer:
        binary = await temporal_binary()
        db_file = None
        if self._temporal_on_disk:
            db_file = self._folder() / "temporal" / "temporal.db"
            db_file.parent.mkdir(mode=0o700, exist_ok=True)
        return TemporalServer(
            binary,
            self.log_dir / "temporal.log",
            db_file=db_file,
            port=self._temporal_port,
            headless=self._headless,
            dynamic_config=self._dynamic_config,
            search_attributes=self._search_attributes,
            keep_open=self._locks(),
        )

    def _temporal_on_postgres(self, programs: TemporalPrograms) -> TemporalOnPostgres:
        return TemporalOnPostgres(
            programs,
            self.postgres,
            self._folder() / "temporal",
            self.log_dir / "temporal.log",
            dynamic_config=self._dynamic_config,
            keep_open=self._locks(),
        )

    async def _start_postgres(self) -> None:
        async with tell_if_slow(self._progress, "PostgreSQL: starting"):
            programs = await postgres_programs(self._progress)
            folder = self._folder()
            # In the data folder, if the path is not too long, so that the address stays the same from run to run.
            socket_dir = next(d / "socket" for d in (folder, self._temporary_path()) if fits_a_socket(d / "socket"))
            self.postgres = PostgresServer(
                programs,
                folder / "postgres",
                socket_dir,
                self.log_dir / "postgres.log",
                temporary=self._data_dir is None,
                keep_open=self._locks(),
            )
            self._started.append(self.postgres)
            await self.postgres.start()
            self._postgres_runs.set()

    async def _start_model(self) -> None:
        self.model = ModelServer(
            self.log_dir / "model.log", self._temporary_path() / "model.port", keep_open=self._locks()
        )
        self._started.append(self.model)
        async with tell_if_slow(self._progress, "Local model: loading"):
            await self.model.start()

    def _temporary_path(self) -> Path:
        if self._temporary is None:
            raise RuntimeError("The embedded stack does not run")
        return self._temporary.path

    def _folder(self) -> Path:
        return self._data_dir or self._temporary_path()

    def _locks(self) -> list[int]:
        assert self._temporary is not None
        return [self._temporary.lock_fd, *([] if self._data_lock is None else [self._data_lock])]


def _most_telling(errors: ExceptionGroup[Exception]) -> Exception:
    """The first StackError, which is for the user, else the first error: they can only be mended one at a time."""
    return next((error for error in errors.exceptions if isinstance(error, StackError)), errors.exceptions[0])
