"""The wire format `openai-responses`: OpenAI's Responses API, used without state: nothing is stored at the provider."""

import re
from urllib.parse import urlsplit

from pydantic import JsonValue

from paymaster.messages import ChatMessage, Document, Grant, LLMRequest
from paymaster.messages.wire import Wire
from paymaster.providers import counters
from paymaster.providers.answer_parts import WrittenCall, answer_object, dumped, start_of, tool_calls
from paymaster.providers.cache_marks import OPENAI_MARK, takes_openai_mark, with_latest_cached
from paymaster.providers.call_ids import with_ids
from paymaster.providers.chat_messages import arguments_text, document_url, image_url
from paymaster.providers.event_stream import event_object, stream_events
from paymaster.providers.kept_state import Piece, WrittenPiece, kept, only, pieces_of
from paymaster.providers.key_headers import bearer
from paymaster.providers.listed_counts import RESPONSES_FLAVORS, with_listed_counts
from paymaster.providers.openai import dollars_to_nanos, usage_of
from paymaster.providers.openai_quirks import quirks_of
from paymaster.providers.provider import (
    BillFields,
    CannotCount,
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
from paymaster.providers.schemas import strict_or_loose
from paymaster.settings import ServiceSettings
from paymaster.values.json_reading import count_of, list_of, object_of, text_of
from paymaster.wire import openai_responses as wire_responses

_PATH = "/responses"
_TERMINAL = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
_UNFINISHED = ("queued", "in_progress")
"""Statuses of responses that the service makes in the background. Nobody asked for that, and as nothing is stored there
the answer could not be fetched later: https://developers.openai.com/docs/guides/background."""
_ANSWERED = ("completed", "incomplete", None)
"""Statuses of answers. Some gateways leave it out."""
_CALL_ID = re.compile(".{1,64}")
_REASONS = re.compile(r"(openai/)?(o\d|gpt-(?!5-chat)([5-9]|\d\d))")
"""Models that think, by how their names begin."""
_SAYS_AT_ONCE = re.compile(r"gpt-([34]|5-chat)")
"""Models that do not."""
_AZURE = (".azure.com", ".azure.us", ".azure.cn")
"""Where a model is called by the name of its deployment, which may say nothing of it."""
_NOT_ENCRYPTED = "encrypted content is not supported"
"""In the refusal of a model that does not think."""
_THOUGHT = ("type", "id", "summary", "encrypted_content")
"""What goes back of a reasoning item; its `status` is refused there."""
_STATUS_OF_CODE = {"rate_limit_exceeded": 429, "server_error": 500}


def build_request(request: LLMRequest, grant: Grant, service: ServiceSettings, stream: bool) -> HttpRequest:
    for parameter, value in (("stop", request.stop), ("seed", request.seed)):
        if value not in (None, ()):
            raise UnsupportedParameter(parameter, "the Responses API has no such parameter")
    items: list[JsonValue] = []
    caches = quirks_of(service.base_url).caches == "openai" and takes_openai_mark(grant.model)
    for message in with_latest_cached(with_ids(request.conversation(), _CALL_ID)):
        if message.role == "assistant":
            items += [item for piece in pieces_of(message, grant, service) if (item := _said(piece))]
        else:
            items.append(_asked(message, OPENAI_MARK if caches and message.cache and message.content else {}))
    body: dict[str, JsonValue] = {
        "model": grant.model,
        "input": items,
        "max_output_tokens": grant.max_output_tokens,
        "store": False,
    }
    if request.json_schema is not None:
        sent = strict_or_loose(request.json_schema)
        body["text"] = {
            "format": {"type": "json_schema", "name": "answer", "schema": sent.schema, "strict": sent.strict}
        }
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if _wants_encrypted(request, grant, service):
        body["include"] = ["reasoning.encrypted_content"]
    if request.reasoning_effort is not None:
        body["reasoning"] = {"effort": request.reasoning_effort}
    if request.tools:
        # Here strict is the default, and it refuses many a schema that chat completions take.
        body["tools"] = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
                "strict": False,
            }
            for tool in request.tools
        ]
    if request.tool_choice is not None:
        word = request.tool_choice in ("auto", "none", "required")
        body["tool_choice"] = request.tool_choice if word else {"type": "function", "name": request.tool_choice}
    if stream:
        body["stream"] = True
    return HttpRequest(_PATH, body)


