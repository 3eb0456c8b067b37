"""count_tokens: how many input tokens a request has, where money is in the way of the bound that its bytes give."""

from collections.abc import Mapping

from temporalio import activity

from paymaster.keys.api_key import ServiceKeys
from paymaster.messages import CountRequest, TokenCount
from paymaster.providers.connections import Connections
from paymaster.providers.counting import TokenCounting
from paymaster.providers.provider import CannotCount
from paymaster.settings import ServiceSettings


class CountTokensActivities:
    def __init__(self, services: Mapping[str, ServiceSettings], keys: ServiceKeys, connections: Connections) -> None:
        self._counting = TokenCounting(services, keys, connections)

    @activity.defn
    async def count_tokens(self, asked: CountRequest) -> TokenCount:
        """The count, or None, with a warning in the log: a bound of bytes is then what the call has to do with."""
        name = f"{asked.candidate.service}/{asked.candidate.model}"
        try:
            return TokenCount(tokens=await self._counting.count(asked.request, asked.candidate))
        except CannotCount as error:
            activity.logger.warning("the tokens of a call for %s were not counted: %s", name, error)
        except Exception as error:  # its text may hold anything
            activity.logger.error("a defect in counting for %s: %s", name, type(error).__name__)
        return TokenCount(tokens=None)
