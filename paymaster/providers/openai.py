"""The wire format `openai`: chat completions, as OpenAI and the many compatible servers speak it."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, Decimal

from pydantic import JsonValue

from paymaster.messages import Grant, LLMRequest, Tool, ToolCall
from paymaster.messages.wire import Wire
from paymaster.providers import embeddings
from paymaster.providers.answer_parts import WrittenCall, answer_object, dumped, start_of, tool_calls
from paymaster.providers.cache_marks import ANTHROPIC_MARK, OPENAI_MARK, takes_openai_mark, with_latest_cached
from paymaster.providers.call_ids import with_ids
from paymaster.providers.chat_messages import (
    StreamedContent,
    StreamedThoughts,
    asked,
    has_thoughts,
    said,
    state_of_answer,
    text_said,
)
from paymaster.providers.event_stream import check_parts, event_object, stream_events
from paymaster.providers.kept_state import pieces_of
from paymaster.providers.key_headers import bearer
from paymaster.providers.listed_counts import with_listed_counts
from paymaster.providers.openai_quirks import Quirks, quirks_of
from paymaster.providers.provider import (
    BillFields,
    HttpRequest,
    MalformedAnswer,
    Provider,
    ServiceAnswer,
    ServiceError,
    UnsupportedParameter,
    WireFormat,
    WireUsage,
    WrittenRequest,
)
from paymaster.providers.schemas import instruction, strict_or_loose
from paymaster.providers.streamed_tool_calls import StreamedToolCalls
from paymaster.settings import ServiceSettings
from paymaster.values.json_reading import count_of, list_of, object_of, text_of
from paymaster.values.money import NANOS_MAX
from paymaster.wire import openai_chat

PATH = "/chat/completions"
_REFUSED = ("unsupported", "not supported", "unrecognized", "unknown", "not permitted", "unexpected")
"""Words of servers for a parameter that they do not take."""
_BROKEN = frozenset(
    {
        "error",  # OpenRouter, Mistral, vLLM
        "abort",  # vLLM, SGLang
        "network_error",  # Z.ai
        "insufficient_system_resource",  # DeepSeek
    }
)
"""Finish reasons of answers that broke off on the service's side."""
_BROKEN_CALLS = ("malformed_function_call", "unexpected_tool_call")
"""In Gemini's words for a call that its model wrote wrongly, which gateways pass on with some of their own."""
_REASONS = ("finish_reason", "native_finish_reason")
"""Of a choice: in the words of this format, and in those of the provider behind OpenRouter."""
_AMOUNT_LENGTH_MAX = 100
"""Of an amount of money, as a server writes it."""


def build_request(request: LLMRequest, grant: Grant, service: ServiceSettings, stream: bool) -> HttpRequest:
    """The cap on the output is always sent: the bound of the cost depends on it."""
    quirks = replace(quirks_of(service.base_url), output_cap=_output_cap(service))
    return HttpRequest(PATH, build_body(request, grant, service, quirks, stream=stream))


def _build_chat(wire: Wire, grant: Grant, service: ServiceSettings, outputs: int) -> WrittenRequest:
    body = wire_body(wire, grant, outputs, _output_cap(service))
    return WrittenRequest(PATH, body, openai_chat.sent_headers(wire.headers))


def wire_body(wire: Wire, grant: Grant, outputs: int, cap_name: str) -> bytes:
    """The grant's cap is on all outputs together."""
    cap = grant.max_output_tokens // outputs
    return openai_chat.sent(wire.body, model=grant.model, cap=cap, cap_name=cap_name)


def _output_cap(service: ServiceSettings) -> str:
    return service.output_cap or quirks_of(service.base_url).output_cap


def as_asked(service: ServiceSettings, refusal: str) -> ServiceSettings | None:
    """With the other name of the cap, where the one that was sent is refused: a gateway has the model's own."""
    refused = refusal.lower()
    if _output_cap(service) not in refused or not any(word in refused for word in _REFUSED):
        return None
    other = "max_tokens" if _output_cap(service) == "max_completion_tokens" else "max_completion_tokens"
    return service.model_copy(update={"output_cap": other})


