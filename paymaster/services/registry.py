"""Which module speaks which wire format: `api` of the configuration."""

from collections.abc import Mapping

from paymaster.services import anthropic, azure_openai, gemini, openai, openai_responses
from paymaster.services.wire_format import WireFormat
from paymaster.settings import Api, ServiceSettings

WIRE_FORMATS: Mapping[Api, WireFormat] = {
    "openai": openai,
    "openai-responses": openai_responses,
    "anthropic": anthropic,
    "gemini": gemini,
    "azure-openai": azure_openai,
}


def streams(service: ServiceSettings) -> bool:
    """Whether answers are asked for as streams."""
    if service.stream is not None:
        return service.stream
    return service.api != "openai" or openai.quirks_of(service.base_url).streams_usage
