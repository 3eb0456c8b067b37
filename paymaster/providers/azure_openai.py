"""The wire format `azure-openai`: chat completions below Azure's two kinds of URL, with Azure's key header.

With `base_url` ending in `/openai/v1` it is the v1 API. With `api_version` set, `base_url` is the resource
(`https://NAME.openai.azure.com`). In both a model is called by the name of its deployment, which is
no model's name: prices go by the model that answered.
"""

from functools import partial
from urllib.parse import quote

from paymaster.messages import Grant, LLMRequest
from paymaster.messages.wire import Wire
from paymaster.providers import embeddings, openai
from paymaster.providers.answer_parts import answer_object
from paymaster.providers.key_headers import bearer, key_header
from paymaster.providers.openai_quirks import AZURE
from paymaster.providers.provider import (
    HttpRequest,
    Outgoing,
    Provider,
    ServiceAnswer,
    ServiceError,
    WireFormat,
    WrittenRequest,
)
from paymaster.settings import ServiceSettings
from paymaster.wire import openai_chat

_with_key = key_header("api-key")


def authenticate(request: Outgoing, key: str, service: ServiceSettings) -> dict[str, str]:
    """With a token of Entra ID as a bearer."""
    return (bearer if service.auth == "entra" else _with_key)(request, key, service)


def build_request(request: LLMRequest, grant: Grant, service: ServiceSettings, stream: bool) -> HttpRequest:
    return HttpRequest(
        _path(openai.PATH, grant, service), openai.build_body(request, grant, service, AZURE, stream=stream)
    )


def _build_chat(wire: Wire, grant: Grant, service: ServiceSettings, outputs: int) -> WrittenRequest:
    body = openai.wire_body(wire, grant, outputs, AZURE.output_cap)
    return WrittenRequest(_path(openai.PATH, grant, service), body, openai_chat.sent_headers(wire.headers))


def _path(path: str, grant: Grant, service: ServiceSettings) -> str:
    if service.api_version is None:
        return path
    return f"/openai/deployments/{quote(grant.model, safe='')}{path}?api-version={service.api_version}"


def parse_response(body: bytes, service: ServiceSettings) -> ServiceAnswer | ServiceError:
    return openai.parse_object(answer_object(body), AZURE, service.base_url)


def parse_stream(body: bytes, service: ServiceSettings) -> ServiceAnswer | ServiceError:
    return openai.parse_chunks(body, AZURE, service.base_url)


PROVIDER = Provider(
    api="azure-openai",
    telemetry_name="azure.ai.openai",
    authenticate=authenticate,
    build_request=build_request,
    parse_response=parse_response,
    parse_stream=parse_stream,
    tokenizer_sees=openai_chat.seen,
    dialects={
        "openai": WireFormat(_build_chat),
        "openai-embeddings": embeddings.wire_format(partial(_path, embeddings.PATH)),
    },
)
