"""AWS's binary event streams (`application/vnd.amazon.eventstream`), rewritten as server-sent events.

So known keys are taken out of them, and their events are read, as in every other stream: in a frame, which has its
length and checksum, neither could be changed.
"""

import json
from collections.abc import Iterator

from pydantic import JsonValue

from paymaster.values.json_reading import object_of, read_json, text_of

STREAM_TYPE = "application/vnd.amazon.eventstream"
EXCEPTION = "exception"
"""The name of an event that is an error; its data have the error's `type` beside its own fields."""
_FRAME_BYTES_MIN = 16
"""The lengths and checksums alone."""


def as_server_sent_events(body: bytes) -> bytes:
    """The name and data of every frame before the first one that is cut off or damaged.

    Raises ExtraMissing where the extra `bedrock` is not installed.
    """
    # In ASCII: half a surrogate pair, which JSON can name, cannot be encoded.
    return "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in _frames(body)).encode()


def _frames(body: bytes) -> Iterator[tuple[str, dict[str, JsonValue]]]:
    from botocore.eventstream import EventStreamBuffer  # here: it is an extra, and takes long to import

    at = 0
    while (length := int.from_bytes(body[at : at + 4], "big")) >= _FRAME_BYTES_MIN and at + length <= len(body):
        buffer = EventStreamBuffer()  # for one frame: it copies all that it has for each that it gives out
        buffer.add_data(body[at : at + length])
        try:
            message = next(buffer)
        except Exception:  # its own errors are several, and what its header parser meets raises others
            return
        yield _event(message.to_response_dict()["headers"], message.payload)
        at += length


def _event(headers: dict[str, JsonValue], payload: bytes) -> tuple[str, dict[str, JsonValue]]:
    try:
        data = object_of(read_json(payload))
    except ValueError:
        data = {}
    match text_of(headers.get(":message-type")):
        case "exception":
            return EXCEPTION, {**data, "type": text_of(headers.get(":exception-type"))}
        case "error":
            said = text_of(headers.get(":error-message"))
            return EXCEPTION, {"message": said, "type": text_of(headers.get(":error-code"))}
        case _:
            name = text_of(headers.get(":event-type")) or ""
            return (name if name.isalnum() else "unknown"), data
