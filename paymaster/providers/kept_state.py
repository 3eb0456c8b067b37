"""What a service wants back with an answer of its own, such as signed thoughts: kept in the order in which the model
wrote it, sent back as it came, and to nobody else.

Texts and calls are in the message itself; the state has only their places, so that a message which an agent has changed
no longer fits its state, and is sent without it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from pydantic import JsonValue
from pydantic_core import to_json

from paymaster.messages import ChatMessage, Grant, LLMRequest, ProviderState, ToolCall
from paymaster.redaction import redact
from paymaster.settings import ServiceSettings
from paymaster.values.json_reading import check_levels
from paymaster.values.limits import STATE_OF_MESSAGE_BYTES_MAX

_BOUND_TO: Mapping[str, tuple[str, ...]] = {
    "openai": ("model",),  # a model that does not think refuses another one's thoughts
    "azure-openai": ("model",),
    "gemini": ("model",),  # another model refuses a signature
    "vertex-gemini": ("model",),
    "bedrock": ("model",),  # behind one address are the models of many
    "openai-responses": ("service", "model"),  # what is encrypted is bound to the organisation of the key
}
"""What must be the same beside the wire format and the host. Claude takes no notice of thinking that its model or
account cannot read."""


class WrittenPiece(NamedTuple):
    """A part of an answer: a text, a call by its number in the answer, or neither."""

    text: str | None = None
    call: int | None = None
    own: dict[str, JsonValue] | None = None
    """What the service wrote beside the text or call, or instead of them."""

    @property
    def is_own(self) -> bool:
        return self.text is None and self.call is None


class Piece(NamedTuple):
    """A part of an assistant message as it goes back to a service."""

    text: str | None = None
    call: ToolCall | None = None
    own: Mapping[str, JsonValue] = {}


def kept(pieces: Iterable[WrittenPiece], *, signed: bool = False) -> JsonValue:
    """The state of an answer that was written in these pieces; None when it has none.

    What only the service understands counts only before a text or a call: a thought that led to nothing is refused.
    `signed`: a call of it has a signature, which is in the call itself.
    """
    found: list[dict[str, JsonValue]] = []
    has_own, ends_at = signed, 0
    for piece in pieces:
        if piece.own is None and piece.text is not None and found and set(found[-1]) == {"text"}:
            found[-1]["text"] = found[-1]["text"] + len(piece.text)  # pyright: ignore[reportOperatorIssue] - our number
        else:
            place: dict[str, JsonValue] = {} if piece.text is None else {"text": len(piece.text)}
            if piece.call is not None:
                place["call"] = piece.call
            if piece.own is not None:
                place["own"] = piece.own
            found.append(place)
        if not piece.is_own:
            ends_at = len(found)
    found = found[:ends_at]
    has_own = has_own or any("own" in piece for piece in found)
    return list[JsonValue](found) if found and has_own else None


def state_of(data: JsonValue, grant: Grant, service: ServiceSettings) -> ProviderState | None:
    """The state for a message; None where there is none, or none that can be carried unchanged.

    That is one with half a surrogate pair, one that is nested too deeply, one above its bound and one with a known key
    in it.
    """
    if data is None:
        return None
    try:
        text = to_json(data)
        check_levels(text)
    except ValueError:
        return None
    if len(text) > STATE_OF_MESSAGE_BYTES_MAX or redact(text.decode()) != text.decode():
        return None
    return ProviderState(api=service.api, host=_host(service), service=grant.service, model=grant.model, data=data)


def is_own(message: ChatMessage, grant: Grant, service: ServiceSettings) -> bool:
    """Whether the message has a state that this service gave for this model."""
    state = message.state
    if state is None or (state.api, state.host) != (service.api, _host(service)):
        return False
    given = {"service": state.service, "model": state.model}
    asked = {"service": grant.service, "model": grant.model}
    return all(given[name] == asked[name] for name in _BOUND_TO.get(service.api, ()))


def has_states(request: LLMRequest) -> bool:
    """Whether a provider gave something with a message that may be sent back."""
    return without_states(request) != request


def without_states(request: LLMRequest) -> LLMRequest:
    """The request with nothing of what providers gave with their own answers."""
    messages = tuple(
        message.model_copy(
            update={
                "state": None,
                "tool_calls": tuple(call.model_copy(update={"signature": None}) for call in message.tool_calls),
            }
        )
        for message in request.messages
    )
    return request.model_copy(update={"messages": messages})


def pieces_of(message: ChatMessage, grant: Grant, service: ServiceSettings) -> list[Piece]:
    """The message as this service wrote it; text and then calls where another one did, or where it was changed."""
    found = _pieces(message, message.state.data) if message.state and is_own(message, grant, service) else None
    if found is not None:
        return found
    text = [Piece(text=message.content)] if message.content else []
    return [*text, *(Piece(call=call) for call in message.tool_calls)]


def _pieces(message: ChatMessage, data: JsonValue) -> list[Piece] | None:
    """None: the state is not of this message."""
    found: list[Piece] = []
    at, calls = 0, list[int]()
    for place in data if isinstance(data, list) else ():
        match place:
            case {"text": int(length)} if 0 <= length <= len(message.content) - at:
                found.append(Piece(text=message.content[at : at + length], own=_own(place)))
                at += length
            case {"call": int(number)} if 0 <= number < len(message.tool_calls):
                found.append(Piece(call=message.tool_calls[number], own=_own(place)))
                calls.append(number)
            case {"own": dict()} if set(place) == {"own"}:
                found.append(Piece(own=_own(place)))
            case _:
                return None
    is_whole = at == len(message.content) and calls == list(range(len(message.tool_calls)))
    return found if is_whole else None


def _own(place: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    own = place.get("own")
    return own if isinstance(own, dict) else {}


def only(own: Mapping[str, JsonValue], names: Sequence[str]) -> dict[str, JsonValue]:
    """The parts that may be in a state: nobody can put into a request by it what costs more than its bytes."""
    return {name: own[name] for name in names if own.get(name) is not None}


def _host(service: ServiceSettings) -> str:
    return urlsplit(service.base_url).netloc
