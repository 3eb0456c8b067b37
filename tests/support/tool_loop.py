"""An agent's tool loop over call_service, in front of replayed providers."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
from raw_server import SomeKeys, failure_of
from replayed_provider import ReplayedProvider
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from wire import GRANT, WEATHER

from activities.call_service import CallServiceActivities
from paymaster.ledger.group_commit import GroupCommit
from paymaster.messages import AttemptReport, ChatMessage, Completion, LLMRequest, LLMResult, Outcome, ServiceCall
from paymaster.providers.connections import Connections
from paymaster.settings import ServiceSettings


class Replaying(Connections):
    """Connections that all end at replayed providers, under the providers' own addresses."""

    def __init__(self, providers: Mapping[str, ReplayedProvider]) -> None:
        super().__init__({})
        self._replayed = {name: provider.client() for name, provider in providers.items()}

    def __getitem__(self, service: str) -> httpx.AsyncClient:
        return self._replayed[service]

    async def close(self) -> None:
        for client in self._replayed.values():
            await client.aclose()


class Loop:
    """A conversation that grows as an agent's does."""

    def __init__(self, providers: Mapping[str, ReplayedProvider], *, stream: bool) -> None:
        self.providers = providers
        self.messages: list[ChatMessage] = []
        services = {
            name: ServiceSettings(api=provider.api, base_url=provider.base_url, key="a-key", stream=stream)
            for name, provider in providers.items()
        }
        self._connections = Replaying(providers)
        reports = GroupCommit[AttemptReport, None](_ignored, size_of=lambda _: 0)
        self._activities = CallServiceActivities(services, SomeKeys(), self._connections, reports)

    def ask(self, prompt: str) -> None:
        self.messages.append(ChatMessage(role="user", content=prompt))

    async def turn(self, service: str) -> LLMResult:
        """One call to this service, whose answer the conversation then has. Raises what the activity raises."""
        environment = ActivityEnvironment()
        model = self.providers[service].model
        hold_id = f"{environment.info.workflow_run_id}/1"
        grant = GRANT.model_copy(update={"hold_id": hold_id, "service": service, "model": model})
        request = LLMRequest(route="r", budget="acme", messages=tuple(self.messages), tools=(WEATHER,))
        call = ServiceCall(grant=grant, request=LLMRequest.model_validate_json(request.model_dump_json()))
        completion = await _to_its_end(environment, self._activities, call)
        said = completion.model_dump(include={"text", "tool_calls", "state", "refused", "finish_reason"})
        result = LLMResult.model_validate({"outcome": Outcome.COMPLETED, "call_id": "1", **said})
        self.messages.append(LLMResult.model_validate_json(result.model_dump_json()).message())
        return result

    def tell(self, results: Sequence[str]) -> None:
        """The results of the last message's calls, in the order of the calls."""
        for call, result in zip(self.messages[-1].tool_calls, results, strict=True):
            self.messages.append(ChatMessage(role="tool", content=result, tool_call_id=call.id))

    async def close(self) -> None:
        await self._connections.close()


@asynccontextmanager
async def looping(providers: Mapping[str, ReplayedProvider], *, stream: bool) -> AsyncGenerator[Loop]:
    loop = Loop(providers, stream=stream)
    yield loop
    await loop.close()


async def _to_its_end(
    environment: ActivityEnvironment, activities: CallServiceActivities, call: ServiceCall
) -> Completion:
    """The answer of the first attempt that has one. Like Temporal it makes another where the last one may be retried,
    and tells it of those before."""
    for number in range(1, 4):
        try:
            return await environment.run(activities.call_service, call)
        except ApplicationError as error:
            if error.non_retryable:
                raise
            told = [attempt.model_dump(mode="json") for attempt in failure_of(error).attempts]
            environment.info = replace(environment.info, attempt=number + 1, heartbeat_details=told)
    raise AssertionError("it failed again and again")


async def _ignored(reports: Sequence[AttemptReport]) -> Sequence[None]:
    return [None] * len(reports)