def _build_wire(wire: Wire, grant: Grant, service: ServiceSettings, outputs: int) -> WrittenRequest:
    body = wire_responses.sent(wire.body, model=grant.model, cap=grant.max_output_tokens)
    return WrittenRequest(_PATH, body, wire_responses.sent_headers(wire.headers))


def _wants_encrypted(request: LLMRequest, grant: Grant, service: ServiceSettings) -> bool:
    """Models that do not think refuse it."""
    if service.encrypted_reasoning is not None:
        return service.encrypted_reasoning
    is_azure = (urlsplit(service.base_url).hostname or "").endswith(_AZURE)
    return (
        request.reasoning_effort is not None
        or _REASONS.match(grant.model) is not None
        or (is_azure and not _SAYS_AT_ONCE.match(grant.model))
    )


def as_asked(service: ServiceSettings, refusal: str) -> ServiceSettings | None:
    """Without what models thought, where this one refuses that."""
    if service.encrypted_reasoning is False or _NOT_ENCRYPTED not in refusal.lower():
        return None
    return service.model_copy(update={"encrypted_reasoning": False})


def parse_response(body: bytes, service: ServiceSettings) -> ServiceAnswer | ServiceError:
    return _parse(answer_object(body), service)


def parse_stream(body: bytes, service: ServiceSettings) -> ServiceAnswer | ServiceError:
    """The terminal event has the whole response in it."""
    for event in stream_events(body):
        data = event_object(event)
        kind = data.get("type") or event.name
        if kind in _TERMINAL and isinstance(data.get("response"), dict):
            return _parse(object_of(data["response"]), service)
        if kind == "error":
            return _error(data if data.get("error") is None else data["error"], {})
    raise MalformedAnswer("the stream ended without response.completed")


def _parse(data: dict[str, JsonValue], service: ServiceSettings) -> ServiceAnswer | ServiceError:
    status = text_of(data.get("status"))
    if data.get("error") or status == "failed":
        return _error(data.get("error"), _bill(data, service))
    if status in _UNFINISHED:
        response_id = text_of(data.get("id"))
        raise MalformedAnswer(f"a response with the status {status}, which is no answer yet: {response_id}")
    if not isinstance(data.get("output"), list):
        raise MalformedAnswer(f"no output: {start_of(data)}")
    text: list[str] = []
    refusals: list[str] = []
    calls: list[WrittenCall] = []
    pieces: list[WrittenPiece] = []
    for item in map(object_of, list_of(data["output"])):
        name = text_of(item.get("name"))
        if item.get("type") == "function_call" and name:
            pieces.append(WrittenPiece(call=len(calls)))
            calls.append(WrittenCall(text_of(item.get("call_id")) or "", name, item.get("arguments")))
        if item.get("type") == "message":
            parts = [object_of(part) for part in list_of(item.get("content"))]
            text.append("".join(text_of(part.get("text")) or "" for part in parts))
            refusals += [text_of(part.get("refusal")) or "" for part in parts]
            pieces.append(WrittenPiece(text=text[-1], own=only(item, ("phase",)) or None))
        if item.get("type") == "reasoning" and item.get("encrypted_content"):
            pieces.append(WrittenPiece(own=only(item, _THOUGHT)))
    stopped_by = text_of(object_of(data.get("incomplete_details")).get("reason"))
    refusal = "".join(refusals)
    said = "".join(text) or refusal
    return ServiceAnswer(
        text=said,
        tool_calls=tool_calls(calls),
        finish_reason=stopped_by or status,
        refused=bool(refusal) or stopped_by == "content_filter",
        state=kept(pieces),
        request_id=text_of(data.get("id")),
        broken=_broken(status, is_empty=not said and not calls),
        **_bill(data, service),
    )


