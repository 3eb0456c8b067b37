"""CPU time and memory of processes and of all that they started, from /proc: Linux only."""

import os
from pathlib import Path

from paymaster.devstack import GuardedProcess

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_seconds(*processes: GuardedProcess | int) -> float:
    """What they have used since they began, with their children, also those that have ended."""
    return sum(_cpu_ticks(pid) for process in processes for pid in _family(_pid(process))) / _TICKS_PER_S


def memory_mib(process_id: int) -> float:
    """The resident memory."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {process_id} has no VmRSS")


def _pid(process: GuardedProcess | int) -> int:
    return process if isinstance(process, int) else process.pid


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    below = [int(child) for child in children.read_text().split()] if children.exists() else []
    return [pid, *(each for child in below for each in _family(child))]


def _cpu_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:  # ended meanwhile
        return 0
    return sum(int(ticks) for ticks in fields[11:15])  # user and system, its own and of the children that it waited for
