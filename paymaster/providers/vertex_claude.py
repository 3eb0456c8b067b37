"""The wire format `vertex-claude`: Claude's Messages API on Google Cloud's Vertex AI, with tokens of Google Cloud.

Sources: Claude's page "Claude on Vertex AI" and its SDK's AnthropicVertex.
"""

import re
from fractions import Fraction
from urllib.parse import quote

from pydantic import JsonValue

from paymaster.messages import Grant, LLMRequest
from paymaster.messages.wire import Wire
from paymaster.providers import anthropic, counters
from paymaster.providers.key_headers import bearer
from paymaster.providers.provider import HttpRequest, Provider, UnsupportedParameter, WireFormat, WrittenRequest
from paymaster.settings import ServiceSettings
from paymaster.wire import anthropic as wire_anthropic
from paymaster.wire.dialects import measured
from paymaster.wire.members import with_values, without

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
    return HttpRequest(_path(grant, streams=stream), body)


def _build_wire(wire: Wire, grant: Grant, service: ServiceSettings, outputs: int) -> WrittenRequest:
    """The model is in the path, and the version of the API in the body."""
    body = wire_anthropic.sent(wire.body, model=grant.model, cap=grant.max_output_tokens).decode()
    body = with_values(without(body, "model"), {"anthropic_version": f'"{VERSION}"'})
    headers = wire_anthropic.sent_headers(wire.headers)
    headers.pop("anthropic-version", None)
    return WrittenRequest(_path(grant, streams=measured(wire).streams), body.encode(), headers)


def _path(grant: Grant, *, streams: bool) -> str:
    method = "streamRawPredict" if streams else "rawPredict"
    return f"/publishers/anthropic/models/{quote(grant.model, safe='@')}:{method}"


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
    counter=counters.VERTEX_CLAUDE,
    dialects={"anthropic": WireFormat(_build_wire)},
)
