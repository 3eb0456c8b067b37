"""count_tokens: how many input tokens a request has, where money is in the way of the bound that its bytes give."""

from collections.abc import Mapping

from temporalio import activity

from activities.request_bodies import BodyOutOfReach, RequestBodies
from paymaster.keys.api_key import ServiceKeys
from paymaster.messages import CountRequest, TokenCount
from paymaster.providers.connections import Connections
from paymaster.providers.counting import TokenCounting
from paymaster.providers.provider import CannotCount
from paymaster.settings import ServiceSettings
from paymaster.stored_bodies import BodyGone

READ_WITHIN_S = 10.0
"""How long a stored request is waited for."""


class CountTokensActivities:
    def __init__(
        self,
        services: Mapping[str, ServiceSettings],
        keys: ServiceKeys,
        connections: Connections,
        requests: RequestBodies | None = None,
    ) -> None:
        """`requests` None: those whose bodies are stored are not counted."""
        self._counting = TokenCounting(services, keys, connections)
        self._requests = requests or RequestBodies()

    @activity.defn
    async def count_tokens(self, asked: CountRequest) -> TokenCount:
        """The count, or None, with a warning in the log: a bound of bytes is then what the call has to do with."""
        name = f"{asked.candidate.service}/{asked.candidate.model}"
        try:
            async with self._requests.whole(asked.request, READ_WITHIN_S) as request:
                return TokenCount(tokens=await self._counting.count(request, asked.candidate))
        except (CannotCount, BodyGone, BodyOutOfReach) as error:
            activity.logger.warning("the tokens of a call for %s were not counted: %s", name, error)
        except Exception as error:  # its text may hold anything
            activity.logger.error("a defect in counting for %s: %s", name, type(error).__name__)
        return TokenCount(tokens=None)
