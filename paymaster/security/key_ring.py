"""The keys that a worker calls services with: from the source that the configuration names, kept in memory."""

from paymaster.security.key_cache import KeyCache
from paymaster.security.key_file import FileKeys
from paymaster.security.keys import EnvironmentKeys, KeySource
from paymaster.settings import Settings


def key_source(settings: Settings) -> KeySource:
    """The source itself, which is asked anew at each `get`. Close it."""
    keys = settings.keys
    match keys.source:
        case "env":
            return EnvironmentKeys()
        case "file":
            assert keys.folder is not None  # checked with the settings
            return FileKeys(keys.folder)
        case "azure-key-vault":
            from paymaster.security.key_vault import VaultKeys  # here, because its packages take long to import

            return VaultKeys(keys, settings.azure)


def kept_keys(settings: Settings) -> KeyCache:
    """The same, kept in memory for as long as `[keys]` says. Close it."""
    keys = settings.keys
    return KeyCache(key_source(settings), refresh_after=keys.refresh_after, keep_in_outage=keys.keep_in_outage)
