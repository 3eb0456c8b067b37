"""The dialect `gemini`: bodies of generateContent, streamGenerateContent, embedContent and batchEmbedContents."""

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote

from pydantic import JsonValue

from paymaster.messages.wire import Wire
from paymaster.values.json_reading import object_of, text_of
from paymaster.wire.google_json import camel, item_objects, items_of, named, parts_of
from paymaster.wire.grammar import Grammar, passed_on
from paymaster.wire.measured import BadBody, Measured, body_object, number_of, once, seen_bytes, unknown, without
from paymaster.wire.members import members, value_text, with_each_item, with_values

_EMBEDS = ("embedContent", "batchEmbedContents")
_METHODS = ("generateContent", "streamGenerateContent", *_EMBEDS)
_FREE = frozenset(
    {"contents", "systemInstruction", "generationConfig", "safetySettings", "tools", "toolConfig", "labels", "store"}
)
"""Keys that cannot change what an answer may cost at most, beside those whose members decide it (`_needs`)."""
_FREE_IN_CONFIG = frozenset(
    {
        "temperature",
        "topP",
        "topK",
        "candidateCount",
        "maxOutputTokens",
        "stopSequences",
        "responseMimeType",
        "responseSchema",
        "responseJsonSchema",
        "_responseJsonSchema",
        "seed",
        "presencePenalty",
        "frequencyPenalty",
        "responseLogprobs",
        "logprobs",
        "thinkingConfig",
        "mediaResolution",
        "audioTimestamp",
        "enableEnhancedCivicAnswers",
    }
)
_FREE_TO_EMBED = frozenset(
    {"model", "content", "taskType", "title", "outputDimensionality", "requests", "autoTruncate", "embedContentConfig"}
)
_FREE_IN_PARTS = frozenset(
    {
        "text",
        "thought",
        "thoughtSignature",
        "functionCall",
        "functionResponse",
        "executableCode",
        "codeExecutionResult",
        "toolCall",
        "toolResponse",
        "inlineData",
        "fileData",
        "mediaResolution",
        "partMetadata",
    }
)
_BYTES = ("inlineData", "fileData")
_TOOLS = ("functionDeclarations",)
"""What the caller runs; all others the provider runs, for a fee and with input of its own."""
_FREE_IN_TOOL_CONFIG = ("functionCallingConfig", "retrievalConfig", "includeServerSideToolInvocations")
_DOCUMENTS = ("application/pdf", "text/")
_TEXT = ("TEXT", "text", "Text")
_USUAL_TIERS = ("standard", "unspecified")
_OUTPUTS_MAX = 128
UNSIGNED = "skip_thought_signature_validator"
"""What Google documents in place of the signature of a call that another model made: without one it is refused."""
_HEADERS = frozenset({"x-goog-api-client"})
"""Of the caller, that are passed on. A key never is."""


class Asked(NamedTuple):
    """What a Wire's path names."""

    model: str
    method: str
    sse: bool
    """Whether a stream comes as server-sent events, and not as one JSON array."""

    @property
    def embeds(self) -> bool:
        return self.method in _EMBEDS

    @property
    def streams(self) -> bool:
        return self.method == "streamGenerateContent"


def asked_for(path: str | None) -> Asked:
    """Raises BadBody."""
    url_path, _, query = (path or "").partition("?")
    before, _, method = url_path.rpartition(":")
    model = unquote(before.removeprefix("models/"))
    if method not in _METHODS or not model or model == before:
        raise BadBody(f"the path {path!r} is none of this dialect; one is models/NAME:generateContent")
    return Asked(model, method, ("alt", "sse") in parse_qsl(query))


def model_named(wire: Wire) -> str:
    """Raises BadBody."""
    return asked_for(wire.path).model


def wire_path(url_path: str, query: str) -> str:
    """The part of a URL that a Wire needs; the query without a key, which some callers write there."""
    sse = "?alt=sse" if ("alt", "sse") in parse_qsl(query) else ""
    return f"models/{url_path.partition('/models/')[2]}{sse}"


def measured(wire: Wire) -> Measured:
    """Raises BadBody."""
    asked = asked_for(wire.path)
    data = named(body_object(wire.body))
    contents, seen = _contents(data, asked)
    config = named(object_of(data.get("generationConfig")))
    parts = [each for content in contents for part in parts_of(content) for each in (part, *_held(part))]
    kinds = [_media_kind(part) for part in parts]
    tier = _tier(data.get("serviceTier"))
    return Measured(
        model=asked.model,
        input_bytes=seen_bytes(seen),
        max_output_tokens=number_of(config, "maxOutputTokens"),
        outputs=0 if asked.embeds else number_of(config, "candidateCount", most=_OUTPUTS_MAX) or 1,
        images=kinds.count("image"),
        documents=kinds.count("document"),
        streams=asked.streams,
        needs=once([*(_embed_needs(data) if asked.embeds else _needs(data, config)), *_part_needs(parts)]),
        chooses=once(() if tier in _USUAL_TIERS else (f"service_tier={tier}",)),
    )


