"""How long `make demo` takes to its first answer, on a machine that has run it before."""

import asyncio
import sys
import time
from pathlib import Path

from benchmarks.figures import Figure
from paymaster.devstack import clean_environment


def first_answer() -> list[Figure]:
    seconds = asyncio.run(_seconds_to_the_first_answer())
    return [Figure("first answer after the start of the demo", seconds, "s", ("≤", 10))]


async def _seconds_to_the_first_answer() -> float:
    started = time.perf_counter()
    demo = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("paymaster"),
        "demo",
        stdout=asyncio.subprocess.PIPE,
        env=clean_environment(PYTHONUNBUFFERED="1"),
    )
    assert demo.stdout is not None
    answered = None
    async for line in demo.stdout:
        if answered is None and "✓" in line.decode(errors="replace"):
            answered = time.perf_counter() - started
    if await demo.wait() != 0 or answered is None:
        raise RuntimeError("the demo failed: run `make demo` to see why")
    return answered
