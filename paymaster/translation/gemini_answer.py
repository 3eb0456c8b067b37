"""Answers of other services as Google's generateContent and streamGenerateContent would give them."""

import json

from pydantic import JsonValue

from paymaster.messages import ToolCall
from paymaster.messages.wire import Wire, WireAnswer
from paymaster.translation.neutral import Ending, NeutralAnswer, in_ascii
from paymaster.values.made_ids import is_made
from paymaster.values.money import TokenUsage
from paymaster.wire.gemini import UNSIGNED, asked_for

_FINISH_REASONS: dict[Ending, str] = {"stop": "STOP", "length": "MAX_TOKENS", "tools": "STOP", "refused": "SAFETY"}
_MALFORMED = "MALFORMED_FUNCTION_CALL"
_Object = dict[str, JsonValue]


def answered(wire: Wire, body: dict[str, JsonValue], answer: NeutralAnswer) -> WireAnswer:
    """Whole, as server-sent events, or as one array of the chunks that these would be."""
    asked = asked_for(wire.path)
    if not asked.streams:
        return _json_answer(in_ascii(_response(answer, _parts(answer), is_last=True)))
    parts = _parts(answer)
    pieces = [[part] for part in parts] or [parts]
    chunks = [
        in_ascii(_response(answer, piece, is_last=number == len(pieces)))
        for number, piece in enumerate(pieces, start=1)
    ]
    if not asked.sse:
        return _json_answer(b"[%b]" % b",\n".join(chunks))
    events = b"".join(b"data: %b\n\n" % chunk for chunk in chunks)
    return WireAnswer(status=200, headers={"content-type": "text/event-stream"}, body=events)


def _json_answer(body: bytes) -> WireAnswer:
    return WireAnswer(status=200, headers={"content-type": "application/json; charset=UTF-8"}, body=body)


def _response(answer: NeutralAnswer, parts: list[_Object], *, is_last: bool) -> _Object:
    candidate: _Object = {"content": {"parts": list[JsonValue](parts), "role": "model"}, "index": 0}
    response: _Object = {"modelVersion": answer.model, "responseId": answer.id}
    if is_last:
        candidate |= _end(answer)
        response |= {} if answer.usage is None else {"usageMetadata": _usage(answer.usage)}
    return {"candidates": [candidate], **response}


def _parts(answer: NeutralAnswer) -> list[_Object]:
    """The text and the calls, of which Google's next model wants the first one signed."""
    said: list[_Object] = [{"text": answer.text}] if answer.text else []
    if _has_malformed(answer):
        return said
    calls = [_call(call) for call in answer.tool_calls]
    if calls:
        calls[0] = {**calls[0], "thoughtSignature": UNSIGNED}
    return [*said, *calls]


def _call(call: ToolCall) -> _Object:
    given: _Object = {} if is_made(call.id) else {"id": call.id}
    return {"functionCall": {**given, "name": call.name, "args": call.arguments}}


def _has_malformed(answer: NeutralAnswer) -> bool:
    return any(call.invalid_arguments is not None for call in answer.tool_calls)


def _end(answer: NeutralAnswer) -> _Object:
    """Of an answer with a call whose arguments are no object, Google says so and puts no call out: some of them alone
    are not what the model wanted. What it wrote is in the message."""
    if not _has_malformed(answer):
        return {"finishReason": _FINISH_REASONS[answer.ending]}
    reason = _MALFORMED if answer.ending in ("stop", "tools") else _FINISH_REASONS[answer.ending]
    written = ", ".join(f"{call.name}({_arguments(call)})" for call in answer.tool_calls)
    return {"finishReason": reason, "finishMessage": f"Malformed function call: {written}"}


def _arguments(call: ToolCall) -> str:
    if call.invalid_arguments is not None:
        return call.invalid_arguments
    return json.dumps(call.arguments, ensure_ascii=False)


def _usage(usage: TokenUsage) -> _Object:
    """Thoughts are counted apart, what was read from a cache is not; counts of zero are left out, but the prompt's."""
    thoughts = usage.reasoning_tokens
    counts: _Object = {
        "candidatesTokenCount": max(0, usage.output_tokens - thoughts),
        "cachedContentTokenCount": usage.cached_input_tokens,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": usage.input_tokens + usage.output_tokens,
    }
    return {"promptTokenCount": usage.input_tokens, **{name: count for name, count in counts.items() if count}}
