"""Tokens of Entra ID for Azure OpenAI, instead of keys: asked for by scope, kept and refreshed by azure-identity.

Imported only where a service wants them: its packages take long to import.
"""

import asyncio
from datetime import UTC, datetime

from paymaster.keys.api_key import ApiKey, KeySourceDown, KeyUnavailable
from paymaster.keys.azure_identity import AzureIdentity
from paymaster.settings import AzureSettings

ANSWERS_WITHIN_S = 15.0


class EntraTokens:
    """A source of tokens; a scope is the name of one."""

    def __init__(self, azure: AzureSettings) -> None:
        self._identity = AzureIdentity(azure)

    async def get(self, name: str) -> ApiKey:
        """A token that is valid for some minutes at least. Raises KeyUnavailable."""
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                token = await self._identity.get_token_info(name)
        except TimeoutError:
            problem = KeySourceDown(f"no token for {name}: no answer within {ANSWERS_WITHIN_S:.0f} s")
        except KeyUnavailable as error:
            problem = type(error)(f"no token for {name}: {error}")
        else:
            return ApiKey(token.token, where="Entra ID", expires_at=datetime.fromtimestamp(token.expires_on, UTC))
        raise problem

    async def close(self) -> None:
        """Ends the connections."""
        await self._identity.close()
