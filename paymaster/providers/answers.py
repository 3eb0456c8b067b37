"""An HTTP answer, read as what became of the attempt: pure code, which a worker runs in a thread for a long answer."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from pydantic import JsonValue

from paymaster.calls.cost import CONFIGURATION, known_cost, paid_for
from paymaster.messages import Billing, Completion, ServiceCall, ToolCall, json_bytes
from paymaster.messages.wire import WireAnswer
from paymaster.providers.counted_kinds import counted_kinds
from paymaster.providers.http_errors import (
    BAD_SAMPLE,
    CONTENT_FILTERED,
    ERROR_TYPE_HEADER,
    ErrorClass,
    HttpError,
    classify,
    request_id_in,
)
from paymaster.providers.kept_state import state_of
from paymaster.providers.price_list import listed_cost
from paymaster.providers.provider import EVENT_STREAM, WORD_LENGTH_MAX, MalformedAnswer, ServiceAnswer, ServiceError
from paymaster.providers.registry import PROVIDERS, wire_format
from paymaster.providers.schema_check import schema_problem
from paymaster.providers.tool_names import with_given_names
from paymaster.redaction import redact, redact_bytes
from paymaster.settings import ServiceSettings
from paymaster.values.cost_lines import CostLine
from paymaster.values.json_reading import message_data
from paymaster.values.limits import ANSWER_BODY_BYTES_MAX, ANSWER_BYTES_MAX, WIRE_REFUSAL_BYTES_MAX
from paymaster.values.money import TokenUsage
from paymaster.wire.dialects import given_back

_GIVEN_BACK = re.compile(
    r"content-type|retry-after(-ms)?|x-should-retry|(x-|apim-)?request-id|(x|anthropic)-ratelimit-[a-z-]+"
    r"|openai-[a-z-]+|anthropic-organization-id|x-gemini-service-tier"
)
"""Headers that a wire call gets back."""
_ESCAPED = re.compile(r"\\u00([2-7][0-9a-fA-F])")
"""A sign of ASCII, as JSON can write it."""
_EVENT_BEGINS = (b"data:", b"event:")
ERROR_LENGTH_MAX = 500
"""Of what is told of an error."""
HEADER_LENGTH_MAX = 1_000
"""A longer value is none of those that are read."""
REQUEST_ID_HEADERS = (
    "x-request-id",
    "request-id",
    "apim-request-id",
    "mistral-correlation-id",
    "x-kong-request-id",
    "x-ds-trace-id",
    "x-generation-id",
    "x-amzn-requestid",
    "x-ms-request-id",
    "nvcf-reqid",
    "x-litellm-call-id",
)
_HEADERS_READ = frozenset(
    (
        *REQUEST_ID_HEADERS,
        "content-type",
        "date",
        ERROR_TYPE_HEADER,
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
        *(f"x-ratelimit-{what}{of}" for what in ("remaining", "reset") for of in ("-requests", "-tokens", "")),
    )
)
TOO_LARGE = ErrorClass("answer_too_large", Billing.UNKNOWN)
MALFORMED = ErrorClass("malformed_answer", Billing.UNKNOWN, trips_breaker=True)


class HttpAnswer(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]
    """Names and values in the order in which they came."""
    body: bytes
    """Decompressed."""
    unreadable: str | None = None
    """Why the body could not be decompressed; it is empty then. None: it could be."""

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class Facts(NamedTuple):
    """What an answer says of its Attempt, field by field."""

    http_status: int | None = None
    provider_request_id: str | None = None
    usage: TokenUsage | None = None
    model_answered: str | None = None
    cost_nanos: int | None = None
    cost_source: str | None = None
    paid_for: tuple[CostLine, ...] | None = None


class Reading(NamedTuple):
    """What an answer says of its attempt, without known keys."""

    facts: Facts
    billing: Billing
    error: HttpError | None = None
    """None: it was answered."""
    completion: Completion | None = None
    """Without its attempts. None: it failed."""
    refusal: WireAnswer | None = None
    """Of a wire call that failed, and of an answer that is too large: what the service wrote."""


def read_answer(
    call: ServiceCall, service: ServiceSettings, answer: HttpAnswer, *, started_at_ms: int, now_ms: int
) -> Reading:
    """The meaning of an answer. Keys are taken out before anything is cut to length: half a key is no longer found."""
    headers = _headers_read(answer.headers)
    provider = PROVIDERS[service.api]
    streamed = _is_streamed(headers.get("content-type", ""), answer.body, provider.stream_type)
    body = redact_bytes(provider.as_server_sent_events(answer.body) if streamed else answer.body)
    facts = Facts(http_status=answer.status, provider_request_id=_word(request_id(headers, body)))

    def failed(error: HttpError, billing: Billing | None = None) -> Reading:
        error_class = error.error_class
        if error_class.name == CONTENT_FILTERED.name:
            error_class = error_class._replace(fall_back=service.fall_back_when_filtered)
        if billing is not None:
            error_class = error_class._replace(billing=billing)
        error = error._replace(error_class=error_class, message=redact(error.message)[:ERROR_LENGTH_MAX])
        refusal = _raw(call, answer, body, streamed, WIRE_REFUSAL_BYTES_MAX)
        return Reading(facts, error_class.billing, error, refusal=refusal)

    error_of = partial(classify, now_ms=now_ms, model=call.grant.model, errors_billed=service.errors_billed)
    if not answer.is_success:
        return failed(error_of(answer.status, headers, body))
    if answer.unreadable is not None:
        return failed(HttpError(MALFORMED, answer.unreadable, None))
    try:
        found = _parsed_answer(call, service, body, streamed)
    except MalformedAnswer as error:
        return failed(HttpError(MALFORMED, str(error), None))
    facts, billing = _billed(facts, call, service, found, started_at_ms)
    if isinstance(found, ServiceError):
        return failed(error_of(found.status, headers, found.body, within_200=True), billing)
    clean = without_keys(found)
    facts = facts._replace(provider_request_id=facts.provider_request_id or _word(clean.request_id))
    # A key that was found only now stands in pieces in the bytes.
    raw = _raw(call, answer, body, streamed, ANSWER_BODY_BYTES_MAX) if clean == found else None
    completion = _completion(clean, service, call, raw)
    if not isinstance(completion, HttpError):
        return Reading(facts, billing, completion=completion)
    reading = failed(completion, billing)
    too_large = completion.error_class == TOO_LARGE and clean == found
    return reading._replace(refusal=_paid_for_in_vain(answer, body)) if too_large else reading


def _is_streamed(content_type: str, body: bytes, stream_type: str) -> bool:
    """Also where a server does not say so: no other answer begins as an event does."""
    return content_type.startswith(stream_type) or (stream_type == EVENT_STREAM and body.startswith(_EVENT_BEGINS))


def _parsed_answer(
    call: ServiceCall, service: ServiceSettings, body: bytes, streamed: bool
) -> ServiceAnswer | ServiceError:
    """Raises MalformedAnswer."""
    provider, wire = PROVIDERS[service.api], call.request.wire
    parse = provider.parse_stream if streamed else provider.parse_response
    if wire is not None:
        own = wire_format(wire, service)
        parse = (own.parse_stream if streamed else own.parse_response) or parse
    found = parse(body, service)
    return replace(found, model=call.grant.model) if found.model is None and provider.asked_model_answers else found


def _billed(
    facts: Facts, call: ServiceCall, service: ServiceSettings, found: ServiceAnswer | ServiceError, started_at_ms: int
) -> tuple[Facts, Billing]:
    """The facts with what was used and what it cost, and whether that is known."""
    asked_at = datetime.fromtimestamp(started_at_ms / 1000, UTC)
    granted = call.grant.price
    cost = known_cost(granted, found.cost_nanos, partial(listed_cost, service, found, asked_at, granted))
    configured = found.usage is not None and granted.source == CONFIGURATION
    counts = {} if found.usage is None else counted_kinds(found.usage)
    billing = Billing.BILLED if cost is not None or found.is_plain or configured else Billing.UNKNOWN
    return facts._replace(
        usage=None if found.usage is None else found.usage.stored(),
        model_answered=None if found.model is None else _word(redact(found.model)),
        cost_nanos=None if cost is None else cost.nanos,
        cost_source=None if cost is None else cost.source,
        paid_for=paid_for(granted, cost, found.usage, counts),
    ), billing


def _raw(call: ServiceCall, answer: HttpAnswer, body: bytes, streamed: bool, bytes_max: int) -> WireAnswer | None:
    """What a wire call gets back, as the service wrote it. None: nothing, or what has a known key in escapes."""
    if call.request.wire is None or len(body) > bytes_max or _hides_a_key(body.decode(errors="replace")):
        return None
    given = given_back(call.request.wire)(body) if streamed else body
    return WireAnswer(status=answer.status, headers=headers_given_back(answer.headers), body=given)


def headers_given_back(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Those of an answer that a wire call gets back, by their names in lower case."""
    named = ((name.lower().decode("latin-1"), value) for name, value in headers)
    return {
        name: redact(value.decode("latin-1"))
        for name, value in named
        if _GIVEN_BACK.fullmatch(name) and len(value) <= HEADER_LENGTH_MAX
    }


