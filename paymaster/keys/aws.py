"""The AWS credentials of where we run, as botocore finds them: variables, profiles, the role of a pod or of a machine.

Imported only where a service wants them: its packages take long to import.
"""

import asyncio

from botocore.credentials import RefreshableCredentials
from botocore.exceptions import ClientError
from botocore.session import Session

from paymaster.keys.api_key import ApiKey, KeySourceDown, KeyUnavailable
from paymaster.redaction import remember

ANSWERS_WITHIN_S = 15.0


class AwsCredentials:
    """A source with one key, ID:SECRET or ID:SECRET:SESSION-TOKEN. botocore keeps it, and refreshes what ends."""

    def __init__(self) -> None:
        self._session: Session | None = None

    async def get(self, name: str) -> ApiKey:
        """Credentials that are valid for some minutes at least. Raises KeyUnavailable."""
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                return await asyncio.to_thread(self._found)
        except KeyUnavailable:
            raise
        except TimeoutError:
            problem = KeySourceDown(f"no AWS credentials: no answer within {ANSWERS_WITHIN_S:.0f} s")
        except ClientError as error:
            problem = KeyUnavailable(
                f"no AWS credentials: AWS refuses them ({_code(error)}); check the role that this worker may assume"
            )
        except Exception as error:  # never in its own words, which may hold what was answered
            problem = KeySourceDown(f"no AWS credentials: who gives them does not answer ({type(error).__name__})")
        raise problem

    async def close(self) -> None:
        """There is nothing to end."""

    def _found(self) -> ApiKey:
        """Blocks while botocore asks whoever gives them."""
        self._session = self._session or Session()
        credentials = self._session.get_credentials()
        if not isinstance(credentials, RefreshableCredentials):
            self._session = None  # so that variables and files which have changed are read again
        if credentials is None:
            raise KeyUnavailable(
                "nothing here says who we are at AWS: give this machine or pod a role, set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or name a key in the service's `key`"
            )
        frozen = credentials.get_frozen_credentials()
        parts = [part for part in (frozen.access_key, frozen.secret_key, frozen.token) if part]
        for secret in parts[1:]:
            remember(secret)
        return ApiKey(":".join(parts), where=f"AWS ({credentials.method})")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "no reason given"))[:100]
