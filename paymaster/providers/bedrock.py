"""The wire format `bedrock`: Amazon Bedrock's Converse, for the models of all its providers.

Sources: botocore's model of the service `bedrock-runtime`, and the pages of Bedrock's user guide on Converse.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from urllib.parse import quote

from pydantic import JsonValue

from paymaster.messages import ChatMessage, Grant, LLMRequest
from paymaster.providers.answer_parts import WrittenCall, answer_object, dumped, start_of, tool_calls
from paymaster.providers.aws_event_stream import EXCEPTION, STREAM_TYPE, as_server_sent_events
from paymaster.providers.aws_signature import signature
from paymaster.providers.bedrock_messages import has_tool_blocks, system_blocks, turns
from paymaster.providers.event_stream import check_parts, event_object, stream_events
from paymaster.providers.kept_state import WrittenPiece, kept
from paymaster.providers.key_headers import bearer
from paymaster.providers.provider import (
    BillFields,
    HttpRequest,
    MalformedAnswer,
    Outgoing,
    Provider,
    ServiceAnswer,
    ServiceError,
    UnsupportedParameter,
    WireUsage,
)
from paymaster.providers.schemas import CLAUDE, said_or_refused
from paymaster.settings import ServiceSettings
from paymaster.values.json_reading import count_of, list_of, object_of, text_of

_STATUS_OF_TYPE = {
    "validationException": 400,
    "throttlingException": 429,
    "modelStreamErrorException": 424,
    "internalServerException": 500,
    "serviceUnavailableException": 503,
    "modelTimeoutException": 408,
}
_REFUSED = ("guardrail_intervened", "content_filtered", "refusal")
_BROKEN = ("malformed_model_output", "malformed_tool_use")
_FACTORS = {"serviceTier": ("type", "default"), "performanceConfig": ("latency", "standard")}
"""By field of the answer, its word and the value of it at which the listed prices hold. What another one costs differs
by model, and nobody lists it."""
_NO_TOOL: JsonValue = {
    "toolSpec": {
        "name": "no_tool",
        "description": "There are no tools any more. Never call this one.",
        "inputSchema": {"json": {"type": "object", "properties": {}}},
    }
}
"""In the place of tools where there are none, or none may be called: a conversation with calls is refused without."""


def authenticate(request: Outgoing, key: str, service: ServiceSettings) -> dict[str, str]:
    """A signature, or a Bedrock API key as a bearer."""
    return (signature if service.auth == "aws" else bearer)(request, key, service)


def build_request(request: LLMRequest, grant: Grant, service: ServiceSettings, stream: bool) -> HttpRequest:
    if request.seed is not None:
        raise UnsupportedParameter("seed", "Converse has no such parameter")
    conversation = request.conversation()
    config: dict[str, JsonValue] = {"maxTokens": grant.max_output_tokens}
    if request.temperature is not None:
        config["temperature"] = request.temperature
    if request.top_p is not None:
        config["topP"] = request.top_p
    if request.stop:
        config["stopSequences"] = list(request.stop)
    body: dict[str, JsonValue] = {"messages": turns(conversation, grant, service), "inferenceConfig": config}
    if system := system_blocks(conversation, grant.model):
        body["system"] = system
    if tools := _tool_config(request, conversation):
        body["toolConfig"] = tools
    if output := _output_config(request, grant.model):
        body["outputConfig"] = output
    if request.reasoning_effort is not None and _knows_its_own_effort(grant.model):
        body["additionalModelRequestFields"] = {"reasoning_effort": request.reasoning_effort}
    method = "converse-stream" if stream else "converse"
    return HttpRequest(f"/model/{quote(grant.model, safe='')}/{method}", body)


def _tool_config(request: LLMRequest, conversation: Sequence[ChatMessage]) -> dict[str, JsonValue]:
    """Empty where the request needs none."""
    if not request.tools or request.tool_choice == "none":
        return {"tools": [_NO_TOOL]} if has_tool_blocks(conversation) else {}
    tools: list[JsonValue] = []
    for tool in request.tools:
        described: dict[str, JsonValue] = {"description": tool.description} if tool.description else {}
        tools.append({"toolSpec": {"name": tool.name, **described, "inputSchema": {"json": tool.parameters}}})
    if request.tool_choice is None:
        return {"tools": tools}
    words: Mapping[str, JsonValue] = {"auto": {"auto": {}}, "required": {"any": {}}}
    return {"tools": tools, "toolChoice": words.get(request.tool_choice, {"tool": {"name": request.tool_choice}})}


def _output_config(request: LLMRequest, model: str) -> dict[str, JsonValue]:
    """Empty where the request wants nothing of it."""
    config: dict[str, JsonValue] = {}
    if request.json_schema is not None:
        if "amazon.nova" in model:
            raise UnsupportedParameter("json_schema", "Converse keeps no answer of Nova to a schema")
        schema = dumped(said_or_refused(request.json_schema, CLAUDE))
        structure: JsonValue = {"jsonSchema": {"name": "answer", "schema": schema}}
        config["textFormat"] = {"type": "json_schema", "structure": structure}
    if request.reasoning_effort in ("none", "minimal"):
        raise UnsupportedParameter("reasoning_effort", f"Converse has no {request.reasoning_effort!r}")
    if request.reasoning_effort is not None and not _knows_its_own_effort(model):
        config["effort"] = request.reasoning_effort
    return config


def _knows_its_own_effort(model: str) -> bool:
    """OpenAI's models take it by OpenAI's name."""
    return "openai." in model


# ---------------------------------------------------------------- answers


def parse_response(body: bytes, service: ServiceSettings) -> ServiceAnswer | ServiceError:
    return _parse(answer_object(body))


def parse_stream(body: bytes, service: ServiceSettings) -> ServiceAnswer | ServiceError:
    """Puts the events together into the answer that would have come without streaming."""
    whole: dict[str, JsonValue] = {}
    blocks: dict[int, _StreamedBlock] = {}
    ended = False
    for event in stream_events(body):
        data = event_object(event)
        index = data.get("contentBlockIndex")
        match event.name:
            case name if name == EXCEPTION:
                return _error(data)
            case "contentBlockStart" if isinstance(index, int):
                blocks.setdefault(index, _StreamedBlock()).start(object_of(data.get("start")))
            case "contentBlockDelta" if isinstance(index, int):
                blocks.setdefault(index, _StreamedBlock()).add(object_of(data.get("delta")))
            case "messageStop":
                whole["stopReason"] = data.get("stopReason")
            case "metadata" if data:
                whole |= data
                ended = True
            case _:
                pass
        check_parts(len(blocks))
    if not ended or "stopReason" not in whole:
        raise MalformedAnswer("the stream ended without its last event, metadata")
    content: list[JsonValue] = [block.whole() for _, block in sorted(blocks.items())]
    whole["output"] = {"message": {"content": content}}
    return _parse(whole)


class _StreamedBlock:
    """One block of an answer, in pieces."""

    def __init__(self) -> None:
        self._tool: dict[str, JsonValue] = {}
        self._texts: dict[str, list[str]] = {}

    def start(self, start: dict[str, JsonValue]) -> None:
        self._tool = object_of(start.get("toolUse"))

    def add(self, delta: dict[str, JsonValue]) -> None:
        tool, thought = object_of(delta.get("toolUse")), object_of(delta.get("reasoningContent"))
        for name, text in (
            ("text", delta.get("text")),
            ("input", tool.get("input")),
            ("thought", thought.get("text")),
            ("signature", thought.get("signature")),
            ("redacted", thought.get("redactedContent")),
        ):
            if (piece := text_of(text)) is not None:
                self._texts.setdefault(name, []).append(piece)

    def whole(self) -> dict[str, JsonValue]:
        texts: dict[str, JsonValue] = {name: "".join(pieces) for name, pieces in self._texts.items()}
        if self._tool:
            return {"toolUse": self._tool | {"input": texts.get("input", "")}}
        if "redacted" in texts:
            return {"reasoningContent": {"redactedContent": texts["redacted"]}}
        if "thought" in texts or "signature" in texts:
            signed: dict[str, JsonValue] = {"signature": texts["signature"]} if "signature" in texts else {}
            return {"reasoningContent": {"reasoningText": {"text": texts.get("thought", ""), **signed}}}
        return {"text": texts.get("text", "")}


def _parse(data: dict[str, JsonValue]) -> ServiceAnswer:
    content = object_of(object_of(data.get("output")).get("message")).get("content")
    if not isinstance(content, list):
        raise MalformedAnswer(f"no content: {start_of(data)}")
    calls: list[WrittenCall] = []
    pieces: list[WrittenPiece] = []
    for block in map(object_of, content):
        tool, thought = object_of(block.get("toolUse")), object_of(block.get("reasoningContent"))
        if name := text_of(tool.get("name")):
            pieces.append(WrittenPiece(call=len(calls)))
            calls.append(WrittenCall(text_of(tool.get("toolUseId")) or "", name, tool.get("input")))
        elif (text := text_of(block.get("text"))) is not None:
            pieces.append(WrittenPiece(text=text))
        elif object_of(thought.get("reasoningText")).get("signature") or thought.get("redactedContent"):
            pieces.append(WrittenPiece(own={"reasoningContent": thought}))
    stop_reason = text_of(data.get("stopReason"))
    return ServiceAnswer(
        text="".join(piece.text for piece in pieces if piece.text),
        tool_calls=tool_calls(calls),
        state=kept(pieces),
        finish_reason=stop_reason,
        refused=stop_reason in _REFUSED,
        broken=f"stopReason {stop_reason}" if stop_reason in _BROKEN else None,
        **_bill(data),
    )


def _error(data: dict[str, JsonValue]) -> ServiceError:
    status = _STATUS_OF_TYPE.get(text_of(data.get("type")) or "", 500)
    return ServiceError(status=status, body=dumped(data).encode(errors="replace"))


def _bill(data: dict[str, JsonValue]) -> BillFields:
    """Only the answer of a prompt router names the model."""
    router = object_of(object_of(data.get("trace")).get("promptRouter"))
    factors = [object_of(data.get(field)).get(word, usual) == usual for field, (word, usual) in _FACTORS.items()]
    return {
        "model": text_of(router.get("invokedModelId")),
        "usage": _usage(data.get("usage")),
        "factor": Fraction(1) if all(factors) else None,
        "service_tier": text_of(object_of(data.get("serviceTier")).get("type")),
    }


def _usage(usage: JsonValue) -> WireUsage | None:
    """Input, cache reads and cache writes are counted apart there."""
    given, made = count_of(usage, "inputTokens"), count_of(usage, "outputTokens")
    if given is None or made is None:
        return None
    read, written = count_of(usage, "cacheReadInputTokens") or 0, count_of(usage, "cacheWriteInputTokens") or 0
    details = map(object_of, list_of(object_of(usage).get("cacheDetails")))
    return WireUsage(
        input_tokens=given + read + written,
        cached_input_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=sum(count_of(each, "inputTokens") or 0 for each in details if each.get("ttl") == "1h"),
        output_tokens=made,
    )


PROVIDER = Provider(
    api="bedrock",
    telemetry_name="aws.bedrock",
    authenticate=authenticate,
    build_request=build_request,
    parse_response=parse_response,
    parse_stream=parse_stream,
    stream_type=STREAM_TYPE,
    as_server_sent_events=as_server_sent_events,
    asked_model_answers=True,
)
