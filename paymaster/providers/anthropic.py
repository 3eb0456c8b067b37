"""The wire format `anthropic`: the Messages API, version 2023-06-01 (a later one takes no temperature)."""

import re
from base64 import b64decode
from collections.abc import Sequence
from fractions import Fraction

from pydantic import JsonValue

from paymaster.messages import ChatMessage, Document, Grant, LLMRequest
from paymaster.messages.wire import Wire
from paymaster.providers import counters
from paymaster.providers.answer_parts import WrittenCall, answer_object, dumped, start_of, tool_calls
from paymaster.providers.cache_marks import ANTHROPIC_MARK, with_latest_cached
from paymaster.providers.call_ids import with_ids
from paymaster.providers.event_stream import check_parts, event_object, stream_events
from paymaster.providers.kept_state import WrittenPiece, kept, pieces_of
from paymaster.providers.key_headers import key_header
from paymaster.providers.provider import (
    BillFields,
    HttpRequest,
    MalformedAnswer,
    Pass,
    Provider,
    ServiceAnswer,
    ServiceError,
    UnsupportedParameter,
    WireFormat,
    WireUsage,
    WrittenRequest,
)
from paymaster.providers.schemas import CLAUDE, said_or_refused
from paymaster.settings import ServiceSettings
from paymaster.values.json_reading import TOKENS_MAX, count_of, list_of, object_of, text_of
from paymaster.wire import anthropic as wire_anthropic

_PATH = "/messages"
VERSION = "2023-06-01"
_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_CALL_ID = re.compile("[a-zA-Z0-9_-]{1,64}")
_THOUGHTS = ("thinking", "redacted_thinking")
"""Blocks that go back as they came."""
_PASSES_MAX = 100
"""Of one answer; what more of them cost nobody knows."""
_GEO_FACTORS = {"us": Fraction(11, 10), "global": Fraction(1), "not_available": Fraction(1)}
"""By where an answer was made, the factor of all token prices (Anthropic's page "Pricing"). What another word costs
nobody knows."""
CHOSEN_FACTORS = {f"inference_geo={word}": factor for word, factor in _GEO_FACTORS.items()}


def build_request(request: LLMRequest, grant: Grant, service: ServiceSettings, stream: bool) -> HttpRequest:
    if request.seed is not None:
        raise UnsupportedParameter("seed", "the Messages API has no such parameter")
    if request.reasoning_effort in ("none", "minimal"):
        raise UnsupportedParameter("reasoning_effort", f"the Messages API has no {request.reasoning_effort!r}")
    conversation = with_latest_cached(with_ids(request.conversation(), _CALL_ID))
    body: dict[str, JsonValue] = {
        "model": grant.model,
        "max_tokens": grant.max_output_tokens,
        "messages": _turns(conversation, grant, service),
    }
    if system := _system(conversation):
        body["system"] = system
    output: dict[str, JsonValue] = {}
    if request.json_schema is not None:
        output["format"] = {"type": "json_schema", "schema": said_or_refused(request.json_schema, CLAUDE)}
    if request.reasoning_effort is not None:
        output["effort"] = request.reasoning_effort
    if output:
        body["output_config"] = output
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.stop:
        body["stop_sequences"] = list(request.stop)
    if request.tools:
        body["tools"] = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}
            for tool in request.tools
        ]
    if request.tool_choice is not None:
        words: dict[str, JsonValue] = {word: {"type": word} for word in ("auto", "none")}
        words["required"] = {"type": "any"}
        body["tool_choice"] = words.get(request.tool_choice, {"type": "tool", "name": request.tool_choice})
    if stream:
        body["stream"] = True
    return HttpRequest(_PATH, body, {"anthropic-version": VERSION})


