"""Tokens of Google Cloud for Vertex AI, which google-auth gets: for a service account whose file is a key, or for who
we are where we run (application default credentials).

Imported only where a service wants them: its packages take long to import.
"""

import asyncio
import json
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import google.auth
from google.auth.credentials import Credentials
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError
from google.auth.transport.requests import Request
from google.oauth2 import service_account

from paymaster.keys.api_key import ApiKey, KeySource, KeySourceDown, KeyUnavailable
from paymaster.redaction import remember
from paymaster.settings.kinds import GOOGLE_TOKENS

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
ANSWERS_WITHIN_S = 15.0
_TIMEOUT_S = 5
_RENEWED_BEFORE_END = timedelta(minutes=5)


class _Kept(NamedTuple):
    key: ApiKey | None
    """The file that the credentials were made of; None for those of where we run."""
    credentials: Credentials


class GoogleTokens:
    """A source of tokens by the names of keys that have a service account's file. No name: who we are where we run."""

    def __init__(self, keys: KeySource) -> None:
        self._keys = keys
        self._kept: dict[str, _Kept] = {}

    async def get(self, name: str) -> ApiKey:
        """A token that is valid for some minutes at least. Raises KeyUnavailable."""
        key_name = name.removeprefix(GOOGLE_TOKENS)
        key = await self._keys.get(key_name) if key_name else None
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                return await asyncio.to_thread(self._token, key_name, key)
        except KeyUnavailable:
            raise
        except TimeoutError:
            problem = KeySourceDown(f"no token of Google Cloud: no answer within {ANSWERS_WITHIN_S:.0f} s")
        except DefaultCredentialsError:
            problem = KeyUnavailable(
                "nothing here says who we are at Google Cloud: give this machine or pod a service account, set "
                "GOOGLE_APPLICATION_CREDENTIALS, or name a key with a service account's file in the service's `key`"
            )
        except RefreshError as error:  # its words, and those of others, may hold what was answered
            if error.retryable or isinstance(error.__cause__, TransportError):
                problem = KeySourceDown("no token of Google Cloud: who gives them has trouble of their own")
            else:
                problem = KeyUnavailable(
                    "Google Cloud gives no token: the service account, or its key, is unknown, deleted or disabled"
                )
        except TransportError as error:
            problem = KeySourceDown(f"no token of Google Cloud: nobody answers ({type(error).__name__})")
        except Exception as error:
            problem = KeySourceDown(f"no token of Google Cloud: {type(error).__name__}")
        raise problem

    async def close(self) -> None:
        """There is nothing to end: the keys are closed by whoever gave them."""

    def _token(self, key_name: str, key: ApiKey | None) -> ApiKey:
        """Blocks while Google is asked."""
        kept = self._kept.get(key_name)
        if kept is None or (key is not None and kept.key is not None and not kept.key.has_value_of(key)):
            kept = _Kept(key, _of_where_we_run() if key is None else _of_service_account(key_name, key))
        credentials = kept.credentials
        if credentials.token is None or _ends_soon(credentials):
            credentials.refresh(partial(Request(), timeout=_TIMEOUT_S))
        self._kept[key_name] = kept
        return ApiKey(str(credentials.token), where="Google Cloud", expires_at=_end(credentials))


def _of_where_we_run() -> Credentials:
    return google.auth.default(scopes=SCOPES)[0]  # pyright: ignore[reportUnknownVariableType] - its own types lack it


def _of_service_account(name: str, key: ApiKey) -> Credentials:
    """Raises KeyUnavailable, in words that show nothing of the file."""
    try:
        info: dict[str, Any] = json.loads(b64decode(key.reveal(), validate=True))
        remember(info["private_key"])
        return service_account.Credentials.from_service_account_info(info, scopes=SCOPES)
    except Exception:  # whatever the libraries make of it; their own words may hold the file
        problem = KeyUnavailable(
            f"the key {name!r} is no service account of Google Cloud: store its JSON file in base64 "
            "(base64 -w0 FILE), without line breaks"
        )
    raise problem


def _end(credentials: Credentials) -> datetime | None:
    """google-auth has it in UTC, without saying so."""
    return None if credentials.expiry is None else credentials.expiry.replace(tzinfo=UTC)


def _ends_soon(credentials: Credentials) -> bool:
    end = _end(credentials)
    return end is not None and end - datetime.now(UTC) < _RENEWED_BEFORE_END
