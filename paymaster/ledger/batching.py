"""Whether a command to the ledger should wait for others: only where so many come that nobody waits long or in vain.

An update leaves five events in the ledger's history, and costs the Temporal server about as much, however many commands
it carries.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from paymaster.messages import Answer, AskStanding, Command, Granted, Settle, Void

WORTH_WAITING_FOR = 32
"""Commands in one update. A call sends two, so that an update serves sixteen calls."""
CALLS_AT_ONCE_MIN = 20
"""With fewer calls at once too many of them would wait for each other, and nothing would go on meanwhile."""
COMMANDS_A_SECOND_MIN = 40
"""With fewer, too little comes in the half second that group commit waits."""
ROWS_WORTH_WAITING_FOR = 8
"""Records in one transaction, where the update after it waits for as many commands as any: fewer transactions, and more
commands at a time. With fewer calls at once they would wait for each other twice."""
ROWS_GATHER_AT_MOST_S = 0.2
_LOOKS_BACK_S = 5.0


class _Group(NamedTuple):
    at_s: float
    commands: int
    calls_at_once: int


class LedgerTraffic:
    """What this process has sent to the ledger of late."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds."""
        self._clock = clock
        self._groups: deque[_Group] = deque()
        self._open: dict[str, float] = {}
        """Until when a hold counts as open: another process may have settled it."""

    def sent(self, commands: Sequence[Command], answers: Sequence[Answer]) -> None:
        """Notes a group of commands, and with the answers which calls began and ended."""
        now_s = self._clock()
        while self._open and next(iter(self._open.values())) <= now_s:
            del self._open[next(iter(self._open))]
        newly = sum(not isinstance(command, AskStanding) and command.hold_id not in self._open for command in commands)
        self._groups.append(_Group(now_s, len(commands), len(self._open) + newly))
        for command, answer in zip(commands, answers, strict=False):  # group commit refuses a wrong number of answers
            if isinstance(answer, Granted):
                grant = answer.grant
                self._open[grant.hold_id] = now_s + (grant.expires_at_ms - grant.granted_at_ms) / 1_000
            elif isinstance(command, Settle | Void):
                self._open.pop(command.hold_id, None)

    def worth_waiting_for(self, waiting: Sequence[Command]) -> int:
        """How many commands the next group should have, of which some wait already; 1 when they should not wait.

        No more than there may soon be: when a burst of calls ends, its last ones would wait for nobody.
        """
        return max(1, min(self._company(), len(waiting) + self._may_come(waiting)))

    def rows_worth_waiting_for(self, waiting: Sequence[Command]) -> int:
        """How many records the next transaction should have, of calls of which no command waits yet; 1 when they should
        not wait."""
        if self._company() < WORTH_WAITING_FOR:
            return 1
        return max(1, min(ROWS_WORTH_WAITING_FOR, self._may_come(waiting)))

    def _company(self) -> int:
        """How many commands go together while calls go on as they do; 1 where none waits for others."""
        now_s = self._clock()
        while self._groups and self._groups[0].at_s <= now_s - _LOOKS_BACK_S:
            self._groups.popleft()
        at_once = max((group.calls_at_once for group in self._groups), default=0)
        last_second = sum(group.commands for group in self._groups if group.at_s > now_s - 1)
        many = at_once >= CALLS_AT_ONCE_MIN and last_second >= COMMANDS_A_SECOND_MIN
        return min(WORTH_WAITING_FOR, at_once) if many else 1

    def _may_come(self, waiting: Sequence[Command]) -> int:
        """Calls that have a hold and did not say yet what it cost: who else will come is not known."""
        return len(self._open) - sum(
            isinstance(command, Settle | Void) and command.hold_id in self._open for command in waiting
        )
