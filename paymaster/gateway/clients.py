"""Who asks the gateway: a client of the configuration or of the database, by a key; or somebody whom the company's
identity provider knows, by a token."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from hmac import compare_digest
from typing import NamedTuple
from urllib.parse import urlsplit

from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.gateway.claims import terms_of
from paymaster.gateway.jwks import Jwks
from paymaster.gateway.last_used import LastUsed, Write
from paymaster.gateway.stored_clients import ClientsUnknown, StoredClients
from paymaster.gateway.terms import ClientTerms, NotAClient, budget_below
from paymaster.gateway.tokens import Tokens
from paymaster.keys.api_key import KeySourceDown, KeyUnavailable, ServiceKeys
from paymaster.settings import GatewaySettings, Settings
from paymaster.settings.gateway_clients import GatewayClientSettings
from paymaster.settings.kinds import is_loopback
from paymaster.storage.clients import clients_by_key_id, note_last_used
from paymaster.values.client_key import key_digest, key_id_of

__all__ = ["NOBODY", "ClientTerms", "Clients", "NotAClient", "budget_below", "open_clients"]

NOBODY = "anybody-here"
"""The name of whoever asks without a key a gateway that listens on its own machine only."""
KEY_HEADERS = ("x-api-key", "api-key", "x-goog-api-key")
"""Of Anthropic, Azure and Google; OpenAI's is `Authorization: Bearer`."""
CREDENTIAL_CHARACTERS_MAX = 16 * 1024
OWN_KEY_CHARACTERS_MIN = 20
"""Of a client's key that is not made here; a shorter one could be guessed."""
_WRITTEN_AT_THE_END_WITHIN_S = 3.0
logger = logging.getLogger(__name__)


class Stored(NamedTuple):
    """The clients of the database."""

    clients: StoredClients
    used: LastUsed


class Clients:
    """Who may ask: by the headers of a request. `open_clients` makes it of a configuration."""

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        keys: ServiceKeys | None = None,
        stored: Stored | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._stored = stored
        self._tokens = tokens
        self._digests = {
            name: bytes.fromhex(table.key_sha256)
            for name, table in settings.clients.items()
            if table.key_sha256 is not None
        }

    async def of(self, headers: Mapping[str, str]) -> ClientTerms:
        """Who sent these headers, by their names in lower case. Raises NotAClient."""
        credential = credential_in(headers)
        if credential is not None:
            name = self._named_by_digest(credential)
            key_id = key_id_of(credential)
            if name is None and key_id is not None:
                return await self._stored_client(key_id, credential)
            if name is None and self._tokens is not None and credential.count(".") == 2:
                return await self._known_to_provider(self._tokens, credential)
            name = name or await self._named_by_key(credential)
            if name is not None:
                return _configured(name, self._settings.clients[name])
        if self._settings.budget is not None and not self._settings.clients and self._tokens is None:
            return _anybody_here(headers, self._settings.budget)
        if credential is None:
            detail = "send your key as `Authorization: Bearer …`, `x-api-key`, `api-key` or `x-goog-api-key`"
            raise NotAClient(401, "no_key", detail)
        raise NotAClient(401, "unknown_key", "nobody has this key here")

    # -------------------------------------------------------- clients of the configuration

    def _named_by_digest(self, credential: str) -> str | None:
        digest, found = key_digest(credential), None
        for name, own in self._digests.items():
            if compare_digest(own, digest):
                found = name
        return found

    async def _named_by_key(self, credential: str) -> str | None:
        """The client whose key is in the key ring. Raises NotAClient when its source does not answer."""
        digest, found, is_down = key_digest(credential), None, False
        for name, table in self._settings.clients.items():
            if table.key is None or self._keys is None:
                continue
            try:
                key = (await self._keys.get(table.key)).reveal()
            except KeySourceDown:
                is_down = True
            except KeyUnavailable:
                continue  # said at the start; nobody has it
            else:
                if len(key) >= OWN_KEY_CHARACTERS_MIN and compare_digest(key_digest(key), digest):
                    found = name
        if found is None and is_down:
            raise NotAClient(503, "clients_unknown", "the keys of clients cannot be fetched now; try again")
        return found

    # -------------------------------------------------------- others

    async def _stored_client(self, key_id: str, credential: str) -> ClientTerms:
        """Raises NotAClient."""
        if self._stored is None:
            raise NotAClient(401, "unknown_key", f"nobody has the key {key_id} here: this gateway has no database")
        try:
            client = await self._stored.clients.find(key_id)
        except ClientsUnknown:
            raise NotAClient(503, "clients_unknown", "the database does not say who has this key; try again") from None
        if client is None or not compare_digest(client.key_sha256, key_digest(credential)):
            raise NotAClient(401, "unknown_key", f"nobody has the key {key_id} here")
        if client.revoked_at is not None:
            raise NotAClient(401, "revoked_key", f"the key {key_id} of {client.name} was revoked")
        _check_end(client.name, client.expires_at)
        self._stored.used.note(key_id)
        return ClientTerms(
            client.name,
            client.budget,
            routes=None if client.routes is None else frozenset(client.routes),
            expires_at=client.expires_at,
            requests_at_once=client.requests_at_once,
        )

    async def _known_to_provider(self, tokens: Tokens, token: str) -> ClientTerms:
        """Raises NotAClient."""
        return terms_of(await tokens.claims_of(token), tokens.settings)


