"""The wire format `gemini`: generateContent of Google's Gemini API."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from urllib.parse import quote

from pydantic import JsonValue

from paymaster.messages import ChatMessage, Grant, LLMRequest, ToolCall
from paymaster.messages.wire import Wire
from paymaster.providers import counters
from paymaster.providers.answer_parts import WrittenCall, answer_object, dumped, start_of, tool_calls
from paymaster.providers.call_ids import with_ids
from paymaster.providers.embeddings import without_vectors
from paymaster.providers.event_stream import check_parts, event_object, stream_events
from paymaster.providers.kept_state import Piece, WrittenPiece, is_own, kept, only, pieces_of
from paymaster.providers.key_headers import key_header
from paymaster.providers.provider import (
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
from paymaster.providers.schemas import GEMINI, said_or_refused
from paymaster.settings import ServiceSettings
from paymaster.values.json_reading import count_of, list_of, object_of, read_json, text_of
from paymaster.values.made_ids import NOT_MADE, is_made, made_id
from paymaster.wire import gemini as wire_gemini

_FILTERED = {
    "SAFETY",
    "RECITATION",
    "LANGUAGE",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION",
    "MODEL_ARMOR",
}
_BROKEN = {
    "MALFORMED_FUNCTION_CALL",
    "MALFORMED_RESPONSE",
    "MISSING_THOUGHT_SIGNATURE",
    "TOO_MANY_TOOL_CALLS",
    "UNEXPECTED_TOOL_CALL",
}
_AT_LISTED_PRICES = (None, "ON_DEMAND", "PROVISIONED_THROUGHPUT", "TRAFFIC_TYPE_UNSPECIFIED")
"""Words of `trafficType`, which Vertex AI gives; what others cost (`ON_DEMAND_PRIORITY`) is listed nowhere."""
_THOUGHT = ("text", "thought", "thoughtSignature")
"""What there is of a thought in an answer."""
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
_BUDGET_MODELS = ("gemini-1", "gemini-2")
"""They think by a number of tokens and know no level."""


def build_request(request: LLMRequest, grant: Grant, service: ServiceSettings, stream: bool) -> HttpRequest:
    conversation = request.conversation()
    config: dict[str, JsonValue] = {"maxOutputTokens": grant.max_output_tokens}
    if request.json_schema is not None:
        sent = said_or_refused(request.json_schema, GEMINI)
        config |= {"responseMimeType": "application/json", "responseJsonSchema": sent}
    if request.temperature is not None:
        config["temperature"] = request.temperature
    if request.top_p is not None:
        config["topP"] = request.top_p
    if request.stop:
        config["stopSequences"] = list(request.stop)
    if request.seed is not None:
        config["seed"] = request.seed
    if request.reasoning_effort is not None:
        if request.reasoning_effort in ("none", "xhigh", "max") or grant.model.startswith(_BUDGET_MODELS):
            why = f"{grant.model} has no thinking level {request.reasoning_effort!r}"
            raise UnsupportedParameter("reasoning_effort", why)
        config["thinkingConfig"] = {"thinkingLevel": request.reasoning_effort}
    body: dict[str, JsonValue] = {"contents": _contents(conversation, grant, service), "generationConfig": config}
    system: list[JsonValue] = [{"text": message.content} for message in conversation if message.role == "system"]
    if system:
        body["systemInstruction"] = {"parts": system}
    if request.tools:
        functions: list[JsonValue] = [
            {"name": tool.name, "description": tool.description, "parametersJsonSchema": tool.parameters}
            for tool in request.tools
        ]
        body["tools"] = [{"functionDeclarations": functions}]
    if request.tool_choice is not None:
        mode = _MODES.get(request.tool_choice)
        body["toolConfig"] = {
            "functionCallingConfig": {"mode": mode}
            if mode
            else {"mode": "ANY", "allowedFunctionNames": [request.tool_choice]}
        }
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return HttpRequest(f"/models/{quote(grant.model, safe='')}:{method}", body)


def build_wire(wire: Wire, grant: Grant, service: ServiceSettings, outputs: int) -> WrittenRequest:
    cap = grant.max_output_tokens // max(1, outputs)
    path, body = wire_gemini.sent(wire, model=grant.model, cap=cap)
    return WrittenRequest(path, body, wire_gemini.sent_headers(wire.headers))


def parse_wire(body: bytes, service: ServiceSettings) -> ServiceAnswer | ServiceError:
    """What a neutral call does not get: embeddings, and a stream as one array."""
    if b'"embedding' in body and not {"embedding", "embeddings"}.isdisjoint(
        data := answer_object(without_vectors(body))
    ):
        return ServiceAnswer(finish_reason="STOP", usage=_usage(data.get("usageMetadata")))
    if body.lstrip()[:1] == b"[":
        return _parse_chunks(map(object_of, _chunks(body)))
    return _parse(answer_object(body))


def _chunks(body: bytes) -> list[JsonValue]:
    try:
        return list_of(read_json(body))
    except ValueError:
        raise MalformedAnswer(f"no array: {body[:200]!r}") from None


def parse_response(body: bytes, service: ServiceSettings) -> ServiceAnswer | ServiceError:
    return _parse(answer_object(body))


def parse_stream(body: bytes, service: ServiceSettings) -> ServiceAnswer | ServiceError:
    return _parse_chunks(map(event_object, stream_events(body)))


def _parse_chunks(chunks: Iterable[dict[str, JsonValue]]) -> ServiceAnswer | ServiceError:
    """Puts the chunks together: parts add up, and of the counts, which are cumulative, the last ones hold."""
    whole: dict[str, JsonValue] = {}
    parts: list[JsonValue] = []
    candidate: dict[str, JsonValue] = {}
    for chunk in chunks:
        if chunk.get("error"):
            return _error(chunk, None)
        whole |= chunk
        for found in map(object_of, list_of(chunk.get("candidates"))[:1]):
            parts += list_of(object_of(found.get("content")).get("parts"))
            candidate |= found
        check_parts(len(parts))
    if candidate.get("finishReason") is None and not object_of(whole.get("promptFeedback")).get("blockReason"):
        raise MalformedAnswer("the stream ended without a finishReason")
    if candidate:
        content: JsonValue = {"parts": parts}
        whole["candidates"] = [candidate | {"content": content}]
    return _parse(whole)


def _parse(data: dict[str, JsonValue]) -> ServiceAnswer | ServiceError:
    usage = _usage(data.get("usageMetadata"))
    if data.get("error"):
        return _error(data, usage)
    model = text_of(data.get("modelVersion"))
    blocked = text_of(object_of(data.get("promptFeedback")).get("blockReason"))
    if blocked:
        reason = f"promptFeedback.blockReason={blocked}"
        factor = _factor(data.get("usageMetadata"))
        return ServiceAnswer(finish_reason=reason, refused=True, model=model, usage=usage, factor=factor)
    candidates = list_of(data.get("candidates"))
    if not candidates or not isinstance(candidates[0], dict):
        raise MalformedAnswer(f"no candidates: {start_of(data)}")
    candidate = candidates[0]
    parts = [object_of(part) for part in list_of(object_of(candidate.get("content")).get("parts"))]
    finish_reason = text_of(candidate.get("finishReason"))
    text = "".join(text_of(part.get("text")) or "" for part in parts if part.get("thought") is not True)
    calls = _tool_calls(parts)
    return ServiceAnswer(
        text=text,
        tool_calls=calls,
        state=_state(parts),
        finish_reason=finish_reason,
        refused=finish_reason in _FILTERED,
        model=model,
        usage=usage,
        factor=_factor(data.get("usageMetadata")),
        request_id=text_of(data.get("responseId")),
        broken=_broken(finish_reason, is_empty=not text and not calls),
    )


def _broken(finish_reason: str | None, *, is_empty: bool) -> str | None:
    if finish_reason in _BROKEN:
        return f"finishReason {finish_reason}"
    says_why = finish_reason in _FILTERED or finish_reason == "MAX_TOKENS"
    return f"finishReason {finish_reason} without any content" if is_empty and not says_why else None


def _tool_calls(parts: Sequence[dict[str, JsonValue]]) -> tuple[ToolCall, ...]:
    calls: list[WrittenCall] = []
    for part in parts:
        function = object_of(part.get("functionCall"))
        name = text_of(function.get("name"))
        if name:
            call_id = text_of(function.get("id")) or made_id(len(calls) + 1)
            signature = text_of(part.get("thoughtSignature"))
            calls.append(WrittenCall(call_id, name, function.get("args"), signature))
    return tool_calls(calls)


def _state(parts: Sequence[dict[str, JsonValue]]) -> JsonValue:
    """The signatures of texts and thoughts, and where they stand. That of a call is in the call."""
    pieces: list[WrittenPiece] = []
    calls, signed = 0, False
    for part in parts:
        own = only(part, ("thoughtSignature",)) or None
        if text_of(object_of(part.get("functionCall")).get("name")):
            pieces.append(WrittenPiece(call=calls))
            calls, signed = calls + 1, signed or own is not None
        elif part.get("thought") is True:
            pieces += [WrittenPiece(own=only(part, _THOUGHT))] if own else []
        elif (text := text_of(part.get("text"))) is not None:
            pieces.append(WrittenPiece(text=text, own=own))
    return kept(pieces, signed=signed)


def _error(data: dict[str, JsonValue], usage: WireUsage | None) -> ServiceError:
    code = object_of(data.get("error")).get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    body = dumped({"error": data["error"]}).encode(errors="replace")
    return ServiceError(status=status, body=body, model=text_of(data.get("modelVersion")), usage=usage)


def _usage(usage: JsonValue) -> WireUsage | None:
    """Thoughts and the tools' prompts are counted apart; counts of zero are left out, but never the prompt's. What only
    the total has was put out."""
    prompt = count_of(usage, "promptTokenCount")
    if prompt is None:
        return None
    thoughts = count_of(usage, "thoughtsTokenCount") or 0
    details = object_of(usage)
    into = [*list_of(details.get("promptTokensDetails")), *list_of(details.get("toolUsePromptTokensDetails"))]
    cached, out = list_of(details.get("cacheTokensDetails")), list_of(details.get("candidatesTokensDetails"))
    input_tokens = prompt + (count_of(usage, "toolUsePromptTokenCount") or 0)
    output_tokens = (count_of(usage, "candidatesTokenCount") or 0) + thoughts
    return WireUsage(
        input_tokens=input_tokens,
        cached_input_tokens=count_of(usage, "cachedContentTokenCount") or 0,
        output_tokens=max(output_tokens, (count_of(usage, "totalTokenCount") or 0) - input_tokens),
        reasoning_tokens=thoughts,
        input_audio_tokens=_of("AUDIO", into),
        cached_audio_tokens=_of("AUDIO", cached),
        output_audio_tokens=_of("AUDIO", out),
        input_image_tokens=_of("IMAGE", into) + _of("DOCUMENT", into),
        cached_image_tokens=_of("IMAGE", cached) + _of("DOCUMENT", cached),
        output_image_tokens=_of("IMAGE", out) + _of("DOCUMENT", out),
        input_video_tokens=_of("VIDEO", into),
        cached_video_tokens=_of("VIDEO", cached),
        output_video_tokens=_of("VIDEO", out),
    )


def _factor(usage: JsonValue) -> Fraction | None:
    return Fraction(1) if object_of(usage).get("trafficType") in _AT_LISTED_PRICES else None


def _of(modality: str, details: list[JsonValue]) -> int:
    return sum(count_of(each, "tokenCount") or 0 for each in details if object_of(each).get("modality") == modality)


# ---------------------------------------------------------------- building


def _contents(conversation: Sequence[ChatMessage], grant: Grant, service: ServiceSettings) -> list[JsonValue]:
    contents: list[JsonValue] = []
    results: list[JsonValue] = []
    names: dict[str, str] = {}
    for message in with_ids(conversation, NOT_MADE, made_id):
        names |= {call.id: call.name for call in message.tool_calls}
        if message.role == "tool":
            call_id = message.tool_call_id or ""
            response: dict[str, JsonValue] = {
                "name": names.get(call_id, call_id),
                "response": {"result": message.content},
            }
            results.append({"functionResponse": _id(call_id) | response})
            continue
        if results:
            contents.append({"role": "user", "parts": results})
            results = []
        if message.role == "user":
            contents.append({"role": "user", "parts": _asked(message)})
        if message.role == "assistant" and (said := _said(message, grant, service)):  # nothing is refused
            contents.append({"role": "model", "parts": said})
    if results:
        contents.append({"role": "user", "parts": results})
    return contents


def _asked(message: ChatMessage) -> list[JsonValue]:
    parts: list[JsonValue] = []
    for image in message.images:
        if image.url is not None:
            file: dict[str, JsonValue] = {"fileUri": image.url}
            parts.append({"fileData": file | ({"mimeType": image.media_type} if image.media_type else {})})
        else:
            parts.append({"inlineData": {"mimeType": image.media_type, "data": image.data}})
    for document in message.documents:
        where: dict[str, JsonValue] = {"mimeType": document.media_type}
        if document.url is not None:
            parts.append({"fileData": where | {"fileUri": document.url}})
        else:
            parts.append({"inlineData": where | {"data": document.data}})
    return [*parts, {"text": message.content}] if message.content or not parts else parts


def _said(message: ChatMessage, grant: Grant, service: ServiceSettings) -> list[JsonValue]:
    """The parts of the model's turn, each with the signature that it came with: of a call in the call itself."""
    signs = message.state is None or is_own(message, grant, service)
    parts = [_part(piece, signs=signs) for piece in pieces_of(message, grant, service)]
    parts = [part for part in parts if part and part != {"text": ""}]
    first = next((part for part in parts if "functionCall" in part), None)
    if first is not None and "thoughtSignature" not in first:
        first["thoughtSignature"] = wire_gemini.UNSIGNED
    return list[JsonValue](parts)


def _part(piece: Piece, *, signs: bool) -> dict[str, JsonValue]:
    if (call := piece.call) is not None:
        function: dict[str, JsonValue] = {"name": call.name, "args": call.arguments}
        signature: dict[str, JsonValue] = {"thoughtSignature": call.signature} if signs and call.signature else {}
        return {"functionCall": _id(call.id) | function, **signature}
    if piece.text is not None:
        return {"text": piece.text, **only(piece.own, ("thoughtSignature",))}
    return only(piece.own, _THOUGHT)


def _id(call_id: str) -> dict[str, JsonValue]:
    """Without an id Google takes the results of a turn in the order of its calls."""
    return {} if is_made(call_id) else {"id": call_id}


PROVIDER = Provider(
    api="gemini",
    telemetry_name="gcp.gemini",
    authenticate=key_header("x-goog-api-key"),  # not the query parameter `key`, which ends up in logs
    build_request=build_request,
    parse_response=parse_response,
    parse_stream=parse_stream,
    counter=counters.GEMINI,
    dialects={"gemini": WireFormat(build_wire, parse_response=parse_wire)},
)
