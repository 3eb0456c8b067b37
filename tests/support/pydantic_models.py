"""Durable agents of pydantic-ai without tools, one for each class of model, whose own clients reach nobody."""

from datetime import timedelta
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.durable_exec.temporal import TemporalDurability
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.google import GoogleProvider
from pydantic_ai.providers.openai import OpenAIProvider
from temporalio.workflow import ActivityConfig

OWN: dict[str, Any] = {"api_key": "sk-the-key-of-the-caller", "base_url": "http://127.0.0.1:9/"}
MODELS: dict[str, Any] = {
    "chat": OpenAIChatModel("plain-chat", provider=OpenAIProvider(**OWN)),
    "responses": OpenAIResponsesModel("plain-responses", provider=OpenAIProvider(**OWN)),
    "claude": AnthropicModel("plain-claude", provider=AnthropicProvider(**OWN)),
    "gemini": GoogleModel("plain-gemini", provider=GoogleProvider(**OWN)),
    "of-nobody": TestModel(custom_output_text="é"),
}
AGENTS = {
    name: Agent(
        model,
        name=name,
        capabilities=[TemporalDurability(activity_config=ActivityConfig(start_to_close_timeout=timedelta(seconds=10)))],
    )
    for name, model in MODELS.items()
}
