"""The desk's time: that of the Temporal server, which may jump and come back.

A jump forward cannot be told from a ledger that nobody woke. So windows end by it at once, but holds and calls that
wait get some minutes more before their time counts as over. A clock that comes back is proof that it was ahead: then
the desk's time goes back too. It never does for the few seconds by which the clocks of several servers differ.

Within one run a workflow's time never goes back (the SDK keeps the latest), so the desk sees a clock that came back
only in its next run. It asks for one when calls come that were started long before its own time.
"""

from dataclasses import dataclass

JUMP_MS = 3_600_000
"""What was due longer ago than this may be so only because the clock jumped."""
DOUBT_MS = 600_000
"""For how long after that nothing is denied or expired because its time is over."""
BEHIND_MS = 300_000
"""How far behind the desk's time a clock is put back, and not just another server's."""
BEHIND_FOR_MS = 120_000
"""How long a clock must have been put back before the desk's time follows by itself."""
TAKEN_WITHIN_MS = 3_600_000
"""How long an admin's word holds that the clock is right."""
STALE_CALLS = 8
"""So many calls in a row that were started long before the desk's time ask for a new run; then 8 times as many."""


@dataclass(slots=True)
class Clock:
    """What the desk remembers of the server's clock."""

    doubted_until_ms: int = 0
    """Until then a jump forward is not believed."""
    behind_since_ms: int | None = None
    """Since when, by the clock itself, it is put back. None: it is not."""
    taken_until_ms: int = 0
    """Until then, in the desk's time, an admin wants the clock to be taken as it is."""
    returned_at_ms: int | None = None
    """When it was put back last. None: never."""
    stale_calls: int = 0
    """Calls in a row that were started long before the desk's time."""

    def goes_back(self, now_ms: int, desk_ms: int) -> bool:
        """Whether the desk's time follows a clock that says `now_ms`."""
        behind_ms = desk_ms - now_ms
        if behind_ms < BEHIND_MS:
            self.behind_since_ms = None
        elif self.behind_since_ms is None or now_ms < self.behind_since_ms:
            self.behind_since_ms = now_ms
        lasts = self.behind_since_ms is not None and now_ms - self.behind_since_ms >= BEHIND_FOR_MS
        return lasts or (behind_ms >= 1_000 and desk_ms <= self.taken_until_ms)

    def went_back(self, to_ms: int) -> None:
        self.behind_since_ms, self.returned_at_ms = None, to_ms
        self.doubted_until_ms = self.taken_until_ms = self.stale_calls = 0

    def wants_new_run(self, asked_at_ms: int, desk_ms: int) -> bool:
        """Whether a call that was started at this time, after others like it, is a reason to look at the clock anew."""
        if asked_at_ms > desk_ms - BEHIND_MS:
            self.stale_calls = 0
            return False
        self.stale_calls += 1
        count = self.stale_calls
        while count % STALE_CALLS == 0:
            count //= STALE_CALLS
        return count == 1 and self.stale_calls > 1
