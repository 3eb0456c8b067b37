"""What is known of a dialect by whoever passes its bodies on without reading them."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from pydantic import JsonValue

from paymaster.messages.wire import Wire
from paymaster.values.json_reading import object_of, read_json
from paymaster.wire.measured import Measured, model_of


def _as_it_came(asked: bytes) -> Callable[[bytes], bytes]:
    return bytes


def _says_something(event: Mapping[str, JsonValue]) -> bool:
    return bool(event)


def _model_in_body(wire: Wire) -> str:
    return model_of(object_of(read_json(wire.body)), wire.path)


def _none(url_path: str, query: str) -> None:
    return None


class Grammar(NamedTuple):
    """Pure functions of one dialect. How a body is sent is each provider's own matter (`Provider.dialects`)."""

    measured: Callable[[Wire], Measured]
    """What a request asks for. Raises BadBody."""
    path_ends: tuple[str, ...]
    """Of the URL paths that mean this dialect."""
    sent_headers: Callable[[Mapping[str, str]], dict[str, str]]
    """Those of a caller's headers that a provider gets, by their names in lower case. A key never is among them."""
    model_named: Callable[[Wire], str] = _model_in_body
    """The model that a request names. Raises ValueError."""
    wire_path: Callable[[str, str], str | None] = _none
    """`Wire.path` of a URL path and its query."""
    given_back: Callable[[bytes], Callable[[bytes], bytes]] = _as_it_came
    """For a body: the events of its stream, or some of them, as it asked for them: without what only Paymaster asked
    for."""
    says_something: Callable[[Mapping[str, JsonValue]], bool] = _says_something
    """Whether an event of a stream has a part of the answer, and not only that one begins."""


def of_body(measured: Callable[[bytes], Measured]) -> Callable[[Wire], Measured]:
    """For a dialect whose bodies say all."""

    def of_wire(wire: Wire) -> Measured:
        return measured(wire.body)

    return of_wire


def deployment_path(url_path: str, query: str) -> str | None:
    """`deployments/NAME` of Azure's URLs below which a body need not name its model."""
    name = url_path.partition("/deployments/")[2].partition("/")[0]
    return f"deployments/{name}" if name else None


def of_body_or_path(measured: Callable[[bytes, str | None], Measured]) -> Callable[[Wire], Measured]:
    """For a dialect whose bodies may leave the model to the path."""

    def of_wire(wire: Wire) -> Measured:
        return measured(wire.body, wire.path)

    return of_wire


def passed_on(headers: Mapping[str, str], names: frozenset[str]) -> dict[str, str]:
    """Those of the caller's headers that a provider gets, in lower case."""
    return {name.lower(): value for name, value in headers.items() if name.lower() in names}
