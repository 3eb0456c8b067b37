"""A request, a service and a grant of each wire format."""

from typing import Any

from paymaster.messages import Grant, LLMRequest, RetrySettings, Tool
from paymaster.providers.provider import HttpRequest
from paymaster.providers.registry import PROVIDERS
from paymaster.settings import Api, ServiceSettings
from paymaster.values.money import Price

GRANT = Grant(
    hold_id="run/1",
    budget="acme",
    service="one",
    model="the-model",
    price=Price(input_nanos=1, output_nanos=1, source="test"),
    max_output_tokens=77,
    bound_nanos=1,
    granted_at_ms=0,
    expires_at_ms=1,
    epoch="e",
    timeout_ms=1,
    retry=RetrySettings(),
    max_retry_after_ms=1,
    max_unconfirmed=1,
)
BASE_URLS: dict[Api, str] = {
    "openai": "https://api.openai.com/v1",
    "openai-responses": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta",
    "bedrock": "https://bedrock-runtime.us-east-1.amazonaws.com",
    "vertex-gemini": "https://aiplatform.googleapis.com/v1/projects/acme/locations/global",
    "vertex-claude": "https://aiplatform.googleapis.com/v1/projects/acme/locations/global",
    "azure-openai": "https://example.openai.azure.com/openai/v1",
}
WEATHER = Tool(
    name="weather",
    description="The weather somewhere",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"answer": {"type": "string"}}}


def ask(**fields: Any) -> LLMRequest:
    return LLMRequest.model_validate({"route": "writer", "budget": "acme", "prompt": "Hello"} | fields)


def service(api: Api, base_url: str | None = None, **fields: Any) -> ServiceSettings:
    return ServiceSettings(api=api, base_url=base_url or BASE_URLS[api], **fields)


def build(request: LLMRequest, api: Api, base_url: str | None = None, *, stream: bool = False) -> HttpRequest:
    return PROVIDERS[api].build_request(request, GRANT, service(api, base_url), stream)