def build_body(
    request: LLMRequest, grant: Grant, service: ServiceSettings, quirks: Quirks, *, stream: bool
) -> dict[str, JsonValue]:
    _refuse_unsupported(request, quirks)
    mark = _cache_mark(grant, quirks)
    messages = with_latest_cached(with_ids(request.conversation(), quirks.call_id))
    body: dict[str, JsonValue] = {
        "model": grant.model,
        "messages": [
            said(
                message,
                pieces_of(message, grant, service),
                wants_thoughts=quirks.wants_thoughts,
                wants_signature=quirks.wants_signature,
            )
            if message.role == "assistant"
            else asked(message, mark)
            for message in messages
            if message.role != "assistant" or message.content or message.tool_calls  # several refuse an empty one
        ],
        quirks.output_cap: grant.max_output_tokens,
    }
    if request.json_schema is not None:
        body |= _format(request.json_schema, quirks, list_of(body["messages"]))
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.stop:
        body["stop"] = list(request.stop)
    if request.seed is not None:
        body[quirks.seed] = request.seed
    if request.reasoning_effort is not None:
        body["reasoning_effort"] = request.reasoning_effort
    if request.tools:
        body["tools"] = [_function(tool) for tool in request.tools]
    if request.tool_choice is not None:
        body["tool_choice"] = _tool_choice(request.tool_choice, quirks)
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return body


def _function(tool: Tool) -> JsonValue:
    described: JsonValue = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": described}


def parse_response(body: bytes, service: ServiceSettings) -> ServiceAnswer | ServiceError:
    """The answer, or the error, in the body of a 2xx. Raises MalformedAnswer when it is neither."""
    return parse_object(answer_object(body), quirks_of(service.base_url), service.base_url)


def parse_object(data: dict[str, JsonValue], quirks: Quirks, base_url: str) -> ServiceAnswer | ServiceError:
    if data.get("error"):
        return _error(data, quirks, base_url)
    choices = list_of(data.get("choices"))
    choice = object_of(choices[0]) if choices else {}
    finish_reason, message = text_of(choice.get("finish_reason")), choice.get("message")
    # Azure leaves the message out when its filter has taken the whole answer.
    if not isinstance(message, dict) and finish_reason is None:
        raise MalformedAnswer(f"no choices[0].message: {start_of(data)}")
    message = object_of(message)
    refusal = text_of(message.get("refusal"))
    content, calls = text_said(message.get("content")), _calls(message.get("tool_calls"))
    text = content or refusal or ""
    is_empty = not text and not calls and (content is None or has_thoughts(message))
    return ServiceAnswer(
        text=text,
        tool_calls=_tool_calls(calls),
        state=state_of_answer(message, text, calls),
        finish_reason=finish_reason,
        refused=bool(refusal) or finish_reason == "content_filter",
        broken=_broken(choice, is_empty=is_empty),
        **_bill(data, quirks, base_url),
        request_id=text_of(object_of(data.get("x_groq")).get("id")) or text_of(data.get("id")),
    )


def _broken(choice: dict[str, JsonValue], *, is_empty: bool) -> str | None:
    """Why the service itself takes the answer for none."""
    reasons = [text_of(choice.get(name)) or "" for name in _REASONS]
    for reason in reasons:
        if reason.lower() in _BROKEN or any(words in reason.lower() for words in _BROKEN_CALLS):
            return f"finish_reason {reason}"
    return "finish_reason stop without any content" if reasons[0] == "stop" and is_empty else None


def parse_stream(body: bytes, service: ServiceSettings) -> ServiceAnswer | ServiceError:
    return parse_chunks(body, quirks_of(service.base_url), service.base_url)


