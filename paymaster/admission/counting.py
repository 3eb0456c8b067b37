"""Parked calls that count their tokens where that may help: so many of a service at once, each at its place.

A call that counts stays parked, so that nobody takes its place or what is kept for it, and asks again when it has.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from paymaster.admission.breaker import Gate
from paymaster.admission.parked_call import COUNTING, COUNTS_LATE, TO_COUNT, ParkedCall
from paymaster.admission.routing import Obstacle, may_be_counted, name_of
from paymaster.messages import Candidate, CountFirst, Reserve
from paymaster.values.limits import COUNTING_AT_ONCE_MAX

COUNTED_WITHIN_MS = 60_000
"""After so long a call that was told to count, and asks no more, is told again, and the next one is, too: its activity
has 30 s, so that nothing counts for it any more, and its workflow may hang for as long as it waits."""


def first_helped(request: Reserve, obstacles: Iterable[Obstacle]) -> Candidate | None:
    """The first candidate that it may help to count. None: none."""
    pairs = zip(request.candidates, obstacles, strict=False)
    return next((candidate for candidate, obstacle in pairs if obstacle.helped_by_count), None)


def count_first(request: Reserve, candidate: Candidate) -> CountFirst:
    return CountFirst(hold_id=request.hold_id, candidate=candidate.model_copy(update={"price": None}))


class Counting:
    """How many parked calls count their tokens by each service."""

    def __init__(self, calls: Iterable[ParkedCall], gates: Mapping[str, Gate]) -> None:
        self._gates = gates
        self._calls = Counter[str | None]()
        for call in calls:
            self.begins(call)

    def begins(self, call: ParkedCall) -> None:
        """If it is one that counts."""
        self._calls[call.counts_in()] += 1

    def ends(self, call: ParkedCall) -> None:
        """Likewise; before what is in its way is noted anew."""
        self._calls[call.counts_in()] -= 1

    def has_room(self, account: str, now_ms: int) -> bool:
        """Whether one more may by the service of this account. While it is being tried whether that works again, one
        alone."""
        gate = self._gates.get(account.removeprefix("service:"))
        if gate is None or gate.shut(now_ms) is not None:
            return False
        return self._calls[account] < (1 if gate.breaker.state(now_ms) == "half_open" else COUNTING_AT_ONCE_MAX)


def with_count_in_the_way(
    obstacles: Iterable[Obstacle], candidate: Candidate, counts_until_ms: int | None, *, is_late: bool = False
) -> list[Obstacle]:
    """What is in the way of a call that counts for a candidate, or, None, is to as soon as fewer do."""
    told = COUNTS_LATE if is_late else COUNTING
    reason, what = (TO_COUNT, "to be counted") if counts_until_ms is None else (told, "being counted")
    detail = f"{name_of(candidate)}: its tokens are {what}"
    in_the_way = Obstacle("transient", reason, detail, f"service:{candidate.service}", counts_until_ms)
    return [in_the_way if each.helped_by_count else each for each in obstacles]


def as_counted(before: Reserve, now: Reserve) -> Reserve | None:
    """What a parked call asked before, with what it has counted, or tried to, since. None: nothing.

    All else stays as it was parked with: the route may be another one since, whose candidates nobody was told to count.
    """
    if not any(map(may_be_counted, before.candidates)):
        return None
    asked = {(each.service, each.model): each for each in now.candidates}
    candidates = tuple([_as_counted(each, asked.get((each.service, each.model))) for each in before.candidates])
    return None if candidates == before.candidates else before.model_copy(update={"candidates": candidates})


def _as_counted(before: Candidate, now: Candidate | None) -> Candidate:
    if not may_be_counted(before) or (now is not None and may_be_counted(now)):
        return before
    count = None if now is None else now.counted_tokens
    return before.model_copy(update={"countable": False, "counted_tokens": count})
