"""An agent of OpenAI's Agents SDK on Temporal, which asks its own model and then Paymaster; its model answers alone."""

from collections.abc import AsyncIterator
from typing import Any

from agents import Agent, Model, ModelProvider, ModelResponse, Runner, Usage
from openai.types.responses import ResponseOutputMessage, ResponseOutputText
from temporalio import workflow

from paymaster import LLMRequest, generate

ANSWER = "An-answer-of-the-model-of-the-SDK"


class _Model(Model):
    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        content = ResponseOutputText(type="output_text", text=ANSWER, annotations=[], logprobs=[])
        message = ResponseOutputMessage(
            type="message", id="message-1", role="assistant", status="completed", content=[content]
        )
        return ModelResponse(output=[message], usage=Usage(), response_id=None)

    def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        raise NotImplementedError("nobody asks for a stream here")


class ModelOfTheSDK(ModelProvider):
    def get_model(self, model_name: str | None) -> Model:
        return _Model()


@workflow.defn
class AgentOfTheSDK:
    @workflow.run
    async def run(self, request: LLMRequest) -> list[str]:
        said = await Runner.run(Agent(name="assistant", instructions="Be short."), input="Say something.")
        return [said.final_output, (await generate(request)).text]
