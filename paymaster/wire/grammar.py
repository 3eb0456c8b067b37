"""What is known of a dialect by whoever passes its bodies on without reading them."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from paymaster.messages.wire import Wire
from paymaster.wire.measured import Measured


def _as_it_came(asked: bytes, stream: bytes) -> bytes:
    return stream


def _none(url_path: str, query: str) -> None:
    return None


class Grammar(NamedTuple):
    """Pure functions of one dialect. How a body is sent is each provider's own matter (`Provider.dialects`)."""

    measured: Callable[[Wire], Measured]
    """What a request asks for. Raises BadBody."""
    path_ends: tuple[str, ...]
    """Of the URL paths that mean this dialect."""
    wire_path: Callable[[str, str], str | None] = _none
    """`Wire.path` of a URL path and its query."""
    given_back: Callable[[bytes, bytes], bytes] = _as_it_came
    """The events of a stream as the body asked for them: without what only Paymaster asked for."""


def of_body(measured: Callable[[bytes], Measured]) -> Callable[[Wire], Measured]:
    """For a dialect whose bodies say all."""

    def of_wire(wire: Wire) -> Measured:
        return measured(wire.body)

    return of_wire


def passed_on(headers: Mapping[str, str], names: frozenset[str]) -> dict[str, str]:
    """Those of the caller's headers that a provider gets, in lower case."""
    return {name.lower(): value for name, value in headers.items() if name.lower() in names}
