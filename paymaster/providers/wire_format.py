"""What all wire formats share: a request as it is sent, an answer as it is understood, and how a stream is cut up."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pydantic import JsonValue

from paymaster.messages import Grant, LLMRequest, ToolCall
from paymaster.redaction import redact
from paymaster.settings import ServiceSettings
from paymaster.values.json_reading import message_data, object_of, read_json, text_of
from paymaster.values.limits import ANSWER_BYTES_MAX
from paymaster.values.money import TokenUsage

PARTS_MAX = 200_000
"""Parts of one answer that are kept until its stream has ended; some services send one for each token."""


class MalformedAnswer(ValueError):
    """An answer with status 200 that is none of this wire format, or ends too early. It may have been billed."""


class UnsupportedParameter(ValueError):
    """The service cannot honour a parameter of the request, which is never dropped in silence."""

    def __init__(self, parameter: str, why: str) -> None:
        super().__init__(f"{parameter}: {why}")
        self.parameter = parameter


class HttpRequest(NamedTuple):
    """A request without its authentication."""

    path: str
    """Behind the service's base_url."""
    body: dict[str, JsonValue]
    headers: dict[str, str] = {}  # noqa: RUF012  # nobody changes it; a NamedTuple's field is no class attribute


class WireUsage(TokenUsage):
    """Token counts with those that only some prices tell apart."""

    cache_write_1h_tokens: int = 0
    """The part of `cache_write_tokens` that is kept for an hour, which costs more."""
    input_audio_tokens: int = 0
    """The part of `input_tokens` that is sound."""
    output_audio_tokens: int = 0
    """The part of `output_tokens` that is sound."""
    web_searches: int = 0
    """Searches by the service itself, billed one by one."""

    def stored(self) -> TokenUsage:
        """What is kept of it."""
        return TokenUsage.model_validate(self.model_dump())


@dataclass(frozen=True)
class ServiceAnswer:
    """What a service answered, in our words."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    """In the service's own words."""
    refused: bool = False
    """The model or a filter refused. `text` holds what was said, if anything."""
    model: str | None = None
    """The model that answered."""
    usage: WireUsage | None = None
    """None: the service did not say, so that the cost is unknown."""
    cost_nanos: int | None = None
    """What the service itself says that it charges. None: it does not."""
    service_tier: str | None = None
    """The tier that served it, when the service names one: its price may be another."""


@dataclass(frozen=True)
class ServiceError:
    """An error that came with status 200."""

    status: int
    """The status that it would have had."""
    body: bytes
    usage: WireUsage | None = None
    """What it is billed with all the same. None: nobody knows."""


class StreamEvent(NamedTuple):
    """One server-sent event: its name, "message" where it has none, and its data."""

    name: str
    data: str


class WireFormat(Protocol):
    """A module of this package that speaks one format. What a server sends raises nothing but MalformedAnswer."""

    def auth_headers(self, key: str) -> dict[str, str]: ...

    def build_request(
        self, request: LLMRequest, grant: Grant, service: ServiceSettings, *, stream: bool = False
    ) -> HttpRequest:
        """Raises UnsupportedParameter."""
        ...

    def parse_response(self, body: bytes, service: ServiceSettings) -> ServiceAnswer | ServiceError: ...

    def parse_stream(self, events: Iterable[StreamEvent], service: ServiceSettings) -> ServiceAnswer | ServiceError:
        """Of a stream that has ended. Raises MalformedAnswer when it ended without the format's terminal event."""
        ...


def answer_object(body: bytes | str) -> dict[str, JsonValue]:
    """The object that an answer must be. Raises MalformedAnswer."""
    try:
        data = read_json(body)
    except ValueError:
        raise MalformedAnswer(f"not JSON: {body[:200]!r}") from None
    if isinstance(data, list) and len(data) == 1:  # Google's streaming endpoint wraps an error so
        data = data[0]
    if not isinstance(data, dict):
        raise MalformedAnswer(f"not an object: {start_of(data)}")
    return data


def start_of(data: JsonValue) -> str:
    """For an error's text: what the data begin with, searched for keys before it is cut."""
    return redact(dumped(data))[:200]


class WrittenCall(NamedTuple):
    """A call of a tool, as a model wrote it."""

    id: str
    name: str
    arguments: JsonValue
    """An object, or JSON text that ought to hold one."""
    signature: str | None = None


def tool_calls(calls: Iterable[WrittenCall]) -> tuple[ToolCall, ...]:
    """The calls with their arguments as data; as text where they are none, or those of all calls are too many."""
    found: list[ToolCall] = []
    text_left = ANSWER_BYTES_MAX
    for call in calls:
        written = call.arguments if isinstance(call.arguments, str) else dumped(call.arguments)
        text_left -= len(written)
        try:
            data = message_data(written or "{}") if text_left >= 0 else None
        except ValueError:
            data = None
        facts: dict[str, JsonValue] = {"id": call.id, "name": call.name, "signature": call.signature}
        facts |= {"arguments": data} if isinstance(data, dict) else {"invalid_arguments": text_of(written)}
        found.append(ToolCall.model_validate(facts))
    return tuple(found)


def dumped(data: JsonValue) -> str:
    """The data as JSON text; empty when it is nested too deeply for that."""
    try:
        return json.dumps(data, ensure_ascii=False)
    except RecursionError:
        return ""


def stream_events(text: str) -> Iterator[StreamEvent]:
    """The events of a stream that has ended; an unfinished last one is dropped, as the specification wants.

    `event:` and `data:` may come in any order, comment lines are skipped. One by one: a million events at a time would
    hold up everything else when they are made, and when they are given up.
    """
    name, data = "message", list[str]()
    for line in _lines(text.replace("\r\n", "\n").replace("\r", "\n")):
        if not line:
            if data:
                yield StreamEvent(name, "\n".join(data))
            name, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)


def _lines(text: str) -> Iterator[str]:
    at = 0
    while (end := text.find("\n", at)) >= 0:
        yield text[at:end]
        at = end + 1
    yield text[at:]


def check_parts(parts: int) -> None:
    """Raises MalformedAnswer where a stream has put together more parts than any answer has."""
    if parts > PARTS_MAX:
        raise MalformedAnswer(f"more than {PARTS_MAX:,} parts")


def event_object(event: StreamEvent) -> dict[str, JsonValue]:
    """The event's data; an empty object when it is none."""
    try:
        return object_of(read_json(event.data))
    except ValueError:
        return {}