def _paid_for_in_vain(answer: HttpAnswer, body: bytes) -> WireAnswer | None:
    """What whoever asked gets of an answer that cannot be carried. None: it has a known key in escapes."""
    return None if _hides_a_key(body.decode(errors="replace")) else WireAnswer(status=answer.status, body=body)


def _hides_a_key(text: str) -> bool:
    plain = _ESCAPED.sub(lambda escape: chr(int(escape[1], 16)), text)
    return plain != text and redact(plain) != plain


def _completion(
    found: ServiceAnswer, service: ServiceSettings, call: ServiceCall, raw: WireAnswer | None
) -> Completion | HttpError:
    """The answer for the agent, or why it is of no use. Whoever asked in a provider's own words judges it himself.

    Without its bytes it is short enough for a message; they may be more.
    """
    if found.broken is not None and call.request.wire is None:
        return HttpError(BAD_SAMPLE, found.broken, None)
    if found.refused and service.fall_back_when_filtered:
        return HttpError(CONTENT_FILTERED, f"{found.finish_reason}: {found.text}", None)
    parsed, problem = None, None
    if call.request.json_schema is not None and not found.refused:
        parsed, problem = _followed(found.text, call.request.json_schema)
    completion = Completion(
        text=found.text,
        parsed=parsed,
        schema_problem=problem,
        tool_calls=with_given_names(found.tool_calls, call.request),
        refused=found.refused,
        finish_reason=_word(found.finish_reason),
        attempts=(),
        state=None if found.refused or raw else state_of(found.state, call.grant, service),
        wire=raw,
    )
    smaller = completion.model_copy(update={"state": None})
    # The bytes of a wire call's answer have all that is in the message.
    bare = smaller.model_copy(update={"text": "", "tool_calls": (), "parsed": None})
    for carried in (completion, smaller, *(() if raw is None else (bare,))):
        if json_bytes(carried.model_copy(update={"wire": None})) <= ANSWER_BYTES_MAX:
            return carried
    return HttpError(TOO_LARGE, f"the answer has more than {ANSWER_BYTES_MAX} bytes, which cannot be carried", None)


