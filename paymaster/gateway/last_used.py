"""When clients used their keys last, written to the database once a minute and not while a request waits."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

from paymaster.storage.engine import DATABASE_ERRORS

WRITTEN_EVERY_S = 60.0
logger = logging.getLogger(__name__)

Write = Callable[[Mapping[str, datetime]], Awaitable[None]]
"""Stores the times by the ids of the keys."""


class LastUsed:
    def __init__(self, write: Write) -> None:
        self._write = write
        self._used: dict[str, datetime] = {}
        """One for each client that there is: only keys that were found to be right are noted."""

    def note(self, key_id: str) -> None:
        """The key was used just now."""
        self._used[key_id] = datetime.now(UTC)

    async def write_every_minute(self) -> None:
        """Runs until it is cancelled."""
        while True:
            await asyncio.sleep(WRITTEN_EVERY_S)
            await self.write()

    async def write(self) -> None:
        """Writes what was noted since the last time. What cannot be written is written the next time."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._write(used)
        except DATABASE_ERRORS as error:
            logger.warning("when clients used their keys last is not written now: %s", error)
            self._used = used | self._used
