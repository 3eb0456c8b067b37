"""The dialect `openai`: bodies of chat completions, as OpenAI's SDK and those of compatible servers write them."""

import json
from collections.abc import Callable, Iterator, Mapping

from pydantic import JsonValue

from paymaster.values.json_reading import list_of, object_of, read_json, text_of
from paymaster.wire.caching import kept_for
from paymaster.wire.event_pieces import event_pieces
from paymaster.wire.grammar import Grammar, deployment_path, of_body_or_path, passed_on
from paymaster.wire.measured import (
    Measured,
    body_object,
    kind_of,
    model_of,
    number_of,
    objects_of,
    once,
    seen_bytes,
    unknown,
)
from paymaster.wire.members import members, value_text, with_name, with_values
from paymaster.wire.thinking import below_cap

_FREE = frozenset(
    {
        "model",
        "messages",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "random_seed",
        "stop",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "user",
        "safety_identifier",
        "safe_prompt",
        "metadata",
        "store",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "functions",
        "function_call",
        "response_format",
        "reasoning",
        "reasoning_effort",
        "reasoning_format",
        "include_reasoning",
        "thinking",
        "chat_template_kwargs",
        "verbosity",
        "usage",
        "transforms",
        "clear_thinking",
        "n",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "max_tokens",
        "max_completion_tokens",
    }
)
"""Keys that cannot change what an answer may cost at most, beside those whose values decide it (`_needs`)."""
_FREE_IN_MESSAGES = frozenset(
    {
        "role",
        "content",
        "name",
        "tool_calls",
        "tool_call_id",
        "function_call",
        "refusal",
        "annotations",
        "reasoning",
        "reasoning_content",
        "reasoning_details",
        "prefix",
        "cache_control",
        "prompt_cache_breakpoint",
    }
)
"""Keys of a message that say nothing but what stands there."""
_CAPS = ("max_completion_tokens", "max_tokens")
_BUDGETS = (("thinking", "budget_tokens"), ("reasoning", "max_tokens"))
"""Of thinking, where servers take one: Anthropic's and OpenRouter's."""
_OUTPUTS_MAX = 128
_USUAL_TIERS = (None, "auto", "default", "on_demand")
"""At which the listed prices hold; the last is Groq's word."""
_TOOLS = frozenset({"function", "custom"})
"""Kinds of tools that the caller runs; all others the provider runs, for a fee and with input of its own."""
_TEXTS = frozenset({"text", "refusal", "thinking"})
_HEADERS = frozenset({"openai-beta", "http-referer", "x-title"})
"""Of the caller, that are passed on. A key never is."""
_BYTES = {"image_url": "url", "file": "file_data"}
"""By kind of part, its field that holds what is no text."""


def measured(body: bytes, path: str | None = None) -> Measured:
    """Raises BadBody."""
    data = body_object(body)
    caps = [number_of(data, name) for name in _CAPS]
    parts = [part for message in objects_of(data, "messages") for part in _parts(message)]
    return Measured(
        model=model_of(data, path),
        input_bytes=seen_bytes(seen(data)),
        max_output_tokens=min((cap for cap in caps if cap is not None), default=None),
        outputs=number_of(data, "n", most=_OUTPUTS_MAX) or 1,
        images=sum(part.get("type") == "image_url" for part in parts),
        documents=sum(_has_bytes(part) for part in parts),
        streams=data.get("stream") is True,
        needs=once(_needs(data, parts)),
        chooses=once(_chooses(data, parts)),
    )


def sent(body: bytes, *, model: str, cap: int, cap_name: str) -> bytes:
    """The body with its model, and with no more than `cap` tokens for each output; every other byte as it was.

    `cap_name`: the name of the cap at this provider. Raises BadBody.
    """
    data, text = body_object(body), body.decode()
    named = [name for name in _CAPS if name in data]
    if named and cap_name not in named:
        text = with_name(text, named[0], cap_name)
        data[cap_name] = data.pop(named[0])
    values = {"model": json.dumps(model)}
    for name in [name for name in _CAPS if name in data] or [cap_name]:
        asked = number_of(data, name)
        if asked is None or asked > cap:
            values[name] = str(cap)
            for holder, budget in _BUDGETS:
                values |= below_cap(text, data, holder, budget, cap)
    if data.get("stream") is True and not _wants_usage(data):
        given = value_text(text, members(text)["stream_options"]) if data.get("stream_options") else "{}"
        values["stream_options"] = with_values(given, {"include_usage": "true"})
    return with_values(text, values).encode()


