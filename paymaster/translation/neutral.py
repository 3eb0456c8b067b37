"""What a translation is made of: the fields of a neutral request, and an answer that a dialect can be written from."""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Literal, NamedTuple, TypedDict

from pydantic import JsonValue

from paymaster.messages import ChatMessage, ReasoningEffort, Tool, ToolCall
from paymaster.messages.wire import Wire, WireAnswer
from paymaster.values.money import TokenUsage
from paymaster.wire.measured import unknown

_KEY_CHARACTERS_MAX = 200


class Untranslatable(Exception):
    """A wire call has something that the neutral request does not know."""

    def __init__(self, key: str) -> None:
        super().__init__(key[:_KEY_CHARACTERS_MAX])
        self.key = key[:_KEY_CHARACTERS_MAX]
        """Its name, as `logprobs` or `messages.input_audio`; a very long one is cut."""


class NeutralFields(TypedDict, total=False):
    """The fields of an LLMRequest that say what is asked, as they stand there."""

    messages: tuple[ChatMessage, ...]
    json_schema: dict[str, JsonValue] | None
    temperature: float | None
    stop: tuple[str, ...]
    seed: int | None
    top_p: float | None
    max_output_tokens: int | None
    reasoning_effort: ReasoningEffort | None
    tools: tuple[Tool, ...]
    tool_choice: str | None


Ending = Literal["stop", "length", "tools", "refused"]
"""Why an answer ends: it is whole, it reached the cap, tools are wanted, or the model or a filter refused."""


class NeutralAnswer(NamedTuple):
    """A service's answer, as far as every format can say it."""

    id: str
    """Its own, of letters, digits and hyphens: answers of two attempts never have the same."""
    at_s: int
    """When the attempt began, in seconds since 1970."""
    model: str
    """The model that answered."""
    text: str
    tool_calls: tuple[ToolCall, ...]
    ending: Ending
    usage: TokenUsage | None
    """None: the service did not say."""


def only(data: Mapping[str, JsonValue], known: Collection[str], prefix: str = "") -> None:
    """Raises Untranslatable for the first member that is not known, but for those that are null or an empty list."""
    for name in unknown(data, known, prefix):
        raise Untranslatable(name)


def in_ascii(data: Mapping[str, JsonValue]) -> bytes:
    """JSON of an answer. Escaped, because some readers of events take U+2028 for the end of a line."""
    return json.dumps(data).encode()


class Translation(NamedTuple):
    """Pure functions of one dialect."""

    asked: Callable[[Wire, dict[str, JsonValue]], NeutralFields]
    """What a call asks for; the last argument: its body. Raises Untranslatable, and ValueError for what is no call."""
    answered: Callable[[Wire, dict[str, JsonValue], NeutralAnswer], WireAnswer]
    """An answer in the dialect's own form, as a stream where the call asks for one."""
