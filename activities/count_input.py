"""count_input: how many input tokens a request has, for a program that asks before it calls."""

from temporalio import activity
from temporalio.common import RawValue

from paymaster.keys.api_key import ServiceKeys
from paymaster.messages import Candidate, LLMRequest
from paymaster.messages.call_steps import InputCount
from paymaster.providers.connections import Connections
from paymaster.providers.counting import TokenCounting
from paymaster.providers.provider import CannotCount
from paymaster.security.payloads import PLAIN, as_raw, in_plain_text, read_raw
from paymaster.settings import Settings, split_candidate

_OUTPUT_TOKENS = 4_096
"""An output cap, without which some formats cannot be written; no counter looks at it."""


class CountInputActivities:
    def __init__(self, settings: Settings, keys: ServiceKeys, connections: Connections) -> None:
        self._settings = settings
        self._counting = TokenCounting(settings.services, keys, connections)

    @activity.defn
    async def count_input(self, message: RawValue) -> RawValue:
        """`message` is an LLMRequest, the result an InputCount: in plain text for whoever asks in plain text."""
        count = await self._count(read_raw(message, LLMRequest))
        return in_plain_text(count) if PLAIN in message.payload.metadata else as_raw(count)

    async def _count(self, request: LLMRequest) -> InputCount:
        """For the first candidate of its route that somebody can count for."""
        problems: list[str] = []
        for name in self._names(request.route):
            service, model = split_candidate(name)
            candidate = Candidate(service=service, model=model, max_output_tokens=_OUTPUT_TOKENS, price=None)
            try:
                return InputCount(tokens=await self._counting.count(request, candidate, asked=True))
            except CannotCount as error:
                problems.append(f"{name}: {error}")
            except Exception as error:  # its text may hold anything
                activity.logger.error("a defect in counting for %s: %s", name, type(error).__name__)
                problems.append(f"{name}: an internal error")
        unknown = f"there is no route {request.route!r} in this worker's configuration"
        return InputCount(tokens=None, detail="; ".join(problems) or unknown)

    def _names(self, route: str) -> tuple[str, ...]:
        """The candidates of a route, or the one that is named in its place."""
        if route in self._settings.routes:
            return self._settings.routes[route].names
        service, _, model = route.partition("/")
        return (route,) if model and service in self._settings.services else ()
