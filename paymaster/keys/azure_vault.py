"""Keys in Azure Key Vault: the newest version of the secret that has the key's name.

Imported only where a vault is configured: its packages take long to import.
"""

import asyncio
import re
from typing import Any, cast

from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError
from azure.keyvault.secrets import KeyVaultSecret
from azure.keyvault.secrets.aio import SecretClient

from paymaster.keys.api_key import (
    ApiKey,
    KeySourceDown,
    KeyUnavailable,
    KeyWithdrawn,
    check_key_name,
    why_unusable,
    without_margin,
)
from paymaster.keys.azure_identity import AzureIdentity, connection_options, why_no_connection
from paymaster.settings import AzureSettings, KeysSettings
from paymaster.values.json_reading import object_of, read_json

ANSWERS_WITHIN_S = 15.0
"""The vault and the signing in together."""


class VaultKeys:
    """The key `openai-api-key` is the secret `openai-api-key`. A byte order mark and white space around it, which
    `az keyvault secret set --file` takes along, do not belong to it. The vault is asked at each `get`."""

    def __init__(self, keys: KeysSettings, azure: AzureSettings) -> None:
        assert keys.vault_url is not None  # checked with the settings
        self._vault_url = keys.vault_url
        self._identity = AzureIdentity(azure)
        self._client = SecretClient(
            keys.vault_url,
            cast(AsyncTokenCredential, self._identity),  # its client wants one of two methods, and this has the newer
            verify_challenge_resource=keys.verify_challenge_resource,
            **connection_options(azure),
        )

    async def get(self, name: str) -> ApiKey:
        """Raises KeyWithdrawn, KeySourceDown, or KeyUnavailable for all that a person must mend."""
        found = await self._ask(check_key_name(name))
        if isinstance(found, KeyUnavailable):
            raise found  # nothing in this frame holds the value, and no other exception is under way
        return found

    async def close(self) -> None:
        """Ends the connections to the vault and to where we signed in."""
        await self._client.close()
        await self._identity.close()

    async def _ask(self, name: str) -> ApiKey | KeyUnavailable:
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                secret = await self._client.get_secret(name)
        except TimeoutError:
            return KeySourceDown(self._says(name, f"it has not answered within {ANSWERS_WITHIN_S:.0f} s"))
        except Exception as error:  # what answers may be no vault at all, and then the client fails in any way
            return self._problem(name, error)
        return self._key(name, secret)

    def _key(self, name: str, secret: KeyVaultSecret) -> ApiKey | KeyUnavailable:
        value = cast(object, secret.value)
        if not isinstance(value, str):
            return KeyUnavailable(self._says(name, "it answered without a value; " + _NO_VAULT))
        value = without_margin(value)
        reason = why_unusable(value)
        if reason is not None:
            return KeyUnavailable(self._says(name, f"the secret {reason}; set a new version of it"))
        properties = secret.properties
        return ApiKey(
            value,
            where=f"{self._vault_url}/secrets/{name}",
            version=properties.version,
            changed_at=properties.created_on,
            expires_at=properties.expires_on,
        )

    def _problem(self, name: str, error: Exception) -> KeyUnavailable:
        """What to do about it. Never the words of who answered, which may hold anything."""
        if isinstance(error, KeyUnavailable):
            return type(error)(self._says(name, str(error)))
        if isinstance(error, HttpResponseError) and error.status_code is not None:
            return self._refusal(name, error.status_code, _codes(error))
        if isinstance(error, OSError | ServiceRequestError | ServiceResponseError):
            return KeySourceDown(self._says(name, f"{why_no_connection(error)}; else check keys.vault_url"))
        if isinstance(error, ValueError) and "challenge" in str(error):
            return KeyUnavailable(
                self._says(
                    name,
                    "what it asks for as a sign-in is not for this address; check keys.vault_url; if it is a vault "
                    "behind a name of your own, set keys.verify_challenge_resource = false",
                )
            )
        return KeyUnavailable(self._says(name, f"{type(error).__name__}; {_NO_VAULT}"))

    def _refusal(self, name: str, status: int, codes: list[str]) -> KeyUnavailable:
        """What an answer other than success means."""
        vault = self._vault_url.removeprefix("https://").partition(".")[0]
        if status == 404 and "SecretNotFound" in codes:
            fix = f"az keyvault secret set --vault-name {vault} --name {name} --file FILE"
            return KeyWithdrawn(self._says(name, f"there is no such secret; run: {fix}"))
        if status == 403 and "SecretDisabled" in codes:
            fix = f"az keyvault secret set-attributes --vault-name {vault} --name {name} --enabled true"
            return KeyWithdrawn(self._says(name, f"the secret is disabled; set a new version, or run: {fix}"))
        said = f"HTTP {status}" + "".join(f", {code}" for code in codes)
        if status == 403:
            fix = 'give this identity the role "Key Vault Secrets User" and let its network through the firewall'
            return KeyUnavailable(self._says(name, f"it does not let us read the secret ({said}); {fix}"))
        if status == 401:
            fix = "check that azure.tenant_id is the directory of the vault, and azure.authority its cloud"
            return KeyUnavailable(self._says(name, f"it does not accept who we are ({said}); {fix}"))
        if status == 429:
            return KeySourceDown(self._says(name, f"too many questions ({said}); make keys.refresh_after longer"))
        if status >= 500 or status == 408:
            return KeySourceDown(self._says(name, f"{said}; later it may answer"))
        return KeyUnavailable(self._says(name, f"{said}; {_NO_VAULT}"))

    def _says(self, name: str, problem: str) -> str:
        return f"the key {name!r} cannot be had from {self._vault_url}: {problem}"


_NO_VAULT = "that is not how a vault answers: check keys.vault_url"


def _codes(error: HttpResponseError) -> list[str]:
    """The vault's words for programs, the outer one first."""
    try:
        said = object_of(object_of(read_json(cast(Any, error.response).text())).get("error"))
    except Exception:  # whatever the client finds wrong with an answer that is no vault's
        return []
    found = [said.get("code"), object_of(said.get("innererror")).get("code")]
    return [code for code in found if isinstance(code, str) and re.fullmatch(r"[A-Za-z]{1,60}", code)]
