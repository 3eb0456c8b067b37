"""Server-sent events: how a streamed answer is cut into its events."""

from collections.abc import Iterator
from typing import NamedTuple

from pydantic import JsonValue

from paymaster.providers.provider import MalformedAnswer
from paymaster.values.json_reading import object_of, read_json

PARTS_MAX = 200_000
"""Parts of one answer that are kept until its stream has ended; some services send one for each token."""

_BYTE_ORDER_MARK = "\ufeff"


class StreamEvent(NamedTuple):
    """One server-sent event: its name, "message" where it has none, and its data."""

    name: str
    data: str


def stream_events(body: bytes) -> Iterator[StreamEvent]:
    """The events of a stream that has ended. A last one without its blank line counts, as official SDKs have it: one
    that was cut is no whole JSON.

    `event:` and `data:` may come in any order, comment lines are skipped. One by one: a million events at a time would
    hold up everything else when they are made, and when they are given up.
    """
    name, data = "message", list[str]()
    for line in _lines(
        body.decode(errors="replace").removeprefix(_BYTE_ORDER_MARK).replace("\r\n", "\n").replace("\r", "\n")
    ):
        if not line:
            if data:
                yield StreamEvent(name, "\n".join(data))
            name, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
    if data:
        yield StreamEvent(name, "\n".join(data))


def _lines(text: str) -> Iterator[str]:
    at = 0
    while (end := text.find("\n", at)) >= 0:
        yield text[at:end]
        at = end + 1
    yield text[at:]


def check_parts(parts: int) -> None:
    """Raises MalformedAnswer where a stream has put together more parts than any answer has."""
    if parts > PARTS_MAX:
        raise MalformedAnswer(f"more than {PARTS_MAX:,} parts")


def event_object(event: StreamEvent) -> dict[str, JsonValue]:
    """The event's data; an empty object when it is none."""
    try:
        return object_of(read_json(event.data))
    except ValueError:
        return {}