def request_id(headers: Mapping[str, str], body: bytes) -> str | None:
    """The provider's name for this request, for questions to its support."""
    found = next((headers[name] for name in REQUEST_ID_HEADERS if name in headers), None) or request_id_in(body)
    return None if found is None else redact(found)  # once more: JSON may have written a key with escapes


def without_keys(answer: ServiceAnswer) -> ServiceAnswer:
    """Once more: in a stream, or escaped in JSON, a key's pieces come together only here."""
    return replace(
        answer,
        text=redact(answer.text),
        finish_reason=None if answer.finish_reason is None else redact(answer.finish_reason),
        model=None if answer.model is None else redact(answer.model),
        request_id=None if answer.request_id is None else redact(answer.request_id),
        tool_calls=tuple(ToolCall.model_validate_json(redact(call.model_dump_json())) for call in answer.tool_calls),
    )


def _headers_read(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers that mean something here, by their names in lower case; of several the first."""
    found: dict[str, str] = {}
    for raw_name, value in headers:
        name = raw_name.lower().decode("latin-1")
        if name in _HEADERS_READ and name not in found and len(value) <= HEADER_LENGTH_MAX:
            found[name] = redact(value.decode("latin-1"))
    return found


def _word(name: str | None) -> str | None:
    """What a service names, not longer than any name is."""
    return None if name is None else name[:WORD_LENGTH_MAX]


def _followed(text: str, schema: dict[str, JsonValue]) -> tuple[JsonValue, str | None]:
    """The answer as data, or why it does not follow the schema that was asked for."""
    try:
        data = message_data(text)
    except ValueError:
        return None, "the answer is no JSON, or none that can be carried"
    problem = schema_problem(data, schema)
    return (data, None) if problem is None else (None, redact(problem)[:ERROR_LENGTH_MAX])
