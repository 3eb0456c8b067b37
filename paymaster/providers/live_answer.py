"""A stream as it comes, cut into what may be given to whoever reads along: pure code.

That is whole events, as the caller asked for them, without known keys; none before the first that says something, so
that whatever happens until then can still be told otherwise. A key that comes in pieces, in one event or in the texts
of several, is held back before it is whole.
"""

from typing import NamedTuple

from pydantic import JsonValue

from paymaster.messages.wire import Dialect, Wire
from paymaster.providers.event_stream import event_object, stream_events
from paymaster.redaction import SECRET_CHARACTERS_MIN, ends_within_secret, redact, redact_bytes
from paymaster.wire.dialects import given_back, says_something
from paymaster.wire.event_pieces import event_pieces

EVENT_BYTES_MAX = 4_000_000
"""A longer event is given with the result."""
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")
_TAIL = 64
"""Characters that are kept of a text that comes in pieces, while no key begins there."""
_TEXTS_MAX = 200
"""Texts of one stream that are watched, by where they stand."""


class NotToBeGiven(Exception):
    """The rest of this stream is not given while it comes: the message says why."""


class _Text(NamedTuple):
    """A text that comes in pieces."""

    latest: str = ""
    """The last piece."""
    end: str = ""
    """Of all that has come, as much as a key may begin in."""
    key_begins: bool = False


class LiveAnswer:
    """One stream as whoever reads along gets it."""

    def __init__(self, wire: Wire) -> None:
        self._as_asked = given_back(wire)
        self._dialect: Dialect = wire.dialect
        self._cut = b""
        """The beginning of an event."""
        self._held: list[bytes] = []
        """Whole events that must not be given yet."""
        self._texts: dict[str, _Text] = {}
        """What this stream says, by where it stands in its events."""
        self._begun = False
        self.has_told_error = False
        """The service ended it with an error event, which was given."""

    def take(self, data: bytes) -> bytes:
        """What may be given now that this has come. Raises NotToBeGiven."""
        looked_at = max(0, len(self._cut) - 3)
        self._cut += data
        found = [self._cut.rfind(end, looked_at) + len(end) for end in _EVENT_ENDS if end in self._cut[looked_at:]]
        if not found:
            if len(self._cut) > EVENT_BYTES_MAX:
                raise NotToBeGiven(f"an event of more than {EVENT_BYTES_MAX:,} bytes")
            return b""
        whole, self._cut = self._cut[: max(found)], self._cut[max(found) :]
        return self._taken(whole)

    def rest(self) -> bytes:
        """What may be given now that nothing more comes. Raises NotToBeGiven."""
        last, self._cut = self._cut, b""
        given = self._taken(last) if last else b""
        return given + self._let_go() if self._begun else b""

    def _taken(self, events: bytes) -> bytes:
        for event in event_pieces(events):
            self._look_at(event)
        key_begins = any(text.key_begins for text in self._texts.values())
        return self._let_go() if self._begun and not key_begins else b""

    def _let_go(self) -> bytes:
        events = b"".join(self._held)
        self._held.clear()
        return self._as_asked(events)

    def _look_at(self, event: bytes) -> None:
        event = redact_bytes(event)
        self._held.append(event)
        for each in stream_events(event):
            data = event_object(each)
            is_error = each.name == "error" or bool(data.get("error")) or data.get("type") in _ERRORS
            if is_error and not self._begun:
                raise NotToBeGiven("the service answered with an error")
            self.has_told_error |= is_error
            self._begun = self._begun or says_something(self._dialect, data)
            self._watch(data)

    def _watch(self, data: dict[str, JsonValue]) -> None:
        """Raises NotToBeGiven."""
        said: dict[str, str] = {}
        _collect(data, "", said)
        joined = {
            where: self._texts.pop(where, _NOTHING).end + latest
            for where, latest in said.items()
            if not self._is_said_again(where, latest)
        }
        searched = "\n".join(joined.values())
        if redact(searched) != searched:
            raise NotToBeGiven("the answer has a key in it")
        for where, text in joined.items():
            begins = ends_within_secret(text)
            self._texts[where] = _Text(said[where], text if begins else text[-_TAIL:], begins)
        while len(self._texts) > _TEXTS_MAX:
            del self._texts[next(iter(self._texts))]

    def _is_said_again(self, where: str, text: str) -> bool:
        """Whether it is an id that stands in every event, and no piece of a key."""
        before = self._texts.get(where)
        return before is not None and text == before.latest and len(text) >= SECRET_CHARACTERS_MIN


_ERRORS = frozenset({"error", "response.failed"})


_NOTHING = _Text()


def _collect(data: JsonValue, where: str, found: dict[str, str]) -> None:
    """All texts, by where they stand. No call for each of them: every token pays it."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for name, below in items:
        if isinstance(below, str):
            found[f"{where}.{name}"] = below
        elif isinstance(below, dict | list):
            _collect(below, f"{where}.{name}", found)
