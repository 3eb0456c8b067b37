"""Who sends updates to the ledger of late, and how long each of them should wait before its next one.

Temporal takes ten updates in flight to one workflow. Where more processes than that send whenever they like, most are
refused and some starve; where each waits for its turn, any number of them gets through.
"""

from paymaster.values.limits import SENDERS_MAX, UPDATES_PER_RUN

EACH_MS = 5
"""Of the time belongs to one sender: together they send two hundred updates a second, which is less than Temporal and
the ledger take."""
HANDOVER_MS = 250
"""Nobody should send while a run of the ledger ends and the next one begins: what is sent then is aborted."""
_LATELY_MS = 3_000
_LATELY_ROUNDS = 5
"""Who waits for its turn counts, also where a turn takes longer than usual."""


class Senders:
    """Those of one run of the ledger. `handed_on`: how many there were at the end of the run before."""

    def __init__(self, handed_on: int = 0) -> None:
        self._handed_on = min(handed_on, SENDERS_MAX)
        self._heard_ms: dict[str, int] = {}
        """In the order in which they were heard last."""
        self._first_ms: int | None = None
        self._updates = 0
        self._untold: set[str] | None = None

    def heard(self, sender: str, now_ms: int) -> int:
        """Notes an update. Returns after how many milliseconds its sender may send the next one. 0: it is alone."""
        self._updates += 1
        if self._first_ms is None:
            self._first_ms = now_ms
        self._heard_ms.pop(sender, None)
        self._heard_ms[sender] = now_ms
        if len(self._heard_ms) > SENDERS_MAX:
            del self._heard_ms[next(iter(self._heard_ms))]
        turn_ms = self._turn_ms(now_ms)
        if self._untold is None or turn_ms == 0:
            return turn_ms
        self._untold.discard(sender)
        return turn_ms + HANDOVER_MS

    def count(self, now_ms: int) -> int:
        """How many sent lately, at least those that the run before handed on, until each had the time to send."""
        heard_ms = self._heard_ms
        lately_ms = max(_LATELY_MS, _LATELY_ROUNDS * EACH_MS * len(heard_ms))
        while heard_ms and heard_ms[next(iter(heard_ms))] <= now_ms - lately_ms:
            del heard_ms[next(iter(heard_ms))]
        is_early = self._first_ms is None or now_ms < self._first_ms + _LATELY_MS
        return max(len(heard_ms), self._handed_on if is_early else 0)

    def _turn_ms(self, now_ms: int) -> int:
        count = self.count(now_ms)
        return count * EACH_MS if count > 1 else 0

    # ------------------------------------------------------------ the end of the run

    @property
    def sent_enough(self) -> bool:
        """The run has had as many updates as it should have."""
        return self._updates >= UPDATES_PER_RUN

    def tell_all(self, now_ms: int) -> int:
        """From now on each is told to come after the end of the run. Returns in how many milliseconds all who send
        will have been told."""
        turn_ms = self._turn_ms(now_ms)
        self._untold = {sender for sender in self._heard_ms if sender} if turn_ms else set()
        return 2 * turn_ms + HANDOVER_MS

    @property
    def all_told(self) -> bool:
        """Everybody who sent lately was told to come later."""
        return self._untold is not None and not self._untold
