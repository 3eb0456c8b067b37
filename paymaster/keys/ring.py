"""What services are called with: keys from the source that the configuration names, and tokens of Entra ID."""

from datetime import timedelta

from paymaster.keys.api_key import ApiKey, EnvironmentKeys, KeySource
from paymaster.keys.cache import WAIT_AT_MOST_S, KeyCache
from paymaster.keys.file import FileKeys
from paymaster.settings import Settings
from paymaster.values.extras import names_extra

TOKENS_ASKED_AFTER = timedelta(minutes=1)
TOKENS_KEPT_IN_OUTAGE = timedelta(minutes=3)
"""Together less than the five minutes before its end at which azure-identity begins to look for a new token: it is
azure-identity that keeps them, and we only spare it being asked by every call."""


def key_source(settings: Settings) -> KeySource:
    """The source of the keys itself, which is asked anew at each `get`. Close it.

    Raises ExtraMissing for Azure Key Vault without the extra `azure`.
    """
    keys = settings.keys
    match keys.source:
        case "env":
            return EnvironmentKeys()
        case "file":
            assert keys.folder is not None  # checked with the settings
            return FileKeys(keys.folder)
        case "azure-key-vault":
            with names_extra("keys in Azure Key Vault"):  # here, because its packages take long to import
                from paymaster.keys.azure_vault import VaultKeys

            return VaultKeys(keys, settings.azure)


class KeyRing:
    """Keys by their names and tokens by their scopes, both kept in memory: what `ServiceSettings.key_name` asks for."""

    def __init__(self, keys: KeyCache, tokens: KeyCache | None) -> None:
        """`tokens` None: no service wants any."""
        self._keys = keys
        self._tokens = tokens

    async def get(self, name: str) -> ApiKey:
        """The key of this name, from its source or kept. Raises KeyUnavailable."""
        return await self._holding(name).get(name)

    async def replaced(self, name: str, refused: ApiKey) -> bool:
        """Whether its source has another key than the one that a service refused."""
        return await self._holding(name).replaced(name, refused)

    def outage(self, name: str) -> str | None:
        """Why the source of this key does not answer; None while it does."""
        return self._holding(name).outage(name)

    async def close(self) -> None:
        """Closes the connections to both sources."""
        await self._keys.close()
        if self._tokens is not None:
            await self._tokens.close()

    def _holding(self, name: str) -> KeyCache:
        # A scope is a URL, and no name of a key can be one.
        return self._tokens if self._tokens is not None and "://" in name else self._keys


def kept_keys(settings: Settings, *, wait_at_most_s: float = WAIT_AT_MOST_S) -> KeyRing:
    """The keys and tokens of all services, kept in memory for as long as `[keys]` says. Close it.

    Raises ExtraMissing where the extra `azure` would be needed.
    """
    keys = KeyCache(
        key_source(settings),
        refresh_after=settings.keys.refresh_after,
        keep_in_outage=settings.keys.keep_in_outage,
        wait_at_most_s=wait_at_most_s,
    )
    if not any(service.auth == "entra" for service in settings.services.values()):
        return KeyRing(keys, None)
    with names_extra('auth = "entra"'):  # here, because its packages take long to import
        from paymaster.keys.entra import EntraTokens

    tokens = KeyCache(
        EntraTokens(settings.azure),
        refresh_after=TOKENS_ASKED_AFTER,
        keep_in_outage=TOKENS_KEPT_IN_OUTAGE,
        wait_at_most_s=wait_at_most_s,
    )
    return KeyRing(keys, tokens)
