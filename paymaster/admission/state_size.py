"""How large the dump of a state is, and when somebody must look: to measure it takes as long as to write it."""

from paymaster.admission.alert_policy import AlertPolicy
from paymaster.admission.new_calls import NewCalls
from paymaster.admission.outbox import Outbox
from paymaster.admission.pressure import estimated_bytes, parts_without_calls, relieve
from paymaster.admission.state import DeskState, written
from paymaster.messages import Reserve
from paymaster.values.collection import no_collection
from paymaster.values.limits import (
    LOOK_AFTER_BYTES,
    OLD_FORM_BYTES_MAX,
    STATE_BYTES_MAX,
    STATE_BYTES_SLACK,
    STATE_PLAIN_BYTES_MAX,
)

_GROWS_BY = 4
"""What is counted for new calls can take so much until the next look: an answer that waits takes more than its hold."""


class StateSize:
    def __init__(self, state: DeskState, outbox: Outbox, alerts: AlertPolicy) -> None:
        self._state, self._outbox, self._alerts = state, outbox, alerts
        self._measured, self._plain = estimated_bytes(state), 0
        self._parts = parts_without_calls(state)
        self._new_calls = NewCalls()
        self._grown, self._look_after = 0, LOOK_AFTER_BYTES
        """What calls have added since the last look, and after how much of that the next one is due."""
        self._measured_at_ms = 0
        self._owes_a_look = False

    def is_measured(self, size: int, plain: int) -> None:
        """The dump of the state as it is now has this size, and had the other before it was compressed."""
        self._measured, self._plain = size, plain
        self._parts = parts_without_calls(self._state)
        self._new_calls = NewCalls()
        self._next_look(size)

    def about(self) -> int:
        """For people."""
        return min(estimated_bytes(self._state), self._most_bytes())

    def take_in(self, request: Reserve, size: int) -> None:
        """Counts a call that is granted or parked, which has this size as a message; after many of them looks at the
        size of the state."""
        if self._state.rules == 1:
            return
        self._grown += self._new_calls.add(request, size)
        if self._grown >= self._look_after or self._plain_can_be_too_much:
            self.look(STATE_BYTES_SLACK)

    def time_went_on(self) -> None:
        if self._owes_a_look:
            self.look(STATE_BYTES_SLACK)

    def look(self, slack: int = 0) -> None:
        """Once a minute, and after many new calls: tells of a state that is half of what it may be, and drops what is
        missed least when all of it is too large.

        A large state is measured once at a time: what comes at the same time, and may be too much, is not taken in
        before the next look.
        """
        state = self._state
        if state.rules == 1:
            return
        size = self._most_bytes()
        if size > STATE_BYTES_MAX + slack or self._plain_can_be_too_much or self._plain_is_much:  # it can be; is it?
            if self._measured_at_ms == state.now_ms and 4 * self._plain > STATE_PLAIN_BYTES_MAX:
                state.full = self._owes_a_look = True
                return
            size = len(self.whole())
            self._measured_at_ms = state.now_ms
        self._owes_a_look = False
        self._next_look(size)
        if STATE_BYTES_MAX < size <= STATE_BYTES_MAX + slack:
            return
        if size > STATE_BYTES_MAX:
            self._relieve(size)
        else:
            state.full = self._plain_is_much
        self._alerts.state_size(size)

    def dump(self) -> str:
        """The whole state as text.

        Where it is larger than it may be, what is missed least is dropped, and what is left is written all the same:
        up to what Temporal takes there is room for what came since the state was measured.
        """
        dumped = self.whole()
        if len(dumped) > STATE_BYTES_MAX:
            self._relieve(len(dumped))
            dumped = self.whole()
        return dumped

    def old_form(self) -> str | None:
        """The whole state in the form of version 0.1.0, as it writes it; None where that is more than can be sent."""
        dumped = self.whole()
        if len(dumped) > OLD_FORM_BYTES_MAX:
            return None
        return dumped if len(dumped) <= STATE_BYTES_MAX else self.dump()

    def whole(self) -> str:
        """The state as text, however large it is."""
        with no_collection():
            dumped, plain = written(self._state)
        self.is_measured(len(dumped), plain)
        return dumped

    def _relieve(self, size: int) -> None:
        """Of a state that is larger than it may be. When nothing is left to drop, no further calls are taken in."""
        left = relieve(self._state, size - STATE_BYTES_MAX)
        self._state.full = left > 0 and self._state.rules >= 2
        self._outbox.count_alerts()

    def _next_look(self, size: int) -> None:
        """The less room there is, the sooner."""
        room = STATE_BYTES_MAX + STATE_BYTES_SLACK - size
        self._grown, self._look_after = 0, max(LOOK_AFTER_BYTES, room // _GROWS_BY)

    @property
    def _plain_can_be_too_much(self) -> bool:
        return self._plain + self._new_calls.plain_bytes > STATE_PLAIN_BYTES_MAX

    @property
    def _plain_is_much(self) -> bool:
        """So that what comes until the next look still fits."""
        return 4 * self._plain > 3 * STATE_PLAIN_BYTES_MAX

    def _most_bytes(self) -> int:
        """No dump of now is larger, whatever is in the texts of calls."""
        state = self._state
        calls = self._new_calls.bytes(state.books.holds, state.parked)
        return self._measured + calls + parts_without_calls(state).growth_from(self._parts)