def _broken(status: str | None, *, is_empty: bool) -> str | None:
    if status not in _ANSWERED:
        return f"a response with the status {status}"
    return "a response without any content" if status != "incomplete" and is_empty else None


def _bill(data: dict[str, JsonValue], service: ServiceSettings) -> BillFields:
    reports_cost = quirks_of(service.base_url).reports_cost
    return {
        "model": text_of(data.get("model")),
        "usage": _usage(data.get("usage"), service.base_url),
        "cost_nanos": dollars_to_nanos(object_of(data.get("usage")).get("cost")) if reports_cost else None,
        "service_tier": text_of(data.get("service_tier")),
    }


def _error(error: JsonValue, bill: BillFields) -> ServiceError:
    code = text_of(object_of(error).get("code")) or "server_error"
    body = dumped({"error": error}).encode(errors="replace")
    return ServiceError(status=_STATUS_OF_CODE.get(code, 400), body=body, **bill)


def _asked(message: ChatMessage, mark: dict[str, JsonValue]) -> JsonValue:
    """Any message but the assistant's. `mark`: what its last part has beside it."""
    text: JsonValue = {"type": "input_text", "text": message.content, **mark}
    if message.role == "tool":
        output: JsonValue = [text] if mark else message.content
        return {"type": "function_call_output", "call_id": message.tool_call_id, "output": output}
    images: list[JsonValue] = [
        {"type": "input_image", "image_url": image_url(image), "detail": "auto"} for image in message.images
    ]
    media = [*images, *map(_file, message.documents)]
    texts = [text] if message.content else []
    return {"role": message.role, "content": [*media, *texts] if media or mark else message.content}


def _file(document: Document) -> JsonValue:
    if document.url is not None:
        return {"type": "input_file", "file_url": document.url}
    return {"type": "input_file", "filename": document.name, "file_data": document_url(document)}


def _said(piece: Piece) -> dict[str, JsonValue]:
    """The item of an assistant's message; empty for an empty text."""
    if (call := piece.call) is not None:
        return {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": arguments_text(call)}
    if piece.text is not None:
        said: dict[str, JsonValue] = {"role": "assistant", "content": piece.text}
        return said | only(piece.own, ("phase",)) if piece.text else {}
    return only(piece.own, _THOUGHT) if piece.own.get("type") == "reasoning" else {}


def _usage(usage: JsonValue, base_url: str) -> WireUsage | None:
    fields = object_of(usage)
    of_input, of_output = fields.get("input_tokens_details"), fields.get("output_tokens_details")
    found = usage_of(
        input_tokens=count_of(usage, "input_tokens"),
        output_tokens=count_of(usage, "output_tokens"),
        total_tokens=count_of(usage, "total_tokens"),
        cached=count_of(of_input, "cached_tokens") or 0,
        of_input=of_input,
        of_output=of_output,
    )
    return None if found is None else with_listed_counts(found, usage, base_url, RESPONSES_FLAVORS)


def _tokenizer_sees(data: dict[str, JsonValue]) -> JsonValue:
    if wire_responses.has_sealed_thoughts(data):
        raise CannotCount("what was thought before is encrypted, and no tokenizer reads it")
    return wire_responses.seen(data)


PROVIDER = Provider(
    api="openai-responses",
    telemetry_name="openai",
    authenticate=bearer,
    build_request=build_request,
    parse_response=parse_response,
    parse_stream=parse_stream,
    as_asked=as_asked,
    tokenizer_sees=_tokenizer_sees,
    counter=counters.RESPONSES,
    dialects={"openai-responses": WireFormat(_build_wire)},
)
