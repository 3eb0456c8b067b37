"""A newer list of prices: fetched, compared with the one in force, and brought to the workers."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import NamedTuple

from genai_prices.data_snapshot import DataSnapshot
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.admission.configuration import Difference, in_words
from paymaster.providers.list_changes import ListChange, list_changes
from paymaster.providers.list_fetching import ListUnavailable, fetch_list, list_url
from paymaster.providers.list_reading import UnusableList, read_list
from paymaster.providers.listings import list_version, newest
from paymaster.settings import Settings
from paymaster.storage.price_lists import newest_price_list, store_price_list

_WORDS_MAX_BYTES = 20_000
"""What is kept of the changes that a list brought."""


class NewerList(NamedTuple):
    """A list that was fetched, and what it would change."""

    url: str
    data: bytes
    is_in_force: bool
    changes: Sequence[ListChange]

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal."""
        return sha256(self.data).hexdigest()

    @property
    def needs_consent(self) -> bool:
        """A price falls to zero or by a large part: somebody has to agree."""
        return any(change.needs_consent for change in self.changes)


async def fetch_newer(settings: Settings, engine: AsyncEngine, granted: Iterable[str] = ()) -> NewerList:
    """The list at its address, beside the one that this process looks prices up in, also for models that were granted.

    Raises ListUnavailable, with the reason in words, and what the database raises.
    """
    url = list_url(settings)
    data = await fetch_list(url)
    stored = await newest_price_list(engine, settings.ledger.name)
    changes = await asyncio.to_thread(_changes, settings, url, data, tuple(granted))
    newer = NewerList(url, data, False, changes)
    known = stored is not None and (stored.sha256, stored.read_by) == (newer.digest, list_version())
    return newer._replace(is_in_force=known)


def _changes(settings: Settings, url: str, data: bytes, granted: Sequence[str]) -> Sequence[ListChange]:
    try:
        after = DataSnapshot(read_list(data), from_auto_update=True)
    except UnusableList as error:
        raise ListUnavailable(f"the list at {url} cannot be used: {error}") from None
    return list_changes(settings, newest().snapshot, after, datetime.now(UTC), granted)


async def bring_list(settings: Settings, engine: AsyncEngine, newer: NewerList, who: str) -> None:
    """Running workers look prices up in it within seconds."""
    said = in_words((Difference(change.text, change.needs_consent) for change in newer.changes), _WORDS_MAX_BYTES)
    await store_price_list(
        engine,
        settings.ledger.name,
        newer.data,
        who=who,
        source=newer.url,
        read_by=list_version(),
        changes=said,
    )
