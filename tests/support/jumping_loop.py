"""A real event loop, of which the clock jumps to the next timer instead of waiting.

When everybody waits and no timer is left, the test fails at once: nobody may wait for ever.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


class JumpingSelector(selectors.DefaultSelector):
    """Where an event loop would sleep until its next timer, time jumps there."""

    def __init__(self) -> None:
        super().__init__()
        self.jumped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits and no timer will wake anybody"
        self.jumped_s += max(timeout, 0.0)
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = JumpingSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.jumped_s


def run(story: Coroutine[None, None, T]) -> T:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(story)


def now() -> float:
    return asyncio.get_running_loop().time()
