"""Names of tools in the form that every provider takes: others, such as `mcp.files/read`, are sent as one that no other
tool has, and are told apart again when the answer comes."""

import re
from collections import defaultdict
from collections.abc import Mapping
from itertools import count

from paymaster.messages import LLMRequest, ToolCall

LENGTH_MAX = 64
_SENT = re.compile("[a-zA-Z_][a-zA-Z0-9_-]{0,63}")
"""Gemini wants a letter or an underscore first."""
_OTHER = re.compile("[^a-zA-Z0-9_-]")


def sent_names(request: LLMRequest) -> dict[str, str]:
    """By the name of each tool that the request names, the one that is sent."""
    names = dict.fromkeys(tool.name for tool in request.tools)
    names |= dict.fromkeys(call.name for message in request.messages for call in message.tool_calls)
    sent = {name: name for name in names if _SENT.fullmatch(name)}
    taken, numbers = set(sent), defaultdict[str, "count[int]"](lambda: count(2))
    for name in names:
        if name not in sent:
            plain = _OTHER.sub("_", name) or "_"
            plain = (plain if _SENT.match(plain) else f"_{plain}")[:LENGTH_MAX]
            # Numbered on from the last one: many names may become the same.
            numbered = (f"{plain[: LENGTH_MAX - 6]}_{number}" for number in numbers[plain[: LENGTH_MAX - 6]])
            sent[name] = plain if plain not in taken else next(each for each in numbered if each not in taken)
            taken.add(sent[name])
    return sent


def with_sent_names(request: LLMRequest) -> LLMRequest:
    """The request as it is sent."""
    sent = sent_names(request)
    if all(name == given for given, name in sent.items()):
        return request
    tools = tuple(tool.model_copy(update={"name": sent[tool.name]}) for tool in request.tools)
    messages = tuple(
        message.model_copy(update={"tool_calls": _renamed(message.tool_calls, sent)}) for message in request.messages
    )
    choice = None if request.tool_choice is None else sent.get(request.tool_choice, request.tool_choice)
    return request.model_copy(update={"tools": tools, "messages": messages, "tool_choice": choice})


def with_given_names(calls: tuple[ToolCall, ...], request: LLMRequest) -> tuple[ToolCall, ...]:
    """The calls of the request's answer, by the names that it has for them."""
    return _renamed(calls, {name: given for given, name in sent_names(request).items()}) if calls else calls


def _renamed(calls: tuple[ToolCall, ...], names: Mapping[str, str]) -> tuple[ToolCall, ...]:
    return tuple(call.model_copy(update={"name": names.get(call.name, call.name)}) for call in calls)