def sent_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of the caller that a provider gets."""
    return passed_on(headers, _HEADERS)


def given_back(asked: bytes) -> Callable[[bytes], bytes]:
    """The events of a stream as the caller asked for them: without the one that only says what is billed, where `sent`
    asked for it."""
    return bytes if _wants_usage(body_object(asked)) else _without_usage


def says_something(event: Mapping[str, JsonValue]) -> bool:
    """Not the chunks before the first token: one that names the role, and Azure's about the prompt."""
    return any(
        choice.get("finish_reason") is not None
        or any(name != "role" and bool(said) for name, said in object_of(choice.get("delta")).items())
        for choice in map(object_of, list_of(event.get("choices")))
    )


def _wants_usage(data: Mapping[str, JsonValue]) -> bool:
    return object_of(data.get("stream_options")).get("include_usage") is True


def _without_usage(stream: bytes) -> bytes:
    return b"".join(event for event in event_pieces(stream) if not _is_usage_chunk(event.decode("latin-1")))


def _is_usage_chunk(event: str) -> bool:
    if '"usage"' not in event or not event.startswith("data:"):
        return False
    try:
        data = object_of(read_json(event.removeprefix("data:")))
    except ValueError:
        return False
    return data.get("choices") == [] and isinstance(data.get("usage"), dict)


def _parts(message: dict[str, JsonValue]) -> list[dict[str, JsonValue]]:
    content = message.get("content")
    listed = [content] if isinstance(content, dict) else list_of(content)
    return [object_of(part) for part in listed]


def _needs(data: dict[str, JsonValue], parts: list[dict[str, JsonValue]]) -> Iterator[str]:
    for name in unknown(data, _FREE | {"service_tier"}):
        if name != "modalities" or data[name] != ["text"]:
            yield name
    for tool in objects_of(data, "tools"):
        kind = "function" if "type" not in tool and "function" in tool else kind_of(tool)  # as Mistral's SDK writes it
        if kind not in _TOOLS:
            yield f"tools.{kind}"
    for message in objects_of(data, "messages"):
        yield from unknown(message, _FREE_IN_MESSAGES, "messages.")
    for part in parts:
        kind = kind_of(part)
        if kind not in _TEXTS and kind != "image_url" and not (kind == "file" and _has_bytes(part)):
            yield f"messages.{kind}"


def _has_bytes(part: dict[str, JsonValue]) -> bool:
    """Whether it is a file that stands there; what is behind an id nobody knows."""
    file = object_of(part.get("file"))
    return file.get("file_data") is not None and file.get("file_id") is None


def _chooses(data: dict[str, JsonValue], parts: list[dict[str, JsonValue]]) -> Iterator[str]:
    if data.get("service_tier") not in _USUAL_TIERS:
        yield f"service_tier={data['service_tier']}"
    messages, tools = objects_of(data, "messages"), objects_of(data, "tools")
    functions = [object_of(tool.get("function")) for tool in tools]  # some gateways take a mark there
    yield from kept_for((data, *messages, *parts, *tools, *functions))


def seen(data: dict[str, JsonValue]) -> JsonValue:
    """What of a body a tokenizer may make tokens of: all but images and documents. Raises BadBody."""
    messages: list[JsonValue] = [_reduced(message) for message in objects_of(data, "messages")]
    return {**data, "messages": messages}


def _reduced(message: dict[str, JsonValue]) -> JsonValue:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    parts: list[JsonValue] = [_without_bytes(part) if isinstance(part, dict) else part for part in content]
    return {**message, "content": parts}


def _without_bytes(part: dict[str, JsonValue]) -> dict[str, JsonValue]:
    kind = text_of(part.get("type")) or ""
    if kind not in _BYTES:
        return part
    reduced: dict[str, JsonValue] = {
        name: each for name, each in object_of(part.get(kind)).items() if name != _BYTES[kind]
    }
    return {**part, kind: reduced}


GRAMMAR = Grammar(
    measured=of_body_or_path(measured),
    path_ends=("/chat/completions",),
    wire_path=deployment_path,
    given_back=given_back,
    says_something=says_something,
    sent_headers=sent_headers,
)
