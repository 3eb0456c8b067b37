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