def parse_chunks(body: bytes, quirks: Quirks, base_url: str) -> ServiceAnswer | ServiceError:
    """Puts the chunks together into the answer that would have come without streaming."""
    said: dict[str, JsonValue] = {}
    reasons: dict[str, JsonValue] = {}
    content = StreamedContent()
    refusal: list[str] = []
    thoughts = StreamedThoughts()
    calls = StreamedToolCalls()
    ended = False
    for event in stream_events(body):
        ended = ended or event.data.strip() == "[DONE]"
        chunk = event_object(event)
        latest_said = {
            "id": text_of(chunk.get("id")),
            "model": text_of(chunk.get("model")),
            "service_tier": text_of(chunk.get("service_tier")),
            "usage": chunk.get("usage") or object_of(chunk.get("x_groq")).get("usage"),
            "x_groq": chunk.get("x_groq"),
        }
        said |= {name: value for name, value in latest_said.items() if value}
        if chunk.get("error"):
            return _error({**said, "error": chunk["error"]}, quirks, base_url)
        for choice in map(object_of, list_of(chunk.get("choices"))):
            if choice.get("index", 0) != 0:
                continue
            delta = object_of(choice.get("delta"))
            reasons |= {name: reason for name in _REASONS if (reason := text_of(choice.get(name)))}
            content.add(delta.get("content"))
            refusal.append(text_of(delta.get("refusal")) or "")
            thoughts.add(delta)
            for number, part in enumerate(map(object_of, list_of(delta.get("tool_calls")))):
                calls.add(number, part)
        check_parts(len(calls))
    if not (
        ended or (reasons.get("finish_reason") and _usage(said.get("usage")))
    ):  # all has come, also where nobody says [DONE]
        raise MalformedAnswer("the stream ended without its last event, [DONE]")
    message: dict[str, JsonValue] = {
        "content": content.whole(),
        "refusal": "".join(refusal),
        "tool_calls": calls.whole(),
        **thoughts.whole(),
    }
    choice: dict[str, JsonValue] = {"message": message, "finish_reason": None, **reasons}
    return parse_object({**said, "choices": [choice]}, quirks, base_url)


# ---------------------------------------------------------------- building


def _refuse_unsupported(request: LLMRequest, quirks: Quirks) -> None:
    asked = {
        "seed": request.seed is not None,
        "images": any(message.images for message in request.messages),
        "tool_choice": request.tool_choice is not None,
    }
    for document in (each for message in request.messages for each in message.documents):
        if not quirks.takes_documents or document.url is not None or document.media_type != "application/pdf":
            raise UnsupportedParameter("documents", "chat completions take PDFs as data at OpenAI, and elsewhere none")
    for parameter, is_asked in asked.items():
        if is_asked and parameter in quirks.unsupported:
            raise UnsupportedParameter(parameter, "this service does not honour it")


def _cache_mark(grant: Grant, quirks: Quirks) -> dict[str, JsonValue]:
    """What the last part of a message has beside it when the conversation up to there is to be cached."""
    if quirks.caches == "anthropic":
        return ANTHROPIC_MARK
    return OPENAI_MARK if quirks.caches == "openai" and takes_openai_mark(grant.model) else {}


def _format(schema: dict[str, JsonValue], quirks: Quirks, messages: list[JsonValue]) -> dict[str, JsonValue]:
    if not quirks.json_schema:
        told: JsonValue = {"role": "system", "content": instruction(schema)}
        return {"messages": [told, *messages], "response_format": {"type": "json_object"}}
    sent = strict_or_loose(schema)
    named: JsonValue = {"name": "answer", "schema": sent.schema, "strict": sent.strict}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _tool_choice(choice: str, quirks: Quirks) -> JsonValue:
    if choice in ("auto", "none"):
        return choice
    return quirks.required if choice == "required" else {"type": "function", "function": {"name": choice}}


# ---------------------------------------------------------------- reading


def _error(data: dict[str, JsonValue], quirks: Quirks, base_url: str) -> ServiceError:
    """OpenRouter gives the status as the code, Groq as `status_code`; without one it is the server's fault."""
    fields = object_of(data["error"])
    status = next(
        (
            code
            for code in (fields.get("code"), fields.get("status_code"))
            if isinstance(code, int) and 400 <= code < 600
        ),
        500,
    )
    return ServiceError(
        status=status, body=dumped({"error": data["error"]}).encode(errors="replace"), **_bill(data, quirks, base_url)
    )


def _bill(data: dict[str, JsonValue], quirks: Quirks, base_url: str) -> BillFields:
    usage = _usage(data.get("usage"))
    return {
        "model": text_of(data.get("model")),
        "usage": None if usage is None else with_listed_counts(usage, data.get("usage"), base_url),
        "cost_nanos": _cost_nanos(object_of(data.get("usage"))) if quirks.reports_cost else None,
        "service_tier": text_of(data.get("service_tier")),
    }


