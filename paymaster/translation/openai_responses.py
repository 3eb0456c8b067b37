"""The dialect `openai-responses`: calls of the Responses API in neutral words, and an answer as a response."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from pydantic import JsonValue

from paymaster.messages import ChatMessage, Document, Tool, ToolCall
from paymaster.messages.wire import Wire
from paymaster.translation.neutral import NeutralFields, Translation, Untranslatable, only
from paymaster.translation.openai_parts import (
    MARKS,
    check_arguments,
    document_of,
    image_of,
    is_marked,
    marked_parts,
    parts_of,
    schema_of,
    text_of_part,
    tool_call_of,
    tool_choice_of,
    tool_of,
    without_usual,
)
from paymaster.translation.openai_responses_answers import answered
from paymaster.translation.reading import a_number, an_effort, an_object, object_or_none, with_different_names
from paymaster.translation.user_turns import UserTurns
from paymaster.values.json_reading import object_of
from paymaster.wire.measured import kind_of, number_of, objects_of, without

_ASKED = frozenset(
    {
        "input",
        "instructions",
        "max_output_tokens",
        "text",
        "temperature",
        "top_p",
        "reasoning",
        "tools",
        "tool_choice",
        "include",
    }
)
"""Keys that have a neutral word, or members that have one."""
_LET_GO = frozenset(
    {
        "model",
        "stream",
        "stream_options",
        "store",
        "user",
        "safety_identifier",
        "metadata",
        "client_metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
    }
)
"""Keys that cannot change what is answered."""
_USUAL: Mapping[str, tuple[JsonValue, ...]] = {
    "background": (False,),
    "parallel_tool_calls": (True,),
    "service_tier": ("auto", "default"),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}
"""By key, the values at which it changes nothing."""
_INCLUDED = "reasoning.encrypted_content"
"""Of what may be included: that of thoughts, which an answer need not have."""
_TEXTS = ("text", "input_text", "output_text")
_OF_ITEMS = frozenset({"type", "id", "status"}) | MARKS
"""Members of an item that say how it came about, and marks."""


# ---------------------------------------------------------------- what a call says


def _asked(wire: Wire, body: dict[str, JsonValue]) -> NeutralFields:
    only(without_usual(body, _USUAL), _ASKED | _LET_GO)
    _check_included(body.get("include"))
    text = without_usual(an_object(body.get("text"), "text"), {"verbosity": ("medium",)})
    only(text, {"format"}, "text.")
    reasoning = an_object(body.get("reasoning"), "reasoning")
    only(reasoning, {"effort"}, "reasoning.")  # a summary is asked of the answer, which has none in neutral words
    tools = with_different_names(map(_tool, objects_of(body, "tools")), "tools.name")
    choice = body.get("tool_choice")
    return {
        "messages": (*_instructions(body.get("instructions")), *_conversation(body)),
        "json_schema": _schema(object_or_none(text.get("format"), "text.format")),
        "temperature": a_number(body.get("temperature"), "temperature"),
        "top_p": a_number(body.get("top_p"), "top_p"),
        "max_output_tokens": number_of(body, "max_output_tokens"),
        "reasoning_effort": an_effort(reasoning.get("effort"), "reasoning.effort"),
        "tools": tools,
        "tool_choice": tool_choice_of(choice, object_of(choice).get("name"), tools),
    }


def _check_included(include: JsonValue) -> None:
    for included in include if isinstance(include, list) else [] if include is None else [include]:
        if included != _INCLUDED:
            raise Untranslatable(f"include.{included}" if isinstance(included, str) else "include")


def _schema(asked: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
    return None if asked is None else schema_of(kind_of(asked), asked, "text.format")


def _tool(tool: dict[str, JsonValue]) -> Tool:
    if tool.get("type") != "function":
        raise Untranslatable(f"tools.{kind_of(tool)}")
    return tool_of(without_usual(without(tool, "type"), {"async": (False,), "defer_loading": (False,)}))


def _instructions(instructions: JsonValue) -> Iterator[ChatMessage]:
    if isinstance(instructions, str):
        yield ChatMessage(role="system", content=instructions)
    elif instructions is not None:
        raise Untranslatable("instructions")


# ---------------------------------------------------------------- its conversation


class _Said(NamedTuple):
    """What an item of an assistant's turn is: a text or a call."""

    text: str = ""
    call: ToolCall | None = None
    cache: bool = False


class _Turn:
    """An assistant's message in the making.

    Calls of one turn are in one message, since the results of all of them come after it; a text after a call is too.
    Its texts are then one, as `output_text` of the SDKs has them.
    """

    def __init__(self) -> None:
        self._said: list[_Said] = []
        self._has_calls = False

    def takes(self, said: _Said) -> bool:
        """Whether it belongs to this turn."""
        return not self._said or said.call is not None or self._has_calls

    def add(self, said: _Said) -> None:
        self._said.append(said)
        self._has_calls = self._has_calls or said.call is not None

    def end(self) -> Iterator[ChatMessage]:
        """Its message, if anything was said; what comes then is another turn."""
        if self._said:
            yield ChatMessage(
                role="assistant",
                content="".join(said.text for said in self._said),
                tool_calls=tuple(said.call for said in self._said if said.call is not None),
                cache=any(said.cache for said in self._said),
            )
        self._said, self._has_calls = [], False


