"""A running worker looks prices up in the list that an admin brought last."""

import asyncio
import logging
from datetime import UTC

from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.providers.list_reading import UnusableList, read_list
from paymaster.providers.listings import list_version, newest, take
from paymaster.storage.engine import DATABASE_ERRORS
from paymaster.storage.price_lists import newest_price_list

LOOKS_EVERY_S = 10.0
"""How often a worker asks the database whether there is a newer list."""
logger = logging.getLogger(__name__)


class KeptPrices:
    """The list of this process, as the database has it."""

    def __init__(self, engine: AsyncEngine, ledger: str) -> None:
        self._engine = engine
        self._ledger = ledger
        self._known: int | None = None
        self._lost = False

    async def look(self) -> None:
        """Takes a newer list, if there is one. Raises what the database raises."""
        stored = await newest_price_list(self._engine, self._ledger, self._known)
        if stored is None:
            return
        self._known = stored.id
        if stored.read_by != list_version():
            logger.warning(
                "the stored list of prices was read with genai-prices %s, and this worker has %s: it looks prices up "
                "in its package's own list; `paymaster prices refresh` brings one for it",
                stored.read_by,
                list_version(),
            )
            return
        try:
            providers = await asyncio.to_thread(read_list, stored.data)
        except UnusableList as error:
            logger.warning("the stored list of prices is not used: %s", error)
            return
        take(providers, stored.at.astimezone(UTC))
        logger.info("prices are looked up in %s", newest().name)

    async def try_to_look(self) -> None:
        """Takes a newer list as far as the database can be asked; while it cannot, the list stays as it is."""
        try:
            await self.look()
            self._lost = False
        except DATABASE_ERRORS as error:
            if not self._lost:
                logger.warning("whether there is a newer list of prices was not looked at: %s", error)
            self._lost = True

    async def follow(self) -> None:
        """For as long as the worker runs."""
        while True:
            await asyncio.sleep(LOOKS_EVERY_S)
            await self.try_to_look()
