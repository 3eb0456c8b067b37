"""What runs on this machine, as far as a test needs to know."""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

DEADLINE_S = 20.0


def pause_s(waited_s: float) -> float:
    """How long to wait before the next look, after so many seconds of waiting for something: a twentieth of them, for a
    look may ask others for work."""
    return min(max(0.03, waited_s / 20), 0.5)


def until(happened: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Waits for something that another process does."""
    began = time.monotonic()
    while not happened():
        waited_s = time.monotonic() - began
        assert waited_s < deadline_s, f"not within {deadline_s} s: {what}"
        time.sleep(pause_s(waited_s))


def descendants(pid: int) -> set[int]:
    """All processes that were started by this one, directly or not, and still have that parent."""
    children: dict[int, list[int]] = {}
    for line in _ps("-A", "-o", "pid=,ppid="):
        child, parent = (int(part) for part in line.split())
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        new = set(children.get(waiting.pop(), ())) - found
        found |= new
        waiting += new
    return found


def alive(pids: set[int]) -> set[int]:
    """Those of them that run. A zombie, which only waits for its parent to look, does not."""
    rows = [line.split() for line in _ps("-A", "-o", "pid=,stat=")]
    return {int(pid) for pid, state in rows if int(pid) in pids and not state.startswith("Z")}


def listening_addresses(pids: set[int]) -> set[str]:
    """The local IPv4 and IPv6 addresses on which these processes accept connections, in hexadecimal (Linux)."""
    inodes: set[str] = set()
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):  # some of PostgreSQL's processes come and go
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                inodes.add(os.readlink(fd).removeprefix("socket:[").removesuffix("]"))
    addresses: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in inodes:
                addresses.add(columns[1].rpartition(":")[0])
    return addresses


def temporary_folders(owner: int) -> set[Path]:
    """The temporary folders of the embedded stacks of this process."""
    found: set[Path] = set()
    for base in {tempfile.gettempdir(), "/tmp", "/var/tmp"}:
        for file in Path(base).glob("paymaster-stack-*/owner"):
            with contextlib.suppress(FileNotFoundError, PermissionError):  # others come and go
                if file.read_text() == f"{owner}\n":
                    found.add(file.parent)
    return found


def _ps(*arguments: str) -> list[str]:
    return subprocess.run(["ps", *arguments], capture_output=True, text=True, check=True).stdout.splitlines()
