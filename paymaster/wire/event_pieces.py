"""A stream of server-sent events, cut behind each event."""

import re

_EVENT_ENDS = re.compile(r"(\r\n\r\n|\n\n|\r\r)")


def event_pieces(stream: bytes) -> list[bytes]:
    """The events with all their bytes; what stands behind the last one is a piece too."""
    if stream.find(b"\n\n") == len(stream) - 2 and b"\r" not in stream:  # one that has just come
        return [stream]
    # Bytes as characters of the same numbers: whatever they are, they come back.
    pieces = _EVENT_ENDS.split(stream.decode("latin-1"))
    events = [event + end for event, end in zip(pieces[::2], [*pieces[1::2], ""], strict=True)]
    return [event.encode("latin-1") for event in events if event]
