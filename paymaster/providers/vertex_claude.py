"""The wire format `vertex-claude`: Claude's Messages API on Google Cloud's Vertex AI, with tokens of Google Cloud.

Sources: Claude's page "Claude on Vertex AI" and its SDK's AnthropicVertex.
"""

import re
from fractions import Fraction
from urllib.parse import quote

from pydantic import JsonValue

from paymaster.messages import Grant, LLMRequest
from paymaster.providers import anthropic
from paymaster.providers.key_headers import bearer
from paymaster.providers.provider import HttpRequest, Provider, UnsupportedParameter
from paymaster.settings import ServiceSettings

VERSION = "vertex-2023-10-16"
_SAME_PRICE_EVERYWHERE = re.compile(r"claude-(3|instant|(opus|sonnet)-4(@|-1@|-1$|-2025|$))")
"""Models before Claude Sonnet 4.5."""
_OUTSIDE_GLOBAL = Fraction(11, 10)
"""By which prices are higher at any other location than `global`."""


def build_request(request: LLMRequest, grant: Grant, service: ServiceSettings, stream: bool) -> HttpRequest:
    for message in request.messages:
        for parameter, media in (("images", message.images), ("documents", message.documents)):
            if any(each.url is not None for each in media):
                raise UnsupportedParameter(parameter, "Claude on Vertex AI takes data, and fetches nothing by its URL")
    body: dict[str, JsonValue] = {"anthropic_version": VERSION}
    body |= anthropic.build_request(request, grant, service, stream).body
    del body["model"]  # it is in the path
    method = "streamRawPredict" if stream else "rawPredict"
    return HttpRequest(f"/publishers/anthropic/models/{quote(grant.model, safe='@')}:{method}", body)


def price_factor(service: ServiceSettings, model: str) -> Fraction:
    """By the location in the service's address."""
    is_global = "/locations/global" in service.base_url
    return Fraction(1) if is_global or _SAME_PRICE_EVERYWHERE.match(model) else _OUTSIDE_GLOBAL


PROVIDER = Provider(
    api="vertex-claude",
    telemetry_name="gcp.vertex_ai",
    authenticate=bearer,
    build_request=build_request,
    parse_response=anthropic.parse_response,
    parse_stream=anthropic.parse_stream,
    price_factor=price_factor,
)
