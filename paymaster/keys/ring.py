"""What services are called with: keys from the source that the configuration names, tokens of Entra ID and of
Google Cloud, and the credentials that AWS gives to where we run."""

from collections.abc import Mapping
from datetime import timedelta
from importlib import import_module

from paymaster.keys.api_key import ApiKey, EnvironmentKeys, KeySource
from paymaster.keys.cache import WAIT_AT_MOST_S, KeyCache
from paymaster.keys.file import FileKeys
from paymaster.settings import Settings
from paymaster.settings.kinds import AWS_CREDENTIALS
from paymaster.values.extras import names_extra

TOKENS_ASKED_AFTER = timedelta(minutes=1)
TOKENS_KEPT_IN_OUTAGE = timedelta(minutes=3)
"""Together less than the five minutes before its end at which azure-identity and `GoogleTokens` look for a new token,
and the ten at which botocore waits for new credentials: it is they who keep them, and we only spare them being asked by
every call."""


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
    """What `ServiceSettings.key_name` asks for, kept in memory: keys by their names; tokens and credentials by URLs."""

    def __init__(self, keys: KeyCache, others: Mapping[str, KeyCache]) -> None:
        """`others`: who has what is not a key, by the scheme of its URL."""
        self._keys = keys
        self._others = others

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
        """Closes the connections to all sources."""
        for cache in (self._keys, *self._others.values()):
            await cache.close()

    def _holding(self, name: str) -> KeyCache:
        # No name of a key can be a URL.
        scheme, separator, _ = name.partition("://")
        return self._others[scheme] if separator else self._keys


def named_keys(settings: Settings, *, wait_at_most_s: float = WAIT_AT_MOST_S) -> KeyCache:
    """The keys that have names, kept in memory for as long as `[keys]` says. Close it.

    Raises ExtraMissing for Azure Key Vault without the extra `azure`.
    """
    return KeyCache(
        key_source(settings),
        refresh_after=settings.keys.refresh_after,
        keep_in_outage=settings.keys.keep_in_outage,
        wait_at_most_s=wait_at_most_s,
    )


def kept_keys(settings: Settings, *, wait_at_most_s: float = WAIT_AT_MOST_S) -> KeyRing:
    """The keys, tokens and credentials of all services, kept in memory for as long as `[keys]` says. Close it.

    Raises ExtraMissing where an extra would be needed that is not installed.
    """
    keys = named_keys(settings, wait_at_most_s=wait_at_most_s)

    def kept_shortly(source: KeySource) -> KeyCache:
        return KeyCache(
            source,
            refresh_after=TOKENS_ASKED_AFTER,
            keep_in_outage=TOKENS_KEPT_IN_OUTAGE,
            wait_at_most_s=wait_at_most_s,
        )

    others: dict[str, KeyCache] = {}
    services = settings.services.values()
    # Each is imported only where it is needed, because its packages take long to import.
    if any(service.auth == "entra" for service in services):
        with names_extra('auth = "entra"'):
            from paymaster.keys.entra import EntraTokens

        others["https"] = kept_shortly(EntraTokens(settings.azure))
    if any(service.api == "bedrock" for service in services):
        with names_extra('api = "bedrock"'):
            # Now, and not in the middle of the first call.
            for module in ("botocore.auth", "botocore.eventstream"):
                import_module(module)
    if any(service.key_name == AWS_CREDENTIALS for service in services):
        from paymaster.keys.aws import AwsCredentials

        others["aws"] = kept_shortly(AwsCredentials())
    if any(service.auth == "google" for service in services):
        with names_extra('auth = "google"'):
            from paymaster.keys.google_cloud import GoogleTokens

        others["google"] = kept_shortly(GoogleTokens(keys))
    return KeyRing(keys, others)
