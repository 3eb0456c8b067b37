"""Folders and file locks of the embedded stack: caches, kept data, and temporary folders that never pile up."""

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from platformdirs import PlatformDirs

from paymaster.devstack.errors import StackError

_TEMPORARY_PREFIX = "paymaster-stack-"
_OWNER = "owner"  # a file in each temporary folder, locked for as long as anything uses the folder
_PREVIOUS_OWNER_ENDS_S = 10.0  # longer than any guard gives its command to stop
_SOCKET_PATH_BYTES_MAX = 99  # the smallest limit of the systems that we run on is 103


def system_cache_dir() -> Path:
    """Where root keeps copies of programs between runs: other users can read them and only root can write."""
    return PlatformDirs("paymaster", appauthor=False).site_cache_path


@contextlib.asynccontextmanager
async def only_one_process(lock_file: Path, on_wait: Callable[[], None]) -> AsyncGenerator[None]:
    """Holds the lock file; waits, after one call of `on_wait`, while another process holds it."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _locked(fd):
            on_wait()
        while not _locked(fd):  # noqa: ASYNC110 - another process releases it, who can't set an event
            await asyncio.sleep(0.2)
        yield
    finally:
        os.close(fd)


async def lock_data_dir(data_dir: Path) -> int:
    """Makes this process the only user of the folder, which is created if need be.

    Returns the descriptor that holds the lock; pass it to every process that works in the folder and close it at the
    end. Raises StackError if the folder is in use.
    """
    lock_file = data_dir / "lock"
    try:
        _make_data_dir(data_dir)
        fd = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StackError(f"The data folder {data_dir} can't be used ({error}); choose another one.") from None
    try:
        deadline = time.monotonic() + _PREVIOUS_OWNER_ENDS_S
        while not _locked(fd):
            owner = lock_file.read_text().strip()
            # A dead owner whose servers still hold the lock: they are just stopping.
            if _is_alive(owner) or time.monotonic() >= deadline:
                raise StackError(
                    f"The data folder {data_dir} is in use by process {owner}: another `paymaster dev` runs on it. "
                    "Stop that one first, or choose another data folder."
                )
            await asyncio.sleep(0.1)
        os.truncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make_data_dir(folder: Path) -> None:
    """Makes the folder and its missing parents, closed to others; for root, PostgreSQL's user may pass."""
    if not folder.exists():
        _make_data_dir(folder.parent)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o711 if os.geteuid() == 0 else 0o700)


class TemporaryFolder:
    """A private temporary folder that is known to be in use while this process, or one that got `lock_fd`, lives.

    `remove` removes it. Should the owner be killed before that, the next `TemporaryFolder` does.
    """

    path: Path
    lock_fd: int

    def __init__(self) -> None:
        base = _temporary_base()
        _remove_abandoned(base)
        # It gets its final name when the lock is held, so that nobody takes it for abandoned.
        unnamed = Path(tempfile.mkdtemp(prefix=".paymaster-", dir=base))
        self.lock_fd = os.open(unnamed / _OWNER, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self.lock_fd, fcntl.LOCK_EX)
        os.write(self.lock_fd, f"{os.getpid()}\n".encode())  # for people who wonder
        if os.geteuid() == 0:
            unnamed.chmod(0o711)  # PostgreSQL, which runs as another user, has to pass
        self.path = base / (_TEMPORARY_PREFIX + unnamed.name.rpartition("-")[2])
        unnamed.rename(self.path)

    def remove(self) -> None:
        """Removes the folder. Call it when the processes that use it have ended."""
        _remove_tree(self.path)
        os.close(self.lock_fd)


def fits_a_socket(folder: Path) -> bool:
    """Whether PostgreSQL's socket in this folder has a path that the operating system accepts."""
    return len(os.fsencode(folder / ".s.PGSQL.5432")) <= _SOCKET_PATH_BYTES_MAX


def _temporary_base() -> Path:
    if os.geteuid() == 0:
        return Path("/var/tmp")  # noqa: S108 - mkdtemp below; root's own TMPDIR may be closed to other users
    base = Path(tempfile.gettempdir())
    if not fits_a_socket(base / (_TEMPORARY_PREFIX + "12345678") / "socket"):
        return Path("/tmp")  # noqa: S108 - mkdtemp below; macOS has a long TMPDIR
    return base


def _remove_abandoned(base: Path) -> None:
    for folder in base.glob(_TEMPORARY_PREFIX + "*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            fd = os.open(folder / _OWNER, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue  # gone meanwhile, or not ours
        try:
            if _locked(fd):
                _remove_tree(folder)
        finally:
            os.close(fd)


def _remove_tree(folder: Path) -> None:
    # The owner file last, and only if nothing else is left: what could not be removed is still recognised as abandoned.
    with contextlib.suppress(OSError):
        for entry in folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != _OWNER:
                entry.unlink()
        if [entry.name for entry in folder.iterdir()] == [_OWNER]:
            shutil.rmtree(folder)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass  # it lives and is somebody else's
    return True
