"""Clients in the database, as a gateway knows them: for seconds it goes by what it has read, then it asks again.

A key that is revoked stops within seconds at every gateway. While the database does not answer, clients that are known
go on for some minutes. Who sends keys that nobody has cannot make a query of each: one query is under way at a time,
with many ids in it, and those that it does not find are remembered for a while.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import islice

from paymaster.storage.clients import StoredClient
from paymaster.storage.engine import DATABASE_ERRORS

FRESH_S = 2.0
"""A client that was read so recently is taken at its word."""
WAITED_FOR_AFTER_S = 5.0
"""From this age on a request waits until the client is read again; before, it is read in the background."""
KEPT_IN_OUTAGE_S = 300.0
"""So old a client may be while the database does not answer."""
ABSENT_S = 10.0
"""A key that nobody has is not asked for again for so long."""
ASK_AGAIN_AFTER_S = 1.0
"""A database that did not answer is left alone for so long."""
WAIT_AT_MOST_S = 4.0
"""By a request, for the database: longer than a connection that is not made."""
ASKED_AT_ONCE_MAX = 500
"""Keys of one query."""
UNKNOWN_ASKED_MAX = 2_000
"""Keys that nobody has read before and that wait for a query; further ones are answered 503."""
REMEMBERED_MAX = 10_000
"""Clients that are kept, and ids of keys that nobody has; the oldest are forgotten."""
logger = logging.getLogger(__name__)

Read = Callable[[Collection[str]], Awaitable[Mapping[str, StoredClient]]]
"""Reads the clients that have keys with these ids."""


class ClientsUnknown(Exception):
    """The database does not say who has a key."""


@dataclass(frozen=True)
class _Kept:
    client: StoredClient
    read_at_s: float


class StoredClients:
    """Clients by the ids of their keys, also those that were revoked."""

    def __init__(self, read: Read, clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        """The one that was read the longest time ago first."""
        self._absent: dict[str, float] = {}
        """Until when a key is taken for one that nobody has; the first that ends first."""
        self._asked: dict[str, asyncio.Future[None]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._failed_at_s = -math.inf
        self._is_down = False

    async def find(self, key_id: str) -> StoredClient | None:
        """The client whose key has this id. None: there is none. Raises ClientsUnknown."""
        age_s = self._age_s(key_id)
        if age_s < FRESH_S:
            return self._kept[key_id].client
        if self._is_absent(key_id):
            return None
        answered = self._ask(key_id)
        goes_on = self._is_down and age_s < KEPT_IN_OUTAGE_S
        if answered is not None and age_s >= WAITED_FOR_AFTER_S and not goes_on:
            await asyncio.wait([answered], timeout=WAIT_AT_MOST_S)
        if self._age_s(key_id) < KEPT_IN_OUTAGE_S:
            return self._kept[key_id].client
        if self._is_absent(key_id):
            return None
        raise ClientsUnknown

    async def close(self) -> None:
        """Ends the query that is under way."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _age_s(self, key_id: str) -> float:
        kept = self._kept.get(key_id)
        return math.inf if kept is None else self._clock() - kept.read_at_s

    def _is_absent(self, key_id: str) -> bool:
        return self._clock() < self._absent.get(key_id, -math.inf)

    def _ask(self, key_id: str) -> asyncio.Future[None] | None:
        """Done when the key has been asked for. None: it cannot be now."""
        if key_id in self._asked:
            return self._asked[key_id]
        is_full = key_id not in self._kept and len(self._asked) >= UNKNOWN_ASKED_MAX
        if is_full or self._clock() - self._failed_at_s < ASK_AGAIN_AFTER_S:
            return None
        answered = self._asked[key_id] = asyncio.get_running_loop().create_future()
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_all(), name="clients")
        return answered

    async def _read_all(self) -> None:
        """One query after the other, until nobody waits. Raises nothing: who waits looks at what is kept then."""
        try:
            while self._asked:
                # Those that were clients before come first: no flood of other keys keeps them waiting.
                wanted = list(
                    islice(sorted(self._asked, key=lambda key_id: key_id not in self._kept), ASKED_AT_ONCE_MAX)
                )
                await self._read_some(wanted)
                for key_id in wanted:
                    self._asked.pop(key_id).set_result(None)
        except DATABASE_ERRORS as error:
            self._failed_at_s = self._clock()
            if not self._is_down:
                logger.error("clients cannot be read; known ones go on for some minutes: %s", error)
            self._is_down = True
        except Exception:
            self._failed_at_s = self._clock()
            logger.exception("internal error: clients cannot be read")
        finally:
            self._reading = None
            for answered in self._asked.values():
                answered.set_result(None)
            self._asked.clear()

    async def _read_some(self, wanted: Collection[str]) -> None:
        began_s = self._clock()
        found = await self._read(wanted)
        if self._is_down:
            self._is_down = False
            logger.warning("clients can be read again")
        for key_id in wanted:
            self._kept.pop(key_id, None)
            self._absent.pop(key_id, None)
            if key_id in found:
                self._kept[key_id] = _Kept(found[key_id], began_s)
            else:
                self._absent[key_id] = began_s + ABSENT_S
        for remembered in (self._kept, self._absent):
            for key_id in list(islice(remembered, max(0, len(remembered) - REMEMBERED_MAX))):
                del remembered[key_id]
