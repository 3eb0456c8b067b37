"""Which module speaks which wire format: `api` of the configuration."""

from collections.abc import Mapping

from paymaster.providers import anthropic, azure_openai, gemini, openai, openai_responses
from paymaster.providers.wire_format import WireFormat
from paymaster.settings import Api, ServiceSettings

WIRE_FORMATS: Mapping[Api, WireFormat] = {
    "openai": openai,
    "openai-responses": openai_responses,
    "anthropic": anthropic,
    "gemini": gemini,
    "azure-openai": azure_openai,
}


def auth_headers(service: ServiceSettings, key: str) -> dict[str, str]:
    """The headers that say who calls: with a key as the wire format has it, with a token of Entra ID as a bearer."""
    return (
        {"authorization": f"Bearer {key}"} if service.auth == "entra" else WIRE_FORMATS[service.api].auth_headers(key)
    )


def streams(service: ServiceSettings) -> bool:
    """Whether answers are asked for as streams."""
    if service.stream is not None:
        return service.stream
    return service.api != "openai" or openai.quirks_of(service.base_url).streams_usage
