"""What the calls since a measurement of the state can add to its dump, whatever their texts are."""

import re
import zlib
from collections.abc import Container

from pydantic import TypeAdapter

from paymaster.messages import Reserve

CALL_BYTES = 100
"""A call that is held or parked takes no more of the dump for its numbers, and for ids that are UUIDs."""
_IN_THE_DUMP = 7
"""A text of calls takes so much of the dump, by what it is compressed: as base64 4/3, in five places (the name of an
account is in the account, among those that changed and those that are loaded, in the holds, and in an answer that
waits)."""
_USUAL_IDS = re.compile("(?:call/)?(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}[ /]){3}[0-9]{1,4}")
_RESERVE = TypeAdapter(Reserve)
_OF_EACH_CALL = {"hold_id", "call", "digest"}


class NewCalls:
    """The calls that are new since a measurement.

    Texts that many calls have in common count once, as they take room in the dump, and go on counting when the first
    call that had them has ended; what is each call's own counts for as long as it is held or parked.
    """

    def __init__(self) -> None:
        self._own: dict[str, int] = {}
        self._texts = zlib.compressobj(1)
        self._known: set[int] = set()
        """The hashes of what calls have in common."""
        self._text_bytes = 0
        self.plain_bytes = 0
        """What they take before they are compressed, about; also those that have ended."""

    def add(self, request: Reserve, size: int) -> int:
        """Returns the most that the call, which has this size as a message, adds to the dump."""
        common = hash((request.budgets, request.candidates, request.run, request.run_terms))
        text_bytes = 0
        if common not in self._known:
            self._known.add(common)
            text = _RESERVE.dump_json(request, exclude=_OF_EACH_CALL)
            compressed = self._texts.compress(text) + self._texts.flush(zlib.Z_SYNC_FLUSH)
            text_bytes = _IN_THE_DUMP * len(compressed)
            self._text_bytes += text_bytes
        self.plain_bytes += size
        own = self._own[request.hold_id] = CALL_BYTES + _odd_bytes(request)
        return own + text_bytes

    def bytes(self, holds: Container[str], parked: Container[str]) -> int:
        """The most that they add now."""
        self._own = {key: own for key, own in self._own.items() if key in holds or key in parked}
        return self._text_bytes + sum(self._own.values())


def _odd_bytes(request: Reserve) -> int:
    """Of a call's ids that are no UUIDs, and of its digest; as text that resembles nothing."""
    ids = f"{request.call.workflow_id} {request.call.run_id} {request.hold_id}"
    return len(request.digest) + (0 if _USUAL_IDS.fullmatch(ids) else len(ids.encode()))
