"""API keys: looked up by name in the worker, at the moment of the call, and printed nowhere.

Configuration, workflows and histories carry the *name* of a key. The value exists only as an `ApiKey`, which gives it
out by `reveal()` and by nothing else: a key in a log line or a traceback needs somebody to write `reveal`.
"""

import os
import re
from collections.abc import Mapping
from typing import Never, Protocol

from paymaster.security.redaction import remember

_KEY_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_KEY_NAME_CHARACTERS_MAX = 64
_RANDOM_RUN = re.compile(r"[A-Za-z0-9]{24,}|(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{16,}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class KeyUnavailable(LookupError):
    """A key is not there or cannot be used. The message says which variable to set and never shows a value."""


class ApiKey:
    """The value of an API key. Every way of printing or storing it gives stars or raises."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        remember(value)  # before anybody can write it anywhere

    def reveal(self) -> str:
        """The key itself, for the request's header and for nothing else."""
        return self._value

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


class EnvironmentKeys:
    """Keys from environment variables.

    `openai-api-key` is PAYMASTER_KEY_OPENAI_API_KEY or, if that is not set, OPENAI_API_KEY, as other tools call it. The
    variables are read at each `get`, so that the next call uses a key that was changed in the process.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ

    async def get(self, name: str) -> ApiKey:
        own, usual = _variables(name)
        variable = self.where(name)
        if variable is None:
            raise KeyUnavailable(
                f"there is no key {name!r}: set the environment variable {own} (or {usual}, tried second)"
            )
        # Nothing in this frame holds the value: a traceback that shows locals must not show it.
        reason = _why_unusable(self._environ[variable])
        if reason is not None:
            raise KeyUnavailable(
                f"the key {name!r} cannot be used: {variable} {reason}; set it again (looked for {own}, then {usual})"
            )
        return ApiKey(self._environ[variable])

    def where(self, name: str) -> str | None:
        """The variable that holds this key, without its value. None: neither variable is set.

        The first that is set counts, even when it is empty: falling through would hide that it is wrong.
        """
        return next((variable for variable in _variables(name) if variable in self._environ), None)


def check_key_name(name: str) -> str:
    """The name, if it can be the name of a key. Raises ValueError otherwise, and never repeats what it was given.

    Somebody who pastes the key itself where its name belongs must not find it in a log afterwards.
    """
    if name.startswith(("sk-", "sk_")) or _RANDOM_RUN.search(name) or _UUID.search(name):
        raise ValueError(
            'this looks like an API key, and only the NAME of a key belongs here, like "openai-api-key"; put the key '
            "into the environment variable PAYMASTER_KEY_OPENAI_API_KEY, and replace it if this file was shared"
        )
    if not _KEY_NAME.fullmatch(name) or len(name) > _KEY_NAME_CHARACTERS_MAX:
        raise ValueError(
            'not the name of a key: write lower-case words and digits joined by "-", like "openai-api-key", '
            f"at most {_KEY_NAME_CHARACTERS_MAX} characters"
        )
    return name


def _variables(name: str) -> tuple[str, str]:
    usual = check_key_name(name).upper().replace("-", "_")
    return f"PAYMASTER_KEY_{usual}", usual


def _why_unusable(value: str) -> str | None:
    if not value:
        return "is empty"
    if value != value.strip():
        return "begins or ends with white space (a line break, perhaps)"
    if not all("!" <= character <= "~" for character in value):
        return "contains a character that no key has (a space, a control character or one outside ASCII)"
    return None
