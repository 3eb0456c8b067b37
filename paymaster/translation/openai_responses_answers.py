"""A neutral answer as a response of OpenAI's Responses API, whole or as its events."""

from collections.abc import Iterator

from pydantic import JsonValue

from paymaster.messages import ToolCall
from paymaster.messages.wire import Wire, WireAnswer
from paymaster.translation.neutral import NeutralAnswer
from paymaster.translation.openai_parts import calls_of, event, streamed, whole, written_arguments
from paymaster.values.json_reading import list_of, object_of
from paymaster.values.money import TokenUsage

_Object = dict[str, JsonValue]
_ECHOED: _Object = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "temperature": None,
    "tool_choice": "auto",
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
"""What a response says again of its call beside tools and format, with what it says where the call says nothing."""
_SAID_AGAIN_BYTES_MAX = 1_000_000
"""A longer call is not said again: a stream has it three times, in ASCII, and with the longest answer that is carried
it would be more than the body of an answer may have."""


def answered(wire: Wire, body: _Object, answer: NeutralAnswer) -> WireAnswer:
    """A response, or its stream of events where the call asks for that."""
    said_again = body if len(wire.body) <= _SAID_AGAIN_BYTES_MAX else {}
    if body.get("stream") is True:
        return streamed(_numbered(_events(said_again, answer)))
    return whole(_ended(said_again, answer))


# ---------------------------------------------------------------- the response


def _begun(body: _Object, answer: NeutralAnswer) -> _Object:
    tools: list[JsonValue] = [
        {"strict": None, "parameters": None, **object_of(tool)} for tool in list_of(body.get("tools"))
    ]
    echoed: _Object = {name: usual if body.get(name) is None else body[name] for name, usual in _ECHOED.items()}
    return {
        **echoed,
        "id": f"resp_{answer.id}",
        "object": "response",
        "created_at": answer.at_s,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": answer.model,
        "output": [],
        "store": False,  # nobody can ask for it by its id
        "usage": None,
        "text": _text_format(object_of(body.get("text"))),
        "tools": tools,
    }


def _text_format(text: _Object) -> JsonValue:
    return {"format": {"type": "text"}, **{name: value for name, value in text.items() if value is not None}}


def _ended(body: _Object, answer: NeutralAnswer) -> _Object:
    stopped_by = _stopped_by(answer)
    ends: _Object = {
        "status": "completed" if stopped_by is None else "incomplete",
        "incomplete_details": None if stopped_by is None else {"reason": stopped_by},
        "output": list[JsonValue](_output(answer)),
        "usage": _usage(answer.usage),
    }
    return _begun(body, answer) | ends


def _stopped_by(answer: NeutralAnswer) -> str | None:
    """A refusal in words is a whole answer; without any, a filter took it."""
    if answer.ending == "length":
        return "max_output_tokens"
    return "content_filter" if answer.ending == "refused" and not answer.text else None


def _output(answer: NeutralAnswer) -> list[_Object]:
    has_text = answer.text or (answer.ending == "stop" and not answer.tool_calls)
    message = [_message(answer, "completed" if _stopped_by(answer) is None else "incomplete", [_part(answer)])]
    calls = [_call(answer, number, call, "completed") for number, call in enumerate(calls_of(answer))]
    return [*(message if has_text else []), *calls]


def _message(answer: NeutralAnswer, status: str, parts: list[JsonValue]) -> _Object:
    return {"type": "message", "id": f"msg_{answer.id}", "role": "assistant", "status": status, "content": parts}


def _part(answer: NeutralAnswer) -> JsonValue:
    if answer.ending == "refused":
        return {"type": "refusal", "refusal": answer.text}
    return {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}


def _call(answer: NeutralAnswer, number: int, call: ToolCall, status: str) -> _Object:
    return {
        "type": "function_call",
        "id": f"fc_{answer.id}-{number}",
        "call_id": call.id,
        "name": call.name,
        "arguments": written_arguments(call),
        "status": status,
    }


def _usage(usage: TokenUsage | None) -> JsonValue:
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


# ---------------------------------------------------------------- its events


def _numbered(events: Iterator[_Object]) -> Iterator[str]:
    for number, data in enumerate(events):
        yield event({**data, "sequence_number": number}, str(data["type"]))


def _events(body: _Object, answer: NeutralAnswer) -> Iterator[_Object]:
    begun, ended = _begun(body, answer), _ended(body, answer)
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(_output(answer)):
        is_call = item["type"] == "function_call"
        empty: _Object = {"arguments": ""} if is_call else {"content": []}
        yield {
            "type": "response.output_item.added",
            "output_index": index,
            "item": item | empty | {"status": "in_progress"},
        }
        place: _Object = {"item_id": item["id"], "output_index": index}
        yield from _call_events(item, place) if is_call else _text_events(answer, place)
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": f"response.{ended['status']}", "response": ended}


def _call_events(item: _Object, place: _Object) -> Iterator[_Object]:
    kind = "response.function_call_arguments"
    if item["arguments"]:
        yield {"type": f"{kind}.delta", **place, "delta": item["arguments"]}
    yield {"type": f"{kind}.done", **place, "name": item["name"], "arguments": item["arguments"]}


def _text_events(answer: NeutralAnswer, place: _Object) -> Iterator[_Object]:
    part = object_of(_part(answer))
    kind, name = ("refusal", "refusal") if part["type"] == "refusal" else ("output_text", "text")
    place = {**place, "content_index": 0}
    beside: _Object = {"logprobs": []} if name == "text" else {}
    yield {"type": "response.content_part.added", **place, "part": part | {name: ""}}
    if answer.text:
        yield {"type": f"response.{kind}.delta", **place, "delta": answer.text, **beside}
    yield {"type": f"response.{kind}.done", **place, name: answer.text, **beside}
    yield {"type": "response.content_part.done", **place, "part": part}
