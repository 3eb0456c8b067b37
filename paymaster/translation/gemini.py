"""The dialect `gemini` in neutral words: what a body of generateContent asks for."""

from collections.abc import Mapping

from pydantic import JsonValue

from paymaster.messages import ChatMessage, ReasoningEffort, Tool
from paymaster.messages.wire import Wire
from paymaster.translation.gemini_answer import answered
from paymaster.translation.gemini_contents import conversation, system
from paymaster.translation.google_schema import json_schema
from paymaster.translation.neutral import NeutralFields, Translation, Untranslatable, only
from paymaster.translation.reading import (
    a_number,
    a_text,
    a_tool,
    a_whole,
    an_effort,
    an_object,
    chosen,
    object_or_none,
    only_usual,
    texts,
    with_different_names,
)
from paymaster.wire.gemini import asked_for
from paymaster.wire.google_json import item_objects, items_of, named

_KNOWN = frozenset(
    {
        "contents",
        "systemInstruction",
        "generationConfig",
        "tools",
        "toolConfig",
        "labels",  # of the bill
    }
)
_CONFIG = frozenset(
    {
        "temperature",
        "topP",
        "maxOutputTokens",
        "stopSequences",
        "seed",
        "responseMimeType",
        "responseSchema",
        "responseJsonSchema",
        "thinkingConfig",
        "responseModalities",
    }
)
_USUAL_TIERS = ("standard", "unspecified", "service_tier_standard", "service_tier_unspecified", "")
_MODES = {
    "AUTO": "auto",
    "VALIDATED": "auto",  # the caller checks the arguments in any case
    "ANY": "required",
    "NONE": "none",
}
_UNSPECIFIED = ("MODE_UNSPECIFIED", "THINKING_LEVEL_UNSPECIFIED")


def asked(wire: Wire, body: dict[str, JsonValue]) -> NeutralFields:
    """Raises Untranslatable, and BadBody for what is none of this dialect."""
    path = asked_for(wire.path)
    if path.embeds:
        raise Untranslatable(path.method)
    data = named(body)
    only(data, _KNOWN | {"serviceTier"})
    if str(data.get("serviceTier") or "").lower() not in _USUAL_TIERS:
        raise Untranslatable("serviceTier")
    config = named(an_object(data.get("generationConfig"), "generationConfig"))
    _check_config(config)
    tools = with_different_names(map(_tool, map(named, _declarations(data))), "tools.functionDeclarations.name")
    return NeutralFields(
        messages=_messages(data),
        json_schema=_schema(config),
        temperature=a_number(config.get("temperature"), "generationConfig.temperature"),
        stop=texts(config.get("stopSequences"), "generationConfig.stopSequences"),
        seed=a_whole(config.get("seed"), "generationConfig.seed", least=-(2**31)),
        top_p=a_number(config.get("topP"), "generationConfig.topP"),
        max_output_tokens=a_whole(config.get("maxOutputTokens"), "generationConfig.maxOutputTokens"),
        reasoning_effort=_effort(config.get("thinkingConfig")),
        tools=tools,
        tool_choice=_choice(data.get("toolConfig"), tools),
    )


def _messages(data: Mapping[str, JsonValue]) -> tuple[ChatMessage, ...]:
    before = object_or_none(data.get("systemInstruction"), "systemInstruction")
    return (*(() if before is None else system(before)), *conversation(item_objects(data, "contents")))


def _check_config(config: dict[str, JsonValue]) -> None:
    """Raises Untranslatable for what the neutral request has no word for."""
    only(config, _CONFIG | {"candidateCount"}, "generationConfig.")
    only_usual(config, {"candidateCount": (1,)}, "generationConfig.")
    if any(str(each).upper() != "TEXT" for each in items_of(config.get("responseModalities"))):
        raise Untranslatable("generationConfig.responseModalities")


def _schema(config: Mapping[str, JsonValue]) -> dict[str, JsonValue] | None:
    key = "generationConfig."
    in_openapi, in_json = config.get("responseSchema"), config.get("responseJsonSchema")
    mime_type = config.get("responseMimeType") or "text/plain"
    given = [name for name in ("responseSchema", "responseJsonSchema") if config.get(name) is not None]
    if mime_type == "text/plain" and not given:
        return None
    if mime_type != "application/json" or not given:
        raise Untranslatable(f"{key}responseMimeType")
    if len(given) > 1:
        raise Untranslatable(f"{key}responseSchema")
    if in_json is not None:
        return an_object(in_json, f"{key}responseJsonSchema")
    return json_schema(in_openapi, f"{key}responseSchema")


def _effort(given: JsonValue) -> ReasoningEffort | None:
    key = "generationConfig.thinkingConfig"
    config = named(an_object(given, key))
    only(config, ("thinkingLevel", "thinkingBudget", "includeThoughts"), f"{key}.")
    only_usual(config, {"includeThoughts": (False,), "thinkingBudget": (0, -1)}, f"{key}.")  # -1: as the model likes
    level = a_text(config.get("thinkingLevel") or _UNSPECIFIED[1], f"{key}.thinkingLevel")
    effort = None if level.upper() in _UNSPECIFIED else an_effort(level.lower(), f"{key}.thinkingLevel")
    if config.get("thinkingBudget") == 0 and effort is not None:
        raise Untranslatable(f"{key}.thinkingBudget")
    return "none" if config.get("thinkingBudget") == 0 else effort


def _declarations(data: Mapping[str, JsonValue]) -> list[dict[str, JsonValue]]:
    """The functions of all tools, the only kind of tool that the caller runs."""
    found: list[dict[str, JsonValue]] = []
    for tool in map(named, item_objects(data, "tools")):
        only(tool, ("functionDeclarations",), "tools.")
        found += item_objects(tool, "functionDeclarations")
    return found


def _tool(function: dict[str, JsonValue]) -> Tool:
    key = "tools.functionDeclarations."
    only(function, ("name", "description", "parameters", "parametersJsonSchema"), key)
    in_json = object_or_none(function.get("parametersJsonSchema"), f"{key}parametersJsonSchema")
    if function.get("parameters") is not None:
        if in_json is not None:
            raise Untranslatable(f"{key}parameters")
        in_json = json_schema(function["parameters"], f"{key}parameters")
    return a_tool(function.get("name"), function.get("description"), in_json, key)


def _choice(given: JsonValue, tools: tuple[Tool, ...]) -> str | None:
    config = named(an_object(given, "toolConfig"))
    only(config, ("functionCallingConfig",), "toolConfig.")
    key = "toolConfig.functionCallingConfig"
    calling = named(an_object(config.get("functionCallingConfig"), key))
    only(calling, ("mode", "allowedFunctionNames"), f"{key}.")
    mode = a_text(calling.get("mode") or _UNSPECIFIED[0], f"{key}.mode").upper()
    allowed = texts(calling.get("allowedFunctionNames"), f"{key}.allowedFunctionNames")
    if mode == "ANY" and len(allowed) == 1:
        return chosen(None, allowed[0], tools, f"{key}.allowedFunctionNames")
    if allowed and set(allowed) != {tool.name for tool in tools}:
        raise Untranslatable(f"{key}.allowedFunctionNames")
    if mode in _UNSPECIFIED:
        return None
    if mode not in _MODES:
        raise Untranslatable(f"{key}.mode")
    return chosen(_MODES[mode], None, tools, f"{key}.mode")


TRANSLATION = Translation(asked=asked, answered=answered)