def sent(wire: Wire, *, model: str, cap: int) -> tuple[str, bytes]:
    """The path with its model, and the body with no more than `cap` tokens for each output; every other byte as it was.

    Raises BadBody.
    """
    asked, data, text = asked_for(wire.path), body_object(wire.body), wire.body.decode()
    path = f"/models/{quote(model, safe='')}:{asked.method}" + ("?alt=sse" if asked.sse else "")
    name = json.dumps(f"models/{model}")
    names = {camel(each): each for each in members(text)}
    if asked.embeds:
        if "model" in names:
            text = with_values(text, {"model": name})
        if "requests" in names:
            requests = value_text(text, members(text)["requests"])
            all_named = with_each_item(requests, lambda each: with_values(each, {"model": name}))
            text = with_values(text, {"requests": all_named})
        return path, text.encode()
    of_config = names.get("generationConfig", "generationConfig")
    given = object_of(data.get(of_config))
    limit = number_of(named(given), "maxOutputTokens")
    if limit is None or limit > cap:
        of_limit = next((each for each in given if camel(each) == "maxOutputTokens"), "maxOutputTokens")
        config = value_text(text, members(text)[of_config]) if given else "{}"
        text = with_values(text, {of_config: with_values(config, {of_limit: str(cap)})})
    return path, text.encode()


def sent_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of the caller that a provider gets."""
    return passed_on(headers, _HEADERS)


def _tier(given: JsonValue) -> str:
    """In lower case. Google takes the number of a tier too, which nobody has a price for."""
    if given is None or given == "":
        return "standard"
    return str(given).lower().removeprefix("service_tier_")


def _contents(data: dict[str, JsonValue], asked: Asked) -> tuple[list[dict[str, JsonValue]], JsonValue]:
    """All contents, and what a tokenizer sees of the body."""
    found: list[dict[str, JsonValue]] = []

    def reduced(content: JsonValue) -> JsonValue:
        if isinstance(content, list):
            return [reduced(each) for each in content]
        if not isinstance(content, dict):
            return content
        found.append(content)
        return {**content, "parts": [_without_bytes(part) for part in parts_of(content)]}

    seen = dict(data)
    for name in ("contents", "systemInstruction", "content"):
        if name in seen:
            seen[name] = reduced(seen[name])
    if asked.embeds and seen.get("requests") is not None:
        requests = [named(object_of(each)) for each in _requests(data)]
        seen["requests"] = [{**each, "content": reduced(each.get("content"))} for each in requests]
    return found, seen


def _requests(data: dict[str, JsonValue]) -> list[JsonValue]:
    """Raises BadBody."""
    requests = data.get("requests") or []
    if not isinstance(requests, list) or not all(isinstance(each, dict) for each in requests):
        raise BadBody("requests is no list of objects")
    return requests


def _held(part: dict[str, JsonValue]) -> list[dict[str, JsonValue]]:
    """The parts that the result of a function has beside its data."""
    return parts_of(object_of(part.get("functionResponse")))


def _without_bytes(part: dict[str, JsonValue]) -> JsonValue:
    data, held = object_of(part.get("inlineData")), _held(part)
    if held:
        result: JsonValue = {**object_of(part["functionResponse"]), "parts": [_without_bytes(each) for each in held]}
        return {**part, "functionResponse": result}
    return {**part, "inlineData": without(data, "data")} if data else part


def _media_kind(part: dict[str, JsonValue]) -> str | None:
    """`image`, `document`, or the type of what is neither; None for a part without media."""
    name = next((name for name in _BYTES if part.get(name)), None)
    if name is None:
        return None
    mime = text_of(named(object_of(part[name])).get("mimeType")) or "untyped"
    if mime.startswith("image/"):
        return "image"
    return "document" if mime.startswith(_DOCUMENTS) else mime.partition("/")[0]


def _part_needs(parts: list[dict[str, JsonValue]]) -> Iterator[str]:
    for part in parts:
        yield from unknown(part, _FREE_IN_PARTS, "contents.")
        kind = _media_kind(part)
        if kind not in (None, "image", "document"):
            yield f"contents.{kind}"


def _needs(data: dict[str, JsonValue], config: dict[str, JsonValue]) -> Iterator[str]:
    yield from unknown(data, _FREE | {"serviceTier"})
    for name in unknown(config, _FREE_IN_CONFIG):
        if name == "responseFormat":
            for form in item_objects(config, name):
                yield from unknown(named(form), ("text",), "generationConfig.responseFormat.")
        elif name != "responseModalities" or any(each not in _TEXT for each in items_of(config[name])):
            yield f"generationConfig.{name}"
    for tool in item_objects(data, "tools"):
        for name, value in named(tool).items():
            if name not in _TOOLS and value is not None:
                yield f"tools.{name}"
    yield from unknown(named(object_of(data.get("toolConfig"))), _FREE_IN_TOOL_CONFIG, "toolConfig.")


def _embed_needs(data: dict[str, JsonValue]) -> Iterator[str]:
    yield from unknown(data, _FREE_TO_EMBED)
    for request in map(object_of, _requests(data)):
        yield from unknown(named(request), _FREE_TO_EMBED - {"requests"}, "requests.")


GRAMMAR = Grammar(
    measured=measured,
    path_ends=tuple(f":{method}" for method in _METHODS),
    wire_path=wire_path,
    sent_headers=sent_headers,
    model_named=model_named,
)
