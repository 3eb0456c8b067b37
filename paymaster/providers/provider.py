"""What Paymaster needs to know of a provider, and the words in which requests and answers pass between the two."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple, TypedDict

from pydantic import JsonValue

from paymaster.messages import Grant, LLMRequest, ToolCall
from paymaster.messages.wire import Dialect, Wire
from paymaster.settings import Api, ServiceSettings
from paymaster.values.money import TokenUsage

EVENT_STREAM = "text/event-stream"
"""The content type of server-sent events."""
WORD_LENGTH_MAX = 200
"""Characters of what a service names: a model, a reason, a request."""


class MalformedAnswer(ValueError):
    """An answer with status 200 that is none of this wire format, or ends too early. It may have been billed."""


class UnsupportedParameter(ValueError):
    """The service cannot honour a parameter of the request, which is never dropped in silence."""

    def __init__(self, parameter: str, why: str) -> None:
        super().__init__(f"{parameter}: {why}")
        self.parameter = parameter


class HttpRequest(NamedTuple):
    """A request in the provider's format, without its authentication."""

    path: str
    """Behind the service's base_url."""
    body: dict[str, JsonValue]
    headers: dict[str, str] = {}  # noqa: RUF012  # nobody changes it; a NamedTuple's field is no class attribute


class WrittenRequest(NamedTuple):
    """A request whose body is written already, without its authentication."""

    path: str
    """Behind the service's base_url."""
    body: bytes
    headers: dict[str, str]


class Outgoing(NamedTuple):
    """A request as it will be sent, for a provider that signs all of it."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes


class WireUsage(TokenUsage):
    """Token counts with those that only some prices tell apart."""

    cache_write_1h_tokens: int = 0
    """The part of `cache_write_tokens` that is kept for an hour, which costs more."""
    input_audio_tokens: int = 0
    """The part of `input_tokens` that is sound."""
    output_audio_tokens: int = 0
    """The part of `output_tokens` that is sound."""
    cached_audio_tokens: int = 0
    """The part of `cached_input_tokens` that is sound."""
    input_image_tokens: int = 0
    """The part of `input_tokens` that is images or documents."""
    output_image_tokens: int = 0
    """The part of `output_tokens` that is images."""
    cached_image_tokens: int = 0
    """The part of `cached_input_tokens` that is images or documents."""
    input_video_tokens: int = 0
    """The part of `input_tokens` that is video."""
    output_video_tokens: int = 0
    """The part of `output_tokens` that is video."""
    cached_video_tokens: int = 0
    """The part of `cached_input_tokens` that is video."""
    web_searches: int = 0
    """Searches by the service itself, billed one by one."""

    def stored(self) -> TokenUsage:
        """What is kept of it."""
        return TokenUsage.model_validate(self.model_dump())


class Pass(NamedTuple):
    """A part of an answer that one model made."""

    model: str
    usage: WireUsage


@dataclass(frozen=True, kw_only=True)
class Billed:
    """What a service says of the bill, of an answer as of an error that came with status 200."""

    model: str | None = None
    """The model that answered."""
    usage: WireUsage | None = None
    """None: the service did not say, so that the cost is unknown."""
    passes: tuple[Pass, ...] = ()
    """The parts of `usage`, where several models had one. Empty: `model` had all of it."""
    factor: Fraction | None = Fraction(1)
    """By which the service multiplies the prices of all tokens. None: a word for it that nobody knows, so that the cost
    is unknown."""
    cost_nanos: int | None = None
    """What the service itself says that it charges. None: it does not."""
    service_tier: str | None = None
    """The tier that served it, when the service names one: its price may be another."""
    speed: str | None = None
    """A speed that is not the usual one, at a price of its own."""

    @property
    def is_plain(self) -> bool:
        """Whether the usage at the price of one model is what it costs."""
        return self.usage is not None and self.factor == 1 and not self.passes and self.speed is None


class BillFields(TypedDict, total=False):
    """The fields of Billed, as a provider reads them once for its answers and its errors."""

    model: str | None
    usage: WireUsage | None
    passes: tuple[Pass, ...]
    factor: Fraction | None
    cost_nanos: int | None
    service_tier: str | None
    speed: str | None


@dataclass(frozen=True, kw_only=True)
class ServiceAnswer(Billed):
    """What a service answered, in our words."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    """In the service's own words."""
    refused: bool = False
    """The model or a filter refused. `text` holds what was said, if anything."""
    request_id: str | None = None
    """The service's name for the request, where it comes in the body."""
    state: JsonValue = None
    """What the service wants back with this answer; `kept_state` made it."""
    broken: str | None = None
    """Why the service itself takes the answer for none. None: it does not."""