def _conversation(body: dict[str, JsonValue]) -> list[ChatMessage]:
    if isinstance(body.get("input"), str):
        return [ChatMessage(role="user", content=str(body["input"]))]
    items = objects_of(body, "input")
    check_arguments(item.get("arguments") for item in items)
    found: list[ChatMessage] = []
    turn = _Turn()
    for item in items:
        if _kind(item) == "reasoning":
            continue  # for the provider alone that wrote it, as the states of neutral messages are
        said = _said(item)
        if said is None or not turn.takes(said):
            found += turn.end()
        if said is None:
            found += _asked_by_others(item)
        else:
            turn.add(said)
    return [*found, *turn.end()]


def _said(item: dict[str, JsonValue]) -> _Said | None:
    """What an item of the assistant's is; None for anything else."""
    match _kind(item), item.get("role"):
        case ("message", "assistant"):
            return _text(item)
        case ("function_call", _):
            return _called(item)
        case _:
            return None


def _asked_by_others(item: dict[str, JsonValue]) -> Iterable[ChatMessage]:
    """What an item of anybody else is."""
    match _kind(item), item.get("role"):
        case ("message", "user"):
            return _user(item)
        case ("message", "system" | "developer"):
            return _told(item)
        case ("function_call_output", _):
            return (_result(item),)
        case ("message", role):
            raise Untranslatable(f"input.{role}" if isinstance(role, str) else "input.role")
        case (kind, _):
            raise Untranslatable(f"input.{kind}")


def _kind(item: dict[str, JsonValue]) -> str:
    """A message need not say that it is one."""
    return "message" if item.get("type") is None and "role" in item else kind_of(item)


def _told(item: dict[str, JsonValue]) -> Iterator[ChatMessage]:
    """A message for each text: joined they would be another one."""
    only(item, _OF_ITEMS | {"role", "content"}, "input.")
    for part, cache in marked_parts(item, "input"):
        yield ChatMessage(role="system", content=text_of_part(part, _TEXTS, "input"), cache=cache)


def _user(item: dict[str, JsonValue]) -> list[ChatMessage]:
    only(item, _OF_ITEMS | {"role", "content"}, "input.")
    turns = UserTurns()
    for part, cache in marked_parts(item, "input"):
        _add_part(turns, part, cache=cache)
    return turns.messages()


def _add_part(turns: UserTurns, part: dict[str, JsonValue], *, cache: bool) -> None:
    held = without_usual(part, {"detail": ("auto",)})
    match kind_of(part):
        case "input_image":
            only(held, {"type", "image_url"} | MARKS, "input.input_image.")
            turns.add_image(image_of(part.get("image_url"), "input.input_image"), cache=cache)
        case "input_file":
            only(held, {"type", "filename", "file_data", "file_url"} | MARKS, "input.input_file.")
            turns.add_document(_document(part), cache=cache)
        case _:
            turns.add_text(text_of_part(part, _TEXTS, "input"), cache=cache)


def _text(item: dict[str, JsonValue]) -> _Said:
    only(item, _OF_ITEMS | {"role", "content", "phase"}, "input.")  # a phase says no more than the item's place does
    parts = parts_of(item["content"], "input") if item.get("content") else []
    texts = [text_of_part(part, (*_TEXTS, "refusal"), "input") for part in parts]
    return _Said(text="".join(texts), cache=is_marked(item, *parts))


def _called(item: dict[str, JsonValue]) -> _Said:
    named = without_usual(item, {"async": (False,)})
    only(named, _OF_ITEMS | {"call_id", "name", "arguments"}, "input.function_call.")
    call = tool_call_of(item.get("call_id"), item.get("name"), item.get("arguments"), "input.function_call")
    return _Said(call=call, cache=is_marked(item))


def _result(item: dict[str, JsonValue]) -> ChatMessage:
    only(item, _OF_ITEMS | {"call_id", "output"}, "input.function_call_output.")
    call_id, parts = item.get("call_id"), parts_of(item.get("output"), "input.function_call_output")
    if not isinstance(call_id, str):
        raise Untranslatable("input.function_call_output.call_id")
    text = "".join(text_of_part(part, _TEXTS, "input.function_call_output") for part in parts)
    return ChatMessage(role="tool", content=text, tool_call_id=call_id, cache=is_marked(item, *parts))


def _document(part: dict[str, JsonValue]) -> Document:
    url, data = part.get("file_url"), part.get("file_data")
    if url is None:
        return document_of(data, part.get("filename"), "input.input_file")
    # Services ask what kind of file it is, which only its name tells.
    if data is not None or not isinstance(url, str) or not _is_pdf(url):
        raise Untranslatable("input.input_file.file_url")
    return Document(url=url)


def _is_pdf(url: str) -> bool:
    try:
        address = urlsplit(url)
    except ValueError:
        return False
    return address.scheme in ("https", "http") and address.path.lower().endswith(".pdf")


TRANSLATION = Translation(asked=_asked, answered=answered)
