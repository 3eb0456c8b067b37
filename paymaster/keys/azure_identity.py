"""Who Paymaster is at Azure: one of azure-identity's credentials, as `[azure]` says.

Imported only where Azure is used: its packages take long to import.
"""

import os
import re
from typing import Any

from azure.core.credentials import AccessTokenInfo, TokenRequestOptions
from azure.core.credentials_async import AsyncSupportsTokenInfo
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError, ServiceResponseError
from azure.identity import CredentialUnavailableError
from azure.identity.aio import (
    ClientSecretCredential,
    DefaultAzureCredential,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)

from paymaster.keys.api_key import KeySourceDown, KeyUnavailable
from paymaster.keys.bounded_transport import BoundedTransport
from paymaster.redaction import remember
from paymaster.settings import AzureSettings

_TIMEOUTS: dict[str, Any] = {"connection_timeout": 5, "read_timeout": 5}
_QUICK: dict[str, Any] = {
    **_TIMEOUTS,
    "retry_total": 2,
    "retry_status": 0,  # what it answers is what we tell; to ask again later is the business of who asked
    "retry_backoff_factor": 0.2,
    "permit_redirects": False,
}
_REFUSALS = {
    "AADSTS7000222": "the client secret has expired; make a new one for the application",
    "AADSTS7000215": "the client secret is wrong; it is the secret's value that counts, not its id",
    "AADSTS700016": "this directory has no such application; check azure.client_id and azure.tenant_id",
    "AADSTS90002": "there is no such directory; check azure.tenant_id and azure.authority",
}
"""Entra ID's commonest refusals: https://learn.microsoft.com/entra/identity-platform/reference-error-codes."""


class AzureIdentity:
    """The credential of the configuration. Whatever goes wrong with it is a KeyUnavailable that says what to do."""

    def __init__(self, azure: AzureSettings) -> None:
        self._azure = azure
        self._credential: AsyncSupportsTokenInfo | None = None

    async def get_token_info(self, *scopes: str, options: TokenRequestOptions | None = None) -> AccessTokenInfo:
        """A token, kept and refreshed by azure-identity. The Azure clients call this. Raises KeyUnavailable."""
        if self._credential is None:
            self._credential = self._made()
        try:
            token = await self._credential.get_token_info(*scopes, options=options)
            remember(token.token)
            return token
        except Exception as error:  # what answers may be no Entra ID at all, and then the library fails in any way
            problem = self._problem(error)
        raise problem  # here, so that it carries nothing of what was answered

    async def close(self) -> None:
        """Ends the connections."""
        if self._credential is not None:
            await self._credential.close()

    def _made(self) -> AsyncSupportsTokenInfo:
        try:
            return _credential(self._azure)
        except ValueError as error:  # something is missing: the library's own words, or ours
            problem = str(error)
        raise KeyUnavailable(f"[azure] is not complete: {problem}")

    def _problem(self, error: Exception) -> KeyUnavailable:
        """Never in the words of who answered, which may hold anything."""
        if isinstance(error, ClientAuthenticationError):
            return self._refusal(error)
        if isinstance(error, OSError | ServiceRequestError | ServiceResponseError):
            return KeySourceDown(f"nobody to sign in at: {why_no_connection(error)}")
        return KeySourceDown(f"the server to sign in at does not answer as Entra ID does ({type(error).__name__})")

    def _refusal(self, error: ClientAuthenticationError) -> KeyUnavailable:
        if "not configured to acquire tokens for tenant" in str(error):
            return KeyUnavailable("the vault belongs to another directory; set azure.tenant_id to that one")
        code = re.search(r"AADSTS[0-9]{1,10}", str(error))
        if code is None and (isinstance(error, CredentialUnavailableError) or self._azure.credential == "default"):
            return KeyUnavailable(
                f"nothing here says who we are at Azure (azure.credential is {self._azure.credential!r}); give this "
                "machine an identity, set AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET, or run: az login"
            )
        said = type(error).__name__ if code is None else code[0]
        fix = _REFUSALS.get(said, "check azure.client_id, azure.tenant_id and what proves them")
        return KeyUnavailable(f"Azure does not sign us in ({said}): {fix}")


def why_no_connection(error: Exception) -> str:
    """What to look at when an Azure client got no answer at all."""
    if isinstance(error, OSError):  # of a file: what goes wrong with a connection comes as an error of the client
        return f"{error.filename or 'azure.ca_bundle'} cannot be read ({error.strerror})"
    match type(error.__cause__).__name__:  # aiohttp's, which is there only because the Azure clients use it
        case "ClientConnectorCertificateError":
            return "its certificate is not trusted here; name its authority in azure.ca_bundle or SSL_CERT_FILE"
        case "ClientConnectorDNSError":
            return "there is no such host"
        case "AnswerTooLarge":
            return "what answers there answers without an end"
        case _:
            return "no connection, or it was cut; check the network and proxies"


def connection_options(azure: AzureSettings) -> dict[str, Any]:
    """What the Azure clients need for a server that answers at once or not at all. Longer waits are ours."""
    return _QUICK | _trust(azure) | {"transport": BoundedTransport(**_TIMEOUTS, **_trust(azure))}


def _credential(azure: AzureSettings) -> AsyncSupportsTokenInfo:
    authority: dict[str, Any] = {} if azure.authority is None else {"authority": azure.authority}
    client_id: dict[str, Any] = {} if azure.client_id is None else {"client_id": azure.client_id}
    tenant_id: dict[str, Any] = {} if azure.tenant_id is None else {"tenant_id": azure.tenant_id}
    match azure.credential:
        case "default":
            trust = {**_trust(azure), "transport": BoundedTransport(**_trust(azure))}
            named = {f"{kind}_client_id": azure.client_id for kind in ("managed_identity", "workload_identity")}
            tenants = {f"workload_identity_{name}": value for name, value in tenant_id.items()}
            return DefaultAzureCredential(**authority, **(named if azure.client_id else {}), **tenants, **trust)
        case "managed-identity":  # its own retries know what its endpoint answers on a machine that has just started
            return ManagedIdentityCredential(**client_id, transport=BoundedTransport())
        case "workload-identity":
            return WorkloadIdentityCredential(**client_id, **tenant_id, **authority, **connection_options(azure))
        case "client-secret":
            given = azure.client_secret
            secret = _variable("AZURE_CLIENT_SECRET", "client_secret") if given is None else given.get_secret_value()
            remember(secret)
            return ClientSecretCredential(
                azure.tenant_id or _variable("AZURE_TENANT_ID", "tenant_id"),
                azure.client_id or _variable("AZURE_CLIENT_ID", "client_id"),
                secret,
                **authority,
                **connection_options(azure),
            )


def _variable(name: str, setting: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise ValueError(f'credential = "client-secret" needs {setting}: set it or {name}')
    return value


def _trust(azure: AzureSettings) -> dict[str, Any]:
    return {} if azure.ca_bundle is None else {"connection_verify": str(azure.ca_bundle)}
