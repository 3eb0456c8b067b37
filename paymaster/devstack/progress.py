"""Lines for the person who waits."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

Progress = Callable[[str], None]
"""Gets one line of text, without a newline, for each thing that takes more than a second. Called on the event loop."""

_WORTH_A_LINE_S = 1.0


@contextlib.asynccontextmanager
async def tell_if_slow(progress: Progress, line: str) -> AsyncGenerator[None]:
    """Calls `progress(line)` if the body takes longer than a second."""
    timer = asyncio.get_running_loop().call_later(_WORTH_A_LINE_S, progress, line)
    try:
        yield
    finally:
        timer.cancel()


@contextlib.asynccontextmanager
async def tell_elapsed(progress: Progress, line: str, every_s: float) -> AsyncGenerator[None]:
    """Calls `progress` with the line at once, then with the time that went by, every `every_s` seconds."""

    async def tick() -> None:
        elapsed_s = 0.0
        while True:
            await asyncio.sleep(every_s)
            elapsed_s += every_s
            progress(f"{line} ({elapsed_s:.0f} s so far)")

    progress(line)
    ticker = asyncio.create_task(tick())
    try:
        yield
    finally:
        ticker.cancel()