@dataclass(frozen=True, kw_only=True)
class ServiceError(Billed):
    """An error that came with status 200."""

    status: int
    """The status that it would have had."""
    body: bytes


def _learns_nothing(service: ServiceSettings, refusal: str) -> None:
    return None


def _once(service: ServiceSettings, model: str) -> Fraction:
    return Fraction(1)


def _as_it_is(stream: bytes) -> bytes:
    return stream


Parse = Callable[[bytes, ServiceSettings], ServiceAnswer | ServiceError]
"""Reads a body, or a whole stream. Raises MalformedAnswer."""


class WireFormat(NamedTuple):
    """How a provider takes the wire calls of one dialect."""

    build: Callable[[Wire, Grant, ServiceSettings, int], WrittenRequest]
    """The request with the grant's model and cap; the last argument: how many outputs it asks for. Raises BadBody."""
    parse_response: Parse | None = None
    """For answers that no neutral call gets. None: as of those."""
    parse_stream: Parse | None = None
    takes_other_caps: bool = False
    """A service that refuses the cap by its name is asked again with the other one."""


class CannotCount(Exception):
    """The input tokens of a request cannot be counted; the message says why, and nothing of a key."""


class TokenCounter(NamedTuple):
    """A provider's own counter of input tokens, which bills nothing."""

    build: Callable[[WrittenRequest, Grant], WrittenRequest]
    """What it is asked about a request as it would be sent. Raises CannotCount where it does not cover that."""
    count_name: str
    """Under which its answer has the count."""


def _always(service: ServiceSettings) -> bool:
    return True


@dataclass(frozen=True)
class Provider:
    """One provider's API. What a server sends raises nothing but MalformedAnswer."""

    api: Api
    telemetry_name: str
    """`gen_ai.provider.name` of OpenTelemetry's conventions."""
    authenticate: Callable[[Outgoing, str, ServiceSettings], dict[str, str]]
    """The headers that prove who calls, made of the key or token. Raises KeyUnavailable for one of a wrong form."""
    build_request: Callable[[LLMRequest, Grant, ServiceSettings, bool], HttpRequest]
    """The request in the provider's format. The last argument: whether to stream. Raises UnsupportedParameter."""
    parse_response: Parse
    """What the body of a 2xx says."""
    parse_stream: Parse
    """What a whole stream says. Raises MalformedAnswer when it ended without the format's last event."""
    stream_type: str = EVENT_STREAM
    """The content type of a stream."""
    as_server_sent_events: Callable[[bytes], bytes] = _as_it_is
    """A stream in the form that `parse_stream` gets; of one that was cut, the whole events."""
    dialects: Mapping[Dialect, WireFormat] = field(default_factory=dict[Dialect, WireFormat])
    """The formats in which it takes wire calls."""
    asked_model_answers: bool = False
    """Answers do not name their model: it is the one that was asked."""
    price_factor: Callable[[ServiceSettings, str], Fraction] = _once
    """By which the listed prices of a model are multiplied at this service's address."""
    chosen_factors: Mapping[str, Fraction] = field(default_factory=dict[str, Fraction])
    """By which they are multiplied at the wish of a call, as `inference_geo=us`."""
    streams_by_default: Callable[[ServiceSettings], bool] = _always
    """Whether answers are asked for as streams where the configuration does not say."""
    tokenizer_sees: Callable[[dict[str, JsonValue]], JsonValue] | None = None
    """What of a body OpenAI's tokenizer makes tokens of. Raises CannotCount. None: its models have another one."""
    counter: TokenCounter | None = None
    as_asked: Callable[[ServiceSettings, str], ServiceSettings | None] = _learns_nothing
    """The service as it wants to be asked, where the message of its refusal says so. None: it does not."""
