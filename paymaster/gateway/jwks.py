"""The public keys of an identity provider, kept in memory and fetched anew now and then.

A provider that does not answer stops nobody whose token is signed by a key that is known.
"""

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast, get_args

import httpx
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from paymaster.providers.proxies import proxy_for
from paymaster.settings.gateway_clients import Algorithm
from paymaster.values.limits import JWKS_BYTES_MAX

REFRESH_AFTER_S = 600.0
"""Older keys are fetched anew while they are in use, and ones of twice the age before."""
KEPT_IN_OUTAGE_S = 24 * 3_600.0
"""So old keys may be while the provider does not answer."""
ASK_EVERY_S = 10.0
"""At most once in this time the provider is asked, however many tokens name keys that it does not have."""
WAIT_AT_MOST_S = 5.0
"""By a request, for the provider."""
_KEYS_MAX = 100
_ANSWERS_WITHIN_S = 5.0
_COMES_WITHIN_S = 10.0
logger = logging.getLogger(__name__)


class KeysUnknown(Exception):
    """The provider does not say which keys it has."""


class PublicKey(NamedTuple):
    key: Any
    """An object of cryptography: of RSA, an elliptic curve, or Ed25519."""
    algorithm: str | None
    """The only one that it is for. None: the provider does not say."""


class Jwks:
    """The keys that a provider publishes at one address."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._keys: Mapping[str, PublicKey] = {}
        self._read_at_s = self._asked_at_s = -math.inf
        self._question: asyncio.Task[None] | None = None
        self._is_down = False

    async def key(self, kid: str) -> PublicKey | None:
        """The key of this id. None: the provider has none. Raises KeysUnknown."""
        age_s = self._clock() - self._read_at_s
        is_known = kid in self._keys and age_s < KEPT_IN_OUTAGE_S
        if not is_known or age_s >= REFRESH_AFTER_S:
            question = self._ask()
            if question is not None and not (is_known and (self._is_down or age_s < 2 * REFRESH_AFTER_S)):
                await asyncio.wait([question], timeout=WAIT_AT_MOST_S)
        if self._clock() - self._read_at_s >= KEPT_IN_OUTAGE_S:
            raise KeysUnknown
        return self._keys.get(kid)

    async def close(self) -> None:
        """Ends the question that is under way."""
        if self._question is not None:
            self._question.cancel()
            await asyncio.gather(self._question, return_exceptions=True)

    def _ask(self) -> asyncio.Task[None] | None:
        """The question that is under way, else a new one. None: the last one was just now."""
        if self._question is None and self._clock() - self._asked_at_s >= ASK_EVERY_S:
            self._asked_at_s = self._clock()
            self._question = asyncio.create_task(self._fetch(), name="jwks")
        return self._question

    async def _fetch(self) -> None:
        """Fetches the keys and keeps them. Raises nothing: nobody may be there to hear it."""
        began_s = self._clock()
        try:
            keys = usable_keys(await _fetched(self._url))
        except (httpx.HTTPError, TimeoutError, OSError, ValueError, RecursionError) as error:
            if not self._is_down:
                logger.error("gateway.jwt.jwks_url: no keys: %s", str(error) or type(error).__name__)
            self._is_down = True
        else:
            if self._is_down:
                logger.warning("gateway.jwt.jwks_url: there are keys again")
            self._keys, self._read_at_s, self._is_down = keys, began_s, False
        finally:
            self._question = None


async def _fetched(url: str) -> bytes:
    """What is there, over TLS whose certificate is checked; a redirect is not followed. Raises ValueError for what is
    no good answer, and the errors of httpx."""
    client = httpx.AsyncClient(
        timeout=_ANSWERS_WITHIN_S, proxy=proxy_for(url), trust_env=False, verify=httpx.create_ssl_context()
    )
    data = bytearray()
    async with asyncio.timeout(_COMES_WITHIN_S), client, client.stream("GET", url) as response:
        if response.status_code != 200:
            raise ValueError(f"it answers HTTP {response.status_code}")
        async for piece in response.aiter_bytes(chunk_size=16 * 1024):
            data += piece
            if len(data) > JWKS_BYTES_MAX:
                raise ValueError(f"it has more than {JWKS_BYTES_MAX:,} bytes")
    return bytes(data)


def usable_keys(document: bytes) -> dict[str, PublicKey]:
    """The public keys for signatures that have an id, each by it. Raises ValueError when there are none."""
    found: Any = json.loads(document)
    listed: Any = cast(Mapping[str, Any], found).get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise ValueError("it is no list of keys")
    keys: dict[str, PublicKey] = {}
    for each in cast(list[Any], listed)[:_KEYS_MAX]:
        if isinstance(each, dict) and (key := _usable(cast(dict[str, Any], each))) is not None:
            keys.setdefault(*key)
    if not keys:
        raise ValueError("it has no public key that is for signatures and has an id")
    return keys


def _usable(written: dict[str, Any]) -> tuple[str, PublicKey] | None:
    """A symmetric key is never one: whoever reads the list could sign with it."""
    kid, operations = written.get("kid"), written.get("key_ops", ["verify"])
    is_for_signatures = written.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
    is_public = written.get("kty") in ("RSA", "EC", "OKP") and written.get("alg") in (None, *get_args(Algorithm))
    if not is_public or not isinstance(kid, str) or not is_for_signatures:
        return None
    try:
        return kid, PublicKey(PyJWK(written).key, written.get("alg"))
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
