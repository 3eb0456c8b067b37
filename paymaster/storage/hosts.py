"""Connecting to one of several hosts of a database, such as a primary and its replica, whichever may be asked now."""

from collections.abc import Sequence
from typing import Any

import asyncpg  # pyright: ignore[reportMissingTypeStubs]

_connect: Any = asyncpg.connect  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]: no types

_TRIED = {"prefer-standby": ("standby", "any")}
"""What is looked for, one after the other; of other words of `target_session_attrs` only that."""


async def connect_in_turn(
    *, host: Sequence[str], port: Sequence[int], timeout: float, target_session_attrs: str, **arguments: Any
) -> Any:
    """A connection of asyncpg's to the first host that is what is wanted.

    Each has its part of the time: one that has vanished without a word, or begins or ends just now, is passed over.
    asyncpg's own way through several hosts ends with the first of that kind. Raises what the last one raised.
    """
    failed: Exception | None = None
    for wanted in _TRIED.get(target_session_attrs, (target_session_attrs,)):
        for each, at in zip(host, port, strict=True):
            try:
                return await _connect(
                    host=each, port=at, timeout=timeout / len(host), target_session_attrs=wanted, **arguments
                )
            except (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched) as error:
                failed = error
    assert failed is not None, "there are hosts"
    raise failed