def _build_wire(wire: Wire, grant: Grant, service: ServiceSettings, outputs: int) -> WrittenRequest:
    """With the caller's version of the API, where it names one."""
    body = wire_anthropic.sent(wire.body, model=grant.model, cap=grant.max_output_tokens)
    return WrittenRequest(_PATH, body, {"anthropic-version": VERSION} | wire_anthropic.sent_headers(wire.headers))


def parse_response(body: bytes, service: ServiceSettings) -> ServiceAnswer | ServiceError:
    return _parse(answer_object(body))


def parse_stream(body: bytes, service: ServiceSettings) -> ServiceAnswer | ServiceError:
    """Puts the events together into the message that would have come without streaming.

    Usage in `message_delta` is cumulative: a count replaces the earlier one, and one that is missing leaves it.
    """
    message: dict[str, JsonValue] = {}
    usage: dict[str, JsonValue] = {}
    blocks: dict[int, _StreamedBlock] = {}
    ended = False
    for event in stream_events(body):
        data = event_object(event)
        index = data.get("index")
        match data.get("type"):
            case "error":
                return _error(data, {"model": text_of(message.get("model"))})  # counts so far are not the bill
            case "message_start":
                message = dict(object_of(data.get("message")))
                usage |= object_of(message.get("usage"))
            case "content_block_start" if isinstance(index, int):
                blocks[index] = _StreamedBlock(dict(object_of(data.get("content_block"))))
            case "content_block_delta" if isinstance(index, int):
                blocks.setdefault(index, _StreamedBlock({})).add(object_of(data.get("delta")))
            case "message_delta":
                message |= object_of(data.get("delta"))
                usage |= {name: value for name, value in object_of(data.get("usage")).items() if value is not None}
            case "message_stop":
                ended = True
            case _:
                pass
        check_parts(len(blocks))
    if not ended:
        raise MalformedAnswer("the stream ended without its last event, message_stop")
    message["content"] = [block.whole() for _, block in sorted(blocks.items())]
    message["usage"] = usage
    return _parse(message)


class _StreamedBlock:
    """One block of an answer, in pieces."""

    def __init__(self, start: dict[str, JsonValue]) -> None:
        self._start = start
        self._texts = {name: list[str]() for name in ("text", "thinking", "signature")}
        self._input: list[str] = []

    def add(self, delta: dict[str, JsonValue]) -> None:
        if delta.get("type") in ("text_delta", "thinking_delta", "signature_delta"):
            for name, pieces in self._texts.items():
                pieces.append(text_of(delta.get(name)) or "")
        if delta.get("type") == "input_json_delta":
            self._input.append(text_of(delta.get("partial_json")) or "")

    def whole(self) -> dict[str, JsonValue]:
        block = dict(self._start)
        for name, pieces in self._texts.items():
            if any(pieces):
                block[name] = (text_of(block.get(name)) or "") + "".join(pieces)
        if self._input:  # the block began with an empty object as its input
            before = block.get("input")
            block["input"] = (before if isinstance(before, str) else "") + "".join(self._input)
        return block


def _parse(data: dict[str, JsonValue]) -> ServiceAnswer | ServiceError:
    if data.get("type") == "error" or data.get("error"):
        return _error(data, _bill(data))
    if not isinstance(data.get("content"), list):
        raise MalformedAnswer(f"no content: {start_of(data)}")
    blocks = [object_of(block) for block in list_of(data["content"])]
    calls: list[WrittenCall] = []
    pieces: list[WrittenPiece] = []
    for block in blocks:
        name = text_of(block.get("name"))
        if block.get("type") == "tool_use" and name:
            pieces.append(WrittenPiece(call=len(calls)))
            calls.append(WrittenCall(text_of(block.get("id")) or "", name, block.get("input")))
        if block.get("type") == "text":
            pieces.append(WrittenPiece(text=text_of(block.get("text")) or ""))
        if block.get("type") in _THOUGHTS:
            pieces.append(WrittenPiece(own=block))
    stop_reason = text_of(data.get("stop_reason"))
    return ServiceAnswer(
        text="".join(piece.text for piece in pieces if piece.text),
        tool_calls=tool_calls(calls),
        state=kept(pieces),
        finish_reason=stop_reason,
        refused=stop_reason == "refusal",
        request_id=text_of(data.get("id")),
        **_bill(data),
    )


