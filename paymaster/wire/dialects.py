"""The formats in which wire calls are written."""

from collections.abc import Callable, Mapping

from pydantic import JsonValue

from paymaster.messages.wire import Dialect, Wire
from paymaster.wire import anthropic, gemini, openai_chat, openai_embeddings, openai_responses
from paymaster.wire.grammar import Grammar
from paymaster.wire.measured import Measured

GRAMMARS: Mapping[Dialect, Grammar] = {
    "openai": openai_chat.GRAMMAR,
    "openai-responses": openai_responses.GRAMMAR,
    "openai-embeddings": openai_embeddings.GRAMMAR,
    "anthropic": anthropic.GRAMMAR,
    "gemini": gemini.GRAMMAR,
}


def measured(wire: Wire) -> Measured:
    """What the request asks for. Raises BadBody."""
    return GRAMMARS[wire.dialect].measured(wire)


def model_named(wire: Wire) -> str:
    """The model of the request, without reading all of it. Raises ValueError."""
    return GRAMMARS[wire.dialect].model_named(wire)


def sent_headers(dialect: Dialect, headers: Mapping[str, str]) -> dict[str, str]:
    """Those of a caller's headers that a provider gets, by their names in lower case."""
    return GRAMMARS[dialect].sent_headers(headers)


def given_back(wire: Wire) -> Callable[[bytes], bytes]:
    """Events of the stream that this asks for, as the caller asked for them."""
    return GRAMMARS[wire.dialect].given_back(wire.body)


def says_something(dialect: Dialect, event: Mapping[str, JsonValue]) -> bool:
    """Whether an event of a stream has a part of the answer, and not only that one begins."""
    return GRAMMARS[dialect].says_something(event)


def dialect_of(path: str) -> tuple[Dialect, str | None] | None:
    """The dialect that a request's URL path means, with its query or without, and its `Wire.path`. None: no dialect's.

    `/v1/messages?beta=true` is ("anthropic", None); `/v1beta/models/m:generateContent` is ("gemini",
    "models/m:generateContent").
    """
    url_path, _, query = path.partition("?")
    for dialect, grammar in GRAMMARS.items():
        if url_path.endswith(grammar.path_ends):
            return dialect, grammar.wire_path(url_path, query)
    return None
