"""Who provides a service, by its address."""

from typing import NamedTuple

from genai_prices.data_snapshot import get_snapshot


class KnownProvider(NamedTuple):
    """A provider as the public price list knows it."""

    id: str
    name: str


def provider_at(base_url: str) -> KnownProvider | None:
    """None for an address that the price list does not know, such as that of a server of one's own."""
    try:
        found = get_snapshot().find_provider(None, None, base_url)
    except LookupError:
        return None
    return KnownProvider(found.id, found.name)