def _error(data: dict[str, JsonValue], bill: BillFields) -> ServiceError:
    kind = text_of(object_of(data.get("error")).get("type")) or "api_error"
    body = dumped(data).encode(errors="replace")
    return ServiceError(status=_STATUS_OF_TYPE.get(kind, 500), body=body, **bill)


# ---------------------------------------------------------------- what is billed


def _bill(data: dict[str, JsonValue]) -> BillFields:
    model, usage = text_of(data.get("model")), object_of(data.get("usage"))
    passes = _passes(model or "", usage)
    total = _usage(usage, passes)
    few = len(list_of(usage.get("iterations"))) <= _PASSES_MAX
    return {
        "model": model,
        "usage": total,
        "passes": _parts(model or "", total, passes) if few and total is not None else (),
        "factor": _factor(usage) if few else None,
        "service_tier": text_of(usage.get("service_tier")),
        "speed": None if usage.get("speed") in (None, "standard") else text_of(usage["speed"]) or "?",
    }


def _factor(usage: dict[str, JsonValue]) -> Fraction | None:
    """By where it was made. What is not said multiplies nothing."""
    geo = usage.get("inference_geo")
    return Fraction(1) if geo is None else _GEO_FACTORS.get(text_of(geo) or "")


def _passes(model: str, usage: dict[str, JsonValue]) -> list[Pass]:
    """Those that the answer tells of, which its totals may leave out."""
    entries = map(object_of, list_of(usage.get("iterations")))
    return [
        Pass(text_of(entry.get("model")) or model, _counted(entry))
        for entry in entries
        if count_of(entry, "input_tokens") is not None
    ]


def _usage(usage: dict[str, JsonValue], passes: Sequence[Pass]) -> WireUsage | None:
    """All of it: count by count, what the total says or all passes together."""
    if count_of(usage, "input_tokens") is None or count_of(usage, "output_tokens") is None:
        return None
    of_passes = _sums(passes)
    found = WireUsage(**{name: max(count, of_passes[name]) for name, count in _counted(usage).model_dump().items()})
    return found if found.input_tokens <= TOKENS_MAX and found.output_tokens <= TOKENS_MAX else None


def _parts(model: str, total: WireUsage, passes: Sequence[Pass]) -> tuple[Pass, ...]:
    """Where another model had a part: the parts of each, and what is left of the total for the one that answered."""
    if all(each.model == model for each in passes):
        return ()
    of_passes = _sums(passes)
    left = WireUsage(**{name: count - of_passes[name] for name, count in total.model_dump().items()})
    return (Pass(model, left), *passes)


def _sums(passes: Sequence[Pass]) -> dict[str, int]:
    return {name: sum(getattr(each.usage, name) for each in passes) for name in WireUsage.model_fields}


def _counted(usage: dict[str, JsonValue]) -> WireUsage:
    """The counts of the whole, or of one pass. Input, cache reads and cache writes are counted apart there."""
    read, written = count_of(usage, "cache_read_input_tokens") or 0, count_of(usage, "cache_creation_input_tokens") or 0
    return WireUsage(
        input_tokens=(count_of(usage, "input_tokens") or 0) + read + written,
        cached_input_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=count_of(usage.get("cache_creation"), "ephemeral_1h_input_tokens") or 0,
        output_tokens=count_of(usage, "output_tokens") or 0,
        reasoning_tokens=count_of(usage.get("output_tokens_details"), "thinking_tokens") or 0,
        web_searches=count_of(usage.get("server_tool_use"), "web_search_requests") or 0,
    )


# ---------------------------------------------------------------- building


