"""Ids of tool calls, as a provider takes them: unique in the conversation, in its form, each result at its call.

A conversation may come from another provider, or from one that gives no ids, or the same ones in every turn.
"""

import re
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from math import inf

from paymaster.messages import ChatMessage

MADE_ID_BYTES = 9
"""Of an id that is sent in place of another one; Mistral takes no other length."""


def with_ids(
    conversation: Sequence[ChatMessage],
    form: re.Pattern[str],
    made: Callable[[int], str] = "call{:05}".format,
) -> list[ChatMessage]:
    """The conversation with other ids where those that it has are none that the provider takes, or not unique.

    The results after a turn are in the order of its calls: of several calls with one id, the first result belongs to
    the first one. A result that belongs to no call comes after them. What comes later changes no id before it: thoughts
    may be bound to what was sent before them. `form`: of an id that the provider takes. `made`:
    an id for a number, in that form.
    """
    used = set[str]()
    fresh = (each for each in map(made, count(1)) if each not in used)
    found: list[ChatMessage] = []
    waiting: dict[str, deque[tuple[int, str]]] = {}
    """By the ids of the last turn's calls, those without a result: their numbers in the turn, and the ids sent."""
    results: list[tuple[float, ChatMessage]] = []
    for message in conversation:
        if message.role == "tool":
            results.append(_result(message, waiting))
            continue
        found += _in_order(results)
        results = []
        if message.tool_calls:
            ids: list[str] = []
            for call in message.tool_calls:
                ids.append(call.id if form.fullmatch(call.id) and call.id not in used else next(fresh))
                used.add(ids[-1])
            waiting = defaultdict(deque)
            for number, (call, sent) in enumerate(zip(message.tool_calls, ids, strict=True)):
                waiting[call.id].append((number, sent))
            calls = tuple(
                call.model_copy(update={"id": sent}) for call, sent in zip(message.tool_calls, ids, strict=True)
            )
            found.append(message.model_copy(update={"tool_calls": calls}))
        else:
            found.append(message)
    return [*found, *_in_order(results)]


def _result(message: ChatMessage, waiting: Mapping[str, deque[tuple[int, str]]]) -> tuple[float, ChatMessage]:
    """The result with the id that its call is sent with, and that call's number in its turn."""
    calls = waiting.get(message.tool_call_id or "")
    if not calls:
        return inf, message
    number, sent = calls.popleft()
    return number, message.model_copy(update={"tool_call_id": sent})


def _in_order(results: Sequence[tuple[float, ChatMessage]]) -> list[ChatMessage]:
    return [message for _, message in sorted(results, key=lambda each: each[0])]
