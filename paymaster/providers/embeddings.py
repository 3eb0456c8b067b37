"""Embeddings as OpenAI and the many compatible servers make them: only wire calls ask for them."""

import re
from collections.abc import Callable

from pydantic import JsonValue

from paymaster.messages import Grant
from paymaster.messages.wire import Wire
from paymaster.providers.answer_parts import answer_object, dumped, start_of
from paymaster.providers.listed_counts import EMBEDDING_FLAVORS, with_listed_counts
from paymaster.providers.provider import (
    MalformedAnswer,
    ServiceAnswer,
    ServiceError,
    WireFormat,
    WireUsage,
    WrittenRequest,
)
from paymaster.settings import ServiceSettings
from paymaster.values.json_reading import count_of, object_of, text_of
from paymaster.wire import openai_embeddings

PATH = "/embeddings"
_NUMBERS = re.compile(r"\[[\s0-9.,eE+-]+\]")


def wire_format(path: Callable[[Grant, ServiceSettings], str]) -> WireFormat:
    """`path` is behind the service's base_url."""

    def build(wire: Wire, grant: Grant, service: ServiceSettings, outputs: int) -> WrittenRequest:
        body = openai_embeddings.sent(wire.body, model=grant.model)
        return WrittenRequest(path(grant, service), body, openai_embeddings.sent_headers(wire.headers))

    return WireFormat(build, parse_response=parse_response)


def without_vectors(body: bytes) -> bytes:
    """An answer of embeddings without its lists of numbers, of which a hundred texts have hundreds of thousands."""
    # Bytes as characters of the same numbers: whatever else they are, it stays.
    return _NUMBERS.sub("[]", body.decode("latin-1")).encode("latin-1")


def parse_response(body: bytes, service: ServiceSettings) -> ServiceAnswer | ServiceError:
    data = answer_object(without_vectors(body))
    if data.get("error"):
        return ServiceError(status=500, body=dumped({"error": data["error"]}).encode(errors="replace"))
    if not isinstance(data.get("data"), list):
        raise MalformedAnswer(f"no data: {start_of(data)}")
    return ServiceAnswer(
        finish_reason="stop",
        model=text_of(data.get("model")),
        usage=_usage(data.get("usage"), service.base_url),
        service_tier=text_of(data.get("service_tier")),
        request_id=text_of(data.get("id")),
    )


def _usage(usage: JsonValue, base_url: str) -> WireUsage | None:
    """Some servers say only the total."""
    counts = [count_of(object_of(usage), name) for name in ("prompt_tokens", "total_tokens")]
    known = [count for count in counts if count is not None]
    if not known:
        return None
    return with_listed_counts(WireUsage(input_tokens=max(known)), usage, base_url, EMBEDDING_FLAVORS)
