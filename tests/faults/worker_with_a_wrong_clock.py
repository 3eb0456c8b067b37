"""A worker whose clock is wrong: `worker_with_a_wrong_clock.py SECONDS [--config FILE]`, negative for slow.

With libfaketime, where the machine has it, the whole process is deceived, Temporal's client below Python too; without
it, what Python code reads as the time of day.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def main(seconds: int, *arguments: str) -> int:
    real, real_ns = time.time, time.time_ns

    def wrong() -> float:
        return real() + seconds

    def wrong_ns() -> int:
        return real_ns() + seconds * 1_000_000_000

    if LIBRARIES and "LD_PRELOAD" not in os.environ:
        deceived = {"LD_PRELOAD": str(LIBRARIES[0]), "FAKETIME": f"{seconds:+}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | deceived)
    if not LIBRARIES:
        time.time, time.time_ns = wrong, wrong_ns
    import worker

    print(f"the clock is wrong by {seconds} s, {'by libfaketime' if LIBRARIES else 'in Python'}", flush=True)
    return worker.main(arguments)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
