"""Agents in a namespace of their own, which ask Paymaster through a Nexus endpoint."""

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow

from paymaster import LLMRequest, LLMResult, Outcome
from paymaster.errors import AnswerGone
from paymaster.nexus import EndpointRequest, PaymasterService, read_answer, try_generate


@workflow.defn
class Asks:
    """Asks once through an endpoint and gives back what came."""

    @workflow.run
    async def run(self, endpoint: str, request: LLMRequest) -> LLMResult:
        paymaster = workflow.create_nexus_client(service=PaymasterService, endpoint=endpoint)
        return await paymaster.execute_operation(PaymasterService.generate, request)


@workflow.defn
class AsksAnything:
    """Asks with whatever it is given."""

    @workflow.run
    async def run(self, endpoint: str, request: Any) -> LLMResult:
        paymaster = workflow.create_nexus_client(service="paymaster", endpoint=endpoint)
        return await paymaster.execute_operation("generate", request, output_type=LLMResult)


@workflow.defn
class AsksWithoutConverter:
    """Asks as a client does that can write no message of Paymaster's."""

    @workflow.run
    async def run(self, endpoint: str, prompt: str) -> str:
        request = LLMRequest(route="nexus", budget="acme/content", prompt=prompt, wait_at_most=timedelta(minutes=1))
        result = await try_generate(request, endpoint=endpoint)
        return f"{result.outcome}: {result.text}{result.detail or ''}"


@workflow.defn
class ReadsWhatIsTooLarge:
    """Asks, and says the outcome, the length of the answer that Temporal cannot carry, and what a guess gets."""

    @workflow.run
    async def run(self, endpoint: str, request: LLMRequest) -> list[str]:
        result = await try_generate(request, endpoint=endpoint)
        answer = await read_answer(result, endpoint=endpoint)
        assert result.wire is not None
        assert result.wire.stored is not None
        guessed = result.wire.model_copy(update={"stored": result.wire.stored.model_copy(update={"sha256": "0" * 64})})
        try:
            await read_answer(result.model_copy(update={"wire": guessed}), endpoint=endpoint)
        except AnswerGone as error:
            return [result.reason or "", str(len(answer)), error.message]
        return []


@workflow.defn
class AsksMuch:
    """Asks so many things at once, and says how many were answered."""

    @workflow.run
    async def run(self, endpoint: str, route: str, count: int) -> int:
        requests = [EndpointRequest(route=route, prompt=str(number)) for number in range(count)]
        results = await asyncio.gather(*(try_generate(request, endpoint=endpoint) for request in requests))
        return sum(result.outcome is Outcome.COMPLETED for result in results)