def _calls(calls: JsonValue) -> list[dict[str, JsonValue]]:
    """Those that have a name."""
    return [call for call in map(object_of, list_of(calls)) if text_of(object_of(call.get("function")).get("name"))]


def _tool_calls(calls: Sequence[dict[str, JsonValue]]) -> tuple[ToolCall, ...]:
    found: list[WrittenCall] = []
    for call in calls:
        function = object_of(call.get("function"))
        found.append(
            WrittenCall(text_of(call.get("id")) or "", text_of(function.get("name")) or "", function.get("arguments"))
        )
    return tool_calls(found)


def _usage(usage: JsonValue) -> WireUsage | None:
    fields = object_of(usage)
    of_input, of_output = fields.get("prompt_tokens_details"), fields.get("completion_tokens_details")
    return usage_of(
        input_tokens=count_of(usage, "prompt_tokens"),
        output_tokens=count_of(usage, "completion_tokens"),
        total_tokens=count_of(usage, "total_tokens"),
        cached=count_of(of_input, "cached_tokens") or count_of(usage, "prompt_cache_hit_tokens") or 0,
        of_input=of_input,
        of_output=of_output,
    )


def usage_of(
    *,
    input_tokens: int | None,
    output_tokens: int | None,
    total_tokens: int | None,
    cached: int,
    of_input: JsonValue,
    of_output: JsonValue,
) -> WireUsage | None:
    """None when the counts that the cost is made of are missing, senseless, or contradict each other.

    Some servers count reasoning apart from the output, and some say of it only the total. A total of 0 says nothing.
    """
    if input_tokens is None or output_tokens is None:
        return None
    written = count_of(of_input, "cache_write_tokens") or 0
    reasoning = count_of(of_output, "reasoning_tokens") or 0
    total = total_tokens or input_tokens + output_tokens
    if total < input_tokens + output_tokens or cached + written > input_tokens:
        return None
    output_tokens = total - input_tokens
    return WireUsage(
        input_tokens=input_tokens,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output_tokens if reasoning <= output_tokens else output_tokens + reasoning,
        reasoning_tokens=reasoning,
        input_audio_tokens=count_of(of_input, "audio_tokens") or 0,
        output_audio_tokens=count_of(of_output, "audio_tokens") or 0,
    )


def _cost_nanos(usage: dict[str, JsonValue]) -> int | None:
    """The charge, rounded up. With the customer's own key at the upstream provider, that one's bill is part of it."""
    cost = dollars_to_nanos(usage.get("cost"))
    if cost is None or usage.get("is_byok") is not True:
        return cost
    upstream = dollars_to_nanos(object_of(usage.get("cost_details")).get("upstream_inference_cost"))
    return cost + (upstream or 0)


def dollars_to_nanos(amount: JsonValue) -> int | None:
    """The nano-dollars of an amount as a server wrote it, rounded up. None: not an amount."""
    if isinstance(amount, bool) or not isinstance(amount, int | float | str):
        return None
    try:
        written = str(amount)
        if len(written) > _AMOUNT_LENGTH_MAX:
            return None
        nanos = Decimal(written).scaleb(9)
    except (ArithmeticError, ValueError):  # no number, or one that no Decimal can hold: 1e999999
        return None
    if not nanos.is_finite() or not 0 <= nanos <= NANOS_MAX:
        return None
    return int(nanos.to_integral_value(rounding=ROUND_CEILING))


PROVIDER = Provider(
    api="openai",
    telemetry_name="openai",
    authenticate=bearer,
    build_request=build_request,
    parse_response=parse_response,
    parse_stream=parse_stream,
    streams_by_default=lambda service: quirks_of(service.base_url).streams_usage,
    as_asked=as_asked,
    tokenizer_sees=openai_chat.seen,
    dialects={
        "openai": WireFormat(_build_chat, takes_other_caps=True),
        "openai-embeddings": embeddings.wire_format(lambda grant, service: embeddings.PATH),
    },
)
