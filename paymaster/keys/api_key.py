"""API keys: looked up by name in the worker, at the moment of the call, and printed nowhere.

Configuration, workflows and histories carry the *name* of a key. The value exists only as an `ApiKey`, which gives it
out by `reveal()` and by nothing else: a key in a log line or a traceback needs somebody to write `reveal`.

Here is what all sources share, and the simplest of them; `key_ring` opens the one that the configuration names.
"""

import os
from collections.abc import Mapping
from datetime import datetime
from typing import Never, Protocol

from paymaster.redaction import remember
from paymaster.values.key_name import check_key_name


class KeyUnavailable(LookupError):
    """A key is not there or cannot be used, or its source cannot be asked. The message says what to do about it and
    never shows a value."""


class KeyWithdrawn(KeyUnavailable):
    """The source answered that there is no such key or that it must not be used. A copy of it is not used either."""


class KeySourceDown(KeyUnavailable):
    """The source did not answer, or not now: nothing is known about the key. Later it may be there."""


class ApiKey:
    """The value of an API key. Every way of printing or storing it gives stars or raises.

    `where` it was found and its `version` are names for people. `changed_at` is when this version was made,
    `expires_at` when its owner wants it to end. None, all of them: the source does not know.
    """

    __slots__ = ("_value", "changed_at", "expires_at", "version", "where")

    def __init__(
        self,
        value: str,
        *,
        where: str | None = None,
        version: str | None = None,
        changed_at: datetime | None = None,
        expires_at: datetime | None = None,
    ) -> None:
        self._value = value
        remember(value)  # before anybody can write it anywhere
        self.where = where
        self.version = version
        self.changed_at = changed_at
        self.expires_at = expires_at

    def reveal(self) -> str:
        """The key itself, for the request's header and for nothing else."""
        return self._value

    def has_value_of(self, other: "ApiKey") -> bool:
        """Whether both are the same key, whatever version the source calls it."""
        return self._value == other._value

    def __repr__(self) -> str:
        return "ApiKey('**********')"

    def __str__(self) -> str:
        return "**********"

    def __getstate__(self) -> Never:
        # pickle and copy ask for this, whatever the protocol; without it they would take the slot's value.
        raise TypeError("an ApiKey cannot be copied or stored; pass the key's name instead")


class KeySource(Protocol):
    """Where keys come from."""

    async def get(self, name: str) -> ApiKey:
        """The key of this name. Raises KeyUnavailable, saying how to provide it, when none can be used."""
        ...

    async def close(self) -> None:
        """Ends its connections, if it has any."""
        ...


class ServiceKeys(Protocol):
    """Keys that are kept in memory, as those who call services need them; `KeyCache` says more."""

    async def get(self, name: str) -> ApiKey: ...

    async def replaced(self, name: str, refused: ApiKey) -> bool: ...

    def outage(self, name: str) -> str | None: ...


class EnvironmentKeys:
    """Keys from environment variables.

    `openai-api-key` is PAYMASTER_KEY_OPENAI_API_KEY or, if that is not set, OPENAI_API_KEY, as other tools call it. The
    variables are read at each `get`, so that the next call uses a key that was changed in the process.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ

    async def get(self, name: str) -> ApiKey:
        own, usual = _variables(name)
        variable = next((variable for variable in (own, usual) if variable in self._environ), None)
        # The first that is set counts, even when it is empty: falling through would hide that it is wrong.
        if variable is None:
            raise KeyUnavailable(
                f"there is no key {name!r}: set {usual} (or {own}, which counts first) where this runs, then restart it"
            )
        # Nothing in this frame holds the value: a traceback that shows locals must not show it.
        reason = why_unusable(self._environ[variable])
        if reason is not None:
            raise KeyUnavailable(
                f"the key {name!r} cannot be used: {variable} {reason}; set it again (looked for {own}, then {usual})"
            )
        return ApiKey(self._environ[variable], where=variable)

    async def close(self) -> None:
        """There is nothing to end."""


def _variables(name: str) -> tuple[str, str]:
    usual = check_key_name(name).upper().replace("-", "_")
    return f"PAYMASTER_KEY_{usual}", usual


def without_margin(value: str) -> str:
    """The value as it was meant: editors and commands add a byte order mark in front and a line break at the end."""
    return value.strip().removeprefix("\ufeff").strip()


def why_unusable(value: str) -> str | None:
    """Why no request can carry this value as a key; None: one can."""
    if not value:
        return "is empty"
    if value != value.strip():
        return "begins or ends with white space (a line break, perhaps)"
    if not all("!" <= character <= "~" for character in value):
        return "contains a character that no key has (a space, a control character or one outside ASCII)"
    return None
