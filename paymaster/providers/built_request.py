"""A call as the request that one service gets for it, before it is authenticated."""

from typing import NamedTuple

from pydantic_core import to_json

from paymaster.messages import LLMRequest, ServiceCall
from paymaster.providers.provider import WrittenRequest
from paymaster.providers.registry import PROVIDERS, streams, wire_format
from paymaster.providers.tool_names import with_sent_names
from paymaster.providers.translated_calls import as_asked
from paymaster.settings import ServiceSettings
from paymaster.wire.dialects import measured

READ_AT_ONCE_MAX = 16 * 1024
"""Bytes of an answer, or of a wire call's body, that is read at once; a longer one is read in a thread, which lets
others have their turns."""


class BuiltRequest(NamedTuple):
    call: ServiceCall
    """In the words that the service takes."""
    request: WrittenRequest
    streams: bool
    """Whether the answer is asked for as a stream."""


def asks_shortly(request: LLMRequest) -> bool:
    """Whether what is written and read for this request takes no time."""
    return request.json_schema is None and (request.wire is None or len(request.wire.body) <= READ_AT_ONCE_MAX)


def built_request(call: ServiceCall, service: ServiceSettings) -> BuiltRequest:
    """Raises UnsupportedParameter, BadBody."""
    call = as_asked(call, service)
    provider, wire = PROVIDERS[service.api], call.request.wire
    if wire is not None:
        asked = measured(wire)
        written = wire_format(wire, service).build(wire, call.grant, service, asked.outputs)
        return BuiltRequest(call, written, asked.streams)
    stream = streams(service)
    built = provider.build_request(with_sent_names(call.request), call.grant, service, stream)
    return BuiltRequest(call, WrittenRequest(built.path, to_json(built.body), built.headers), stream)
