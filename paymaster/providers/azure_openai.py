"""The wire format `azure-openai`: chat completions below Azure's two kinds of URL, with Azure's key header.

With `base_url` ending in `/openai/v1` it is the v1 API. With `api_version` set, `base_url` is the resource
(`https://NAME.openai.azure.com`). In both a model is called by the name of its deployment, which is
no model's name: prices go by the model that answered.
"""

from collections.abc import Iterable
from urllib.parse import quote

from paymaster.messages import Grant, LLMRequest
from paymaster.providers import openai
from paymaster.providers.wire_format import HttpRequest, ServiceAnswer, ServiceError, StreamEvent, answer_object
from paymaster.settings import ServiceSettings


def auth_headers(key: str) -> dict[str, str]:
    return {"api-key": key}


def build_request(request: LLMRequest, grant: Grant, service: ServiceSettings, *, stream: bool = False) -> HttpRequest:
    body = openai.build_body(request, grant, openai.AZURE, stream=stream)
    if service.api_version is None:
        return HttpRequest(openai.PATH, body)
    deployment = quote(grant.model, safe="")
    return HttpRequest(f"/openai/deployments/{deployment}{openai.PATH}?api-version={service.api_version}", body)


def parse_response(body: bytes, service: ServiceSettings) -> ServiceAnswer | ServiceError:
    return openai.parse_object(answer_object(body), openai.AZURE)


def parse_stream(events: Iterable[StreamEvent], service: ServiceSettings) -> ServiceAnswer | ServiceError:
    return openai.parse_chunks(events, openai.AZURE)
