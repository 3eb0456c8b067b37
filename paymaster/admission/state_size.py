"""How large the dump of a state is, and when somebody must look: to measure it takes as long as to write it."""

from paymaster.admission.alert_policy import AlertPolicy
from paymaster.admission.outbox import Outbox
from paymaster.admission.pressure import estimated_bytes, relieve
from paymaster.admission.state import DeskState, dump
from paymaster.messages import Reserve, json_bytes
from paymaster.values.collection import no_collection
from paymaster.values.limits import LOOK_AFTER_BYTES, STATE_BYTES_MAX, STATE_BYTES_SLACK

_GROWS_BY = 2
"""What a call can take of the dump that nothing else in it resembles, by its bytes as a message: what cannot be
compressed takes 4/3 as base64, and a grant repeats the names in it."""


class StateSize:
    def __init__(self, state: DeskState, outbox: Outbox, alerts: AlertPolicy) -> None:
        self._state, self._outbox, self._alerts = state, outbox, alerts
        self._measured = self._estimated = 0
        self._taken_in = 0
        self._look_at = LOOK_AFTER_BYTES

    def is_measured(self, size: int) -> None:
        """The dump of the state as it is now has this size."""
        self._measured, self._estimated = size, estimated_bytes(self._state)
        self._taken_in, self._look_at = 0, LOOK_AFTER_BYTES

    def about(self) -> int:
        """For people."""
        estimate = estimated_bytes(self._state)
        return min(estimate, self._most_bytes(estimate))

    def take_in(self, request: Reserve) -> None:
        """Counts a call that is granted or parked; after many of them looks at the size."""
        self._taken_in += json_bytes(request)
        if self._taken_in >= self._look_at:
            self.look(STATE_BYTES_SLACK)

    def look(self, slack: int = 0) -> None:
        """Once a minute, and after many new calls: tells of a state that is half of what it may be, and drops what is
        missed least when all of it is too large."""
        state = self._state
        if state.rules == 1:
            return
        estimate = estimated_bytes(state)
        size = self._most_bytes(estimate)
        if size > STATE_BYTES_MAX + slack:  # it can be; is it?
            size = len(self._dump())
            self.is_measured(size)
        self._look_at = self._taken_in + LOOK_AFTER_BYTES
        if STATE_BYTES_MAX < size <= STATE_BYTES_MAX + slack:
            return
        if size > STATE_BYTES_MAX:
            self._relieve(size)
        else:
            state.full = False
        self._alerts.state_size(size)

    def dump(self) -> str:
        """The whole state as text.

        Where it is larger than it may be, what is missed least is dropped, and what is left is written all the same:
        up to what Temporal takes there is room for what came since the state was measured.
        """
        dumped = self._dump()
        if len(dumped) > STATE_BYTES_MAX:
            self._relieve(len(dumped))
            dumped = self._dump()
        return dumped

    def _dump(self) -> str:
        with no_collection():
            return dump(self._state)

    def _relieve(self, size: int) -> None:
        """Of a state that is larger than it may be. When nothing is left to drop, no further calls are taken in."""
        left = relieve(self._state, size - STATE_BYTES_MAX)
        self._state.full = left > 0 and self._state.rules >= 2
        self._outbox.count_alerts()

    def _most_bytes(self, estimate: int) -> int:
        """No dump of now is larger, whatever is in the texts of calls: of these the estimate knows only how many."""
        return self._measured + max(_GROWS_BY * self._taken_in, estimate - self._estimated)
