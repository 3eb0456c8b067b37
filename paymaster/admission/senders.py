"""When each sender of updates may send its next one: all in turn, so far apart that few are in flight.

Temporal takes ten updates in flight to one workflow, and aborts those ten with each one that it refuses. Where many
processes send whenever they like, hardly an update is answered; where each has a time of its own, any number of
processes gets through.
"""

from paymaster.values.limits import SENDERS_MAX, UPDATES_PER_RUN

SPACING_MS = 10.0
"""From one update to the next, where the ledger answers fast: a hundred a second."""
SPACING_MAX_MS = 100.0
SPACING_AT_FIRST_MS = 25.0
"""While it is not known how many there are, and how fast the ledger answers."""
TOGETHER = 4
"""Updates that a workflow task of the ledger should find waiting, at most. As many may come while it runs; the rest of
Temporal's ten places is for a task that takes longer than others."""
_FURTHER, _NEARER = 1.25, 0.95
"""What becomes of the spacing when more come together, and in a round in which no more did."""
_AFTER_REFUSAL = 1.5
"""What becomes of it when Temporal has refused one, which nobody sees but its sender."""
_REFUSALS_TOLD_WITHIN_MS = 10_000
"""All whose updates were refused together come back in this time, and say so."""
_ROUND_MS = 500
HANDOVER_MS = 150
"""Nobody should send while a run of the ledger ends and the next one begins: what is sent then is aborted."""
HANDOVER_MS_EACH = 0.02
"""And so much longer for each call that is handed on: 10,000 are written and read again in a fifth of a second."""
_LATELY_MS = 3_000


class Senders:
    """Those of one run of the ledger."""

    def __init__(self, handed_on: int = 0, next_at_ms: int = 0, spacing_ms: float = 0.0) -> None:
        """What the run before has handed on: how many there were, from when on they have no time yet, and how far
        apart they came. 0: not known."""
        self._handed_on = min(handed_on, SENDERS_MAX)
        self.next_at_ms = next_at_ms
        """The time of the last one who has one."""
        self.spacing_ms = min(max(spacing_ms or SPACING_AT_FIRST_MS, SPACING_MS), SPACING_MAX_MS)
        self._comes_ms: dict[str, int] = {}
        """When each comes, or was heard if it may come at once; in the order in which they were heard last."""
        self._first_ms: int | None = None
        self._updates = self._commands = 0
        self.commands_max: int | None = None
        """After which the run has had enough. None: however many."""
        self._untold: set[str] | None = None
        self._task_ms = self._together = 0
        """All updates of one workflow task have the same time."""
        self._were_too_many = False
        self._round_ends_at_ms = self._heeded_until_ms = self._refusals_until_ms = 0

    def heard(self, sender: str, now_ms: int, commands: int = 1, *, was_refused: bool = False) -> int:
        """Notes an update of so many commands, and whether Temporal refused one of its sender's before. Returns after
        how many milliseconds its sender may send the next one. 0: at once."""
        self._updates += 1
        self._commands += commands
        self._heed_clock(now_ms)
        if self._first_ms is None:
            self._first_ms = now_ms
        self._comes_ms.pop(sender, None)
        self._comes_ms[sender] = now_ms
        if len(self._comes_ms) > SENDERS_MAX:
            del self._comes_ms[next(iter(self._comes_ms))]
        if self.count(now_ms) <= 1:
            return 0
        if self._untold is not None:
            self._untold.discard(sender)
        self._heed_load(now_ms, was_refused=was_refused)
        self._comes_ms[sender] = self.next_at_ms = max(self.next_at_ms + round(self.spacing_ms), now_ms)
        return self.next_at_ms - now_ms

    def count(self, now_ms: int) -> int:
        """How many sent lately, at least those that the run before handed on, until each had the time to send."""
        comes_ms = self._comes_ms
        while comes_ms and comes_ms[next(iter(comes_ms))] <= now_ms - _LATELY_MS:
            del comes_ms[next(iter(comes_ms))]
        is_early = self._first_ms is None or now_ms < self._first_ms + _LATELY_MS
        return max(len(comes_ms), self._handed_on if is_early else 0)

    def _heed_clock(self, now_ms: int) -> None:
        """Begins anew where a clock has gone back: nobody waits until it is where it was."""
        senders = max(len(self._comes_ms), self._handed_on)
        if self.next_at_ms > now_ms + 2 * (senders * SPACING_MAX_MS + HANDOVER_MS):
            self.next_at_ms = self._first_ms = now_ms
            self._heeded_until_ms = self._refusals_until_ms = self._round_ends_at_ms = now_ms
            self._comes_ms = dict.fromkeys(self._comes_ms, now_ms)

    def _heed_load(self, now_ms: int, *, was_refused: bool) -> None:
        """What comes further apart is seen only when all have come who had their time before."""
        self._together = self._together + 1 if now_ms == self._task_ms else 1
        self._task_ms = now_ms
        self._were_too_many = self._were_too_many or self._together > TOGETHER
        if now_ms < self._heeded_until_ms or not self._round_ends_at_ms:
            self._begin_round(now_ms)
        elif was_refused and now_ms >= self._refusals_until_ms:
            self._refusals_until_ms = now_ms + _REFUSALS_TOLD_WITHIN_MS
            self._come_further_apart(_AFTER_REFUSAL, now_ms)
        elif self._were_too_many:
            self._come_further_apart(_FURTHER, now_ms)
        elif now_ms >= self._round_ends_at_ms:
            self.spacing_ms = max(self.spacing_ms * _NEARER, SPACING_MS)
            self._begin_round(now_ms)

    def _come_further_apart(self, further: float, now_ms: int) -> None:
        self.spacing_ms = min(self.spacing_ms * further, SPACING_MAX_MS)
        self._heeded_until_ms = self.next_at_ms
        self._begin_round(now_ms)

    def _begin_round(self, now_ms: int) -> None:
        self._were_too_many, self._round_ends_at_ms = False, now_ms + _ROUND_MS

    # ------------------------------------------------------------ the end of the run

    @property
    def sent_enough(self) -> bool:
        """The run has had as many updates, or commands, as it should have."""
        too_many = self.commands_max is not None and self._commands >= self.commands_max
        return self._updates >= UPDATES_PER_RUN or too_many

    def tell_all(self, now_ms: int, handed_on: int = 0) -> int:
        """From now on each is told to come after the end of the run, which hands on so many calls. Returns in how many
        milliseconds all who send will have been told."""
        self._heed_clock(now_ms)
        paced = self.count(now_ms) > 1
        self._untold = {sender for sender in self._comes_ms if sender} if paced else set()
        all_came_at_ms = max(self.next_at_ms, now_ms)
        self.next_at_ms = all_came_at_ms + HANDOVER_MS + round(HANDOVER_MS_EACH * handed_on)
        return all_came_at_ms - now_ms + HANDOVER_MS // 2

    @property
    def all_told(self) -> bool:
        """Everybody who sent lately was told to come later."""
        return self._untold is not None and not self._untold
