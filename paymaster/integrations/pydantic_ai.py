"""pydantic-ai over Paymaster: `Agent(model("writer", budget="acme/agents"))`, in workflows and elsewhere."""

from typing import Literal

from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from paymaster.integrations.anthropic import AsyncAnthropic
from paymaster.integrations.openai import AsyncOpenAI
from paymaster.transport import PaymasterTransport

__all__ = ["model"]


def model(
    name: str,
    budget: str | None = None,
    *,
    api: Literal["openai", "openai-responses", "anthropic"] = "openai",
    transport: PaymasterTransport | None = None,
) -> Model:
    """pydantic-ai's own model, each of whose requests is a call under the budget.

    A workflow that makes one needs a worker with `workflow_runner=paymaster.sandbox()` or PaymasterPlugin. `name` is a
    route or `service/model`, and `api` the format that its services speak. `transport`: instead of the budget, for its
    further terms. Default: chat completions.
    """
    match api:
        case "openai":
            client = AsyncOpenAI(budget, transport=transport)
            return OpenAIChatModel(name, provider=OpenAIProvider(openai_client=client))
        case "openai-responses":
            client = AsyncOpenAI(budget, transport=transport)
            return OpenAIResponsesModel(name, provider=OpenAIProvider(openai_client=client))
        case "anthropic":
            claude = AsyncAnthropic(budget, transport=transport)
            return AnthropicModel(name, provider=AnthropicProvider(anthropic_client=claude))
