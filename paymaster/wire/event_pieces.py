"""A stream of server-sent events, cut behind each event."""

import re

_EVENT = re.compile(rb".*?(?:\r\n\r\n|\n\n|\r\r)", re.DOTALL)


def event_pieces(stream: bytes) -> list[bytes]:
    """The events with all their bytes; what stands behind the last one is a piece too."""
    pieces = _EVENT.findall(stream)
    rest = stream[sum(map(len, pieces)) :]
    return [*pieces, rest] if rest else pieces