def _system(messages: Sequence[ChatMessage]) -> JsonValue:
    """A text; blocks where one of them is to be cached."""
    system = [message for message in messages if message.role == "system" and message.content]
    if not any(message.cache for message in system):
        return "\n\n".join(message.content for message in system)
    return [
        {"type": "text", "text": message.content, **(ANTHROPIC_MARK if message.cache else {})} for message in system
    ]


def _turns(messages: Sequence[ChatMessage], grant: Grant, service: ServiceSettings) -> list[JsonValue]:
    """The messages, with the results of tools as blocks of one user turn: all results of a turn belong together."""
    turns: list[JsonValue] = []
    results: list[JsonValue] = []
    for message in messages:
        if message.role == "tool":
            result: JsonValue = {"tool_use_id": message.tool_call_id, "content": message.content}
            results.append({"type": "tool_result", **result, **(ANTHROPIC_MARK if message.cache else {})})
            continue
        said = _said(message, grant, service) if message.role == "assistant" else _asked(message)
        if message.role == "system" or not said:
            continue  # an empty message is refused
        if message.cache:
            said[-1] |= ANTHROPIC_MARK
        if message.role == "user" and results:
            turns.append({"role": "user", "content": [*results, *said]})
        else:
            if results:
                turns.append({"role": "user", "content": results})
            is_text = len(said) == 1 and set(said[0]) == {"type", "text"}
            turns.append({"role": message.role, "content": message.content if is_text else list[JsonValue](said)})
        results = []
    if results:
        turns.append({"role": "user", "content": results})
    return turns


def _asked(message: ChatMessage) -> list[dict[str, JsonValue]]:
    blocks: list[dict[str, JsonValue]] = []
    for image in message.images:
        source: JsonValue = (
            {"type": "url", "url": image.url}
            if image.url is not None
            else {"type": "base64", "media_type": image.media_type, "data": image.data}
        )
        blocks.append({"type": "image", "source": source})
    blocks += [{"type": "document", "source": _source(each), "title": each.name} for each in message.documents]
    return [*blocks, {"type": "text", "text": message.content}] if message.content else blocks


def _source(document: Document) -> JsonValue:
    """Raises UnsupportedParameter for other files than PDFs and texts."""
    media_type = document.media_type
    if media_type == "application/pdf":
        if document.url is not None:
            return {"type": "url", "url": document.url}
        return {"type": "base64", "media_type": media_type, "data": document.data}
    if media_type != "text/plain" or document.data is None:
        raise UnsupportedParameter(
            "documents", f"the Messages API takes PDFs, and texts as data; not this {media_type}"
        )
    try:
        text = b64decode(document.data, validate=True).decode()
    except ValueError:
        raise UnsupportedParameter("documents", f"the data of {document.name!r} are no text in base64") from None
    return {"type": "text", "media_type": media_type, "data": text}


def _said(message: ChatMessage, grant: Grant, service: ServiceSettings) -> list[dict[str, JsonValue]]:
    """The blocks of an assistant's turn: a text of spaces alone is refused, and a thought at the end."""
    blocks: list[dict[str, JsonValue]] = []
    ends_at = 0
    for piece in pieces_of(message, grant, service):
        if (call := piece.call) is not None:
            blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments})
            ends_at = len(blocks)
        elif piece.text is not None:
            if piece.text.strip():
                blocks.append({"type": "text", "text": piece.text})
                ends_at = len(blocks)
        elif piece.own.get("type") in _THOUGHTS:
            blocks.append(dict(piece.own))
    return blocks[:ends_at]


PROVIDER = Provider(
    api="anthropic",
    telemetry_name="anthropic",
    authenticate=key_header("x-api-key"),
    build_request=build_request,
    parse_response=parse_response,
    parse_stream=parse_stream,
    dialects={"anthropic": WireFormat(_build_wire)},
    chosen_factors=CHOSEN_FACTORS,
    counter=counters.CLAUDE,
)
