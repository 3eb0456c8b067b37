"""Fetching a list of prices from its public address."""

import asyncio

import httpx
from genai_prices.update_prices import DEFAULT_UPDATE_URL

from paymaster.providers.proxies import proxy_for
from paymaster.settings import Settings
from paymaster.values.limits import PRICE_LIST_BYTES_MAX

_ANSWERS_WITHIN_S = 10.0
_COMES_WITHIN_S = 60.0


class ListUnavailable(Exception):
    """The list could not be fetched. The message says why."""


def list_url(settings: Settings) -> str:
    """Where the list is: as configured, else where genai-prices publishes it."""
    return settings.prices.list_url or DEFAULT_UPDATE_URL


async def fetch_list(url: str) -> bytes:
    """What is there, over TLS whose certificate is checked; a redirect is not followed. Raises ListUnavailable."""
    client = httpx.AsyncClient(
        timeout=_ANSWERS_WITHIN_S, proxy=proxy_for(url), trust_env=False, verify=httpx.create_ssl_context()
    )
    data = bytearray()
    try:
        async with asyncio.timeout(_COMES_WITHIN_S), client, client.stream("GET", url) as response:
            if not response.is_success:
                raise ListUnavailable(f"{url} answers HTTP {response.status_code}")
            async for piece in response.aiter_bytes(chunk_size=64 * 1024):
                data += piece
                if len(data) > PRICE_LIST_BYTES_MAX:
                    raise ListUnavailable(f"{url} has more than {PRICE_LIST_BYTES_MAX:,} bytes")
    except (httpx.HTTPError, TimeoutError) as error:
        raise ListUnavailable(f"{url} does not answer: {str(error) or type(error).__name__}") from None
    return bytes(data)
