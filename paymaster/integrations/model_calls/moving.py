"""What a module that knows a plugin's model activity answers about one activity."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple


class Kept(NamedTuple):
    """A model activity that stays one."""

    why: str


Moves = Callable[[str, Sequence[Any]], Callable[[], Awaitable[Any]] | Kept | None]
"""Of an activity's name and arguments: what gives its result in the workflow. None: it is no model activity."""