def credential_in(headers: Mapping[str, str]) -> str | None:
    """The key or token of a request. None: it has none. Raises NotAClient for several, and for what can be none."""
    found = {name: headers[name].strip() for name in KEY_HEADERS if headers.get(name, "").strip()}
    authorization = headers.get("authorization", "").strip()
    if authorization:
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise NotAClient(401, "bad_key", "write `Authorization: Bearer` and your key behind it")
        if credential.strip():
            found["authorization"] = credential.strip()
    if len(set(found.values())) > 1:
        raise NotAClient(401, "several_keys", f"{' and '.join(sorted(found))} have different keys; send one of them")
    credential = next(iter(found.values()), None)
    if credential is not None and len(credential) > CREDENTIAL_CHARACTERS_MAX:
        raise NotAClient(401, "bad_key", f"a key or token has at most {CREDENTIAL_CHARACTERS_MAX:,} characters")
    if credential is not None and not all("!" <= character <= "~" for character in credential):
        raise NotAClient(401, "bad_key", "the key has a character that no key has")
    return credential


def _configured(name: str, table: GatewayClientSettings) -> ClientTerms:
    """Raises NotAClient."""
    _check_end(name, table.expires_at)
    return ClientTerms(
        name,
        table.budget,
        routes=None if table.routes is None else frozenset(table.routes),
        expires_at=table.expires_at,
        requests_at_once=table.requests_at_once,
    )


def _check_end(name: str, expires_at: datetime | None) -> None:
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise NotAClient(401, "key_expired", f"the key of {name} ended at {expires_at:%Y-%m-%d %H:%M} UTC")


def _anybody_here(headers: Mapping[str, str], budget: str) -> ClientTerms:
    """A page that a browser on this machine shows is not let in, wherever its name leads to."""
    hosts = [f"//{headers.get('host', 'localhost')}", headers.get("origin", "//localhost")]
    if not all(_is_here(host) for host in hosts):
        raise NotAClient(403, "not_from_here", "without clients only programs on this machine are served")
    return ClientTerms(NOBODY, budget)


def _is_here(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


# ---------------------------------------------------------------- what a gateway runs


@asynccontextmanager
async def open_clients(settings: Settings, keys: ServiceKeys, engine: AsyncEngine | None) -> AsyncGenerator[Clients]:
    """Those of the configuration and, where there is a database, those in it. Writes at the end when keys were used."""
    gateway = settings.gateway
    async with AsyncExitStack() as closing:
        stored = tokens = None
        await _say_which_are_missing(gateway, keys)
        if engine is not None:
            ledger = settings.ledger.name
            known = StoredClients(partial(clients_by_key_id, engine, ledger))
            closing.push_async_callback(known.close)
            stored = Stored(known, await closing.enter_async_context(_written(partial(note_last_used, engine, ledger))))
        if gateway.jwt is not None:
            jwks = Jwks(gateway.jwt.jwks_url)
            closing.push_async_callback(jwks.close)
            tokens = Tokens(gateway.jwt, jwks)
        yield Clients(gateway, keys=keys, stored=stored, tokens=tokens)


@asynccontextmanager
async def _written(write: Write) -> AsyncGenerator[LastUsed]:
    """Writes once a minute, and once more at the end."""
    used = LastUsed(write)
    writing = asyncio.create_task(used.write_every_minute(), name="last used")
    try:
        yield used
    finally:
        writing.cancel()
        await asyncio.wait([writing])
        with suppress(TimeoutError):
            await asyncio.wait_for(used.write(), _WRITTEN_AT_THE_END_WITHIN_S)


async def _say_which_are_missing(gateway: GatewaySettings, keys: ServiceKeys) -> None:
    for name, table in gateway.clients.items():
        if table.key is None:
            continue
        try:
            key = await keys.get(table.key)
        except KeyUnavailable as error:
            logger.error("gateway.clients.%s: %s", name, error)
        else:
            if len(key.reveal()) < OWN_KEY_CHARACTERS_MIN:
                logger.error("gateway.clients.%s: its key could be guessed and is not taken; make a longer one", name)
