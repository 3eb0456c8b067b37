"""The parked calls: who waits for what, in which order, and who may not be overtaken any more."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import PlainSerializer

from paymaster.admission.routing import Obstacle
from paymaster.cut import cut
from paymaster.messages import Reserve

CLAIM_AFTER_MS = 60_000
"""A parked call that waits only for what clears by itself lets smaller calls pass for this long. From then on its
accounts are kept for it."""

Place = tuple[int, int]
"""In the queue: by priority, then by order of arrival."""


@dataclass(slots=True)
class ParkedCall:
    reserve: Reserve
    sequence: int
    parked_at_ms: int
    waits_for: Annotated[frozenset[str], PlainSerializer(sorted)] = frozenset()
    """Accounts in which something must be freed."""
    keeps: Annotated[frozenset[str], PlainSerializer(sorted)] = frozenset()
    """Accounts that are kept for it since it has waited long enough. They only grow while it is busy: if it gave up one
    when it waits for the next, small calls could take the two in turn, for ever."""
    retry_at_ms: int | None = None
    """… or a time that must come."""
    busy_since_ms: int | None = None
    """Since when only holds, limits or pauses are in the way. None: money is gone, or no service works."""
    open_since_ms: int | None = None
    """Since when no service works. None: one does."""
    detail: str = ""

    def place(self) -> Place:
        return (-self.reserve.priority, self.sequence)

    def claims_at_ms(self) -> int | None:
        return None if self.busy_since_ms is None else self.busy_since_ms + CLAIM_AFTER_MS

    def note(self, obstacles: list[Obstacle], now_ms: int) -> None:
        """Remembers what is in the way, to look again when that changes."""
        deciding = decide(obstacles)
        self.waits_for = frozenset(o.account for o in obstacles if o.account is not None)
        self.retry_at_ms = min((o.until_ms for o in obstacles if o.until_ms is not None), default=None)
        loading = any(o.reason == "loading" for o in obstacles)  # that is nobody's hold: patience begins after it
        self.busy_since_ms = _since(self.busy_since_ms, now_ms, deciding.kind == "busy" and not loading)
        if self.busy_since_ms is None:
            self.keeps = frozenset()
        # While another call probes, none works yet; else each parked call would wait for a probe of its own.
        self.open_since_ms = _since(self.open_since_ms, now_ms, deciding.kind == "open" or deciding.reason == "probing")
        self.detail = cut(deciding.detail, 500)


class ParkedQueue:
    def __init__(self, calls: dict[str, ParkedCall]) -> None:
        """`calls`, by hold id, is the state; everything else here follows from it."""
        self._calls = calls
        self._order = sorted(calls.values(), key=ParkedCall.place)
        self._claims: dict[str, list[Place]] = {}
        """By account, who has waited long enough for it to clear, in order."""
        self._claimed: dict[str, frozenset[str]] = {}
        """By hold id, the accounts that it claims."""

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[ParkedCall]:
        """In order; calls may be removed meanwhile."""
        return iter(tuple(self._order))

    def get(self, hold_id: str) -> ParkedCall | None:
        return self._calls.get(hold_id)

    def add(self, call: ParkedCall) -> None:
        self._calls[call.reserve.hold_id] = call
        insort(self._order, call, key=ParkedCall.place)

    def remove(self, call: ParkedCall) -> None:
        del self._calls[call.reserve.hold_id]
        del self._order[bisect_left(self._order, call.place(), key=ParkedCall.place)]
        self.end_claims(call)

    def renew_claims(self, now_ms: int) -> None:
        """Accounts are kept for the first call that has waited long enough for them to clear."""
        self._claims, self._claimed = {}, {}
        for call in self._order:
            self.claim(call, now_ms)

    def claim(self, call: ParkedCall, now_ms: int) -> frozenset[str]:
        """Keeps what it waits for from those behind it, if it has waited long enough. The accounts."""
        claims_at_ms = call.claims_at_ms()
        if claims_at_ms is None or claims_at_ms > now_ms:
            return frozenset()
        call.keeps |= call.waits_for
        self._claimed[call.reserve.hold_id] = call.keeps
        for key in call.keeps:
            insort(self._claims.setdefault(key, []), call.place())
        return call.keeps

    def end_claims(self, call: ParkedCall) -> frozenset[str]:
        """The accounts that it claimed: they may be free for somebody behind it."""
        claimed = self._claimed.pop(call.reserve.hold_id, frozenset())
        for key in claimed:
            self._claims[key].remove(call.place())
        return claimed

    def claimed_before(self, place: Place, accounts: tuple[str, ...]) -> str | None:
        """An account among these that is kept for a call before this place, or None."""
        claims = self._claims
        return next((key for key in accounts if claims.get(key) and claims[key][0] < place), None) if claims else None


def decide(obstacles: list[Obstacle]) -> Obstacle:
    """The obstacle that clears soonest decides what happens to the call: busy, gone, open, never."""
    return min(obstacles, key=lambda obstacle: _SOONEST.index(obstacle.kind))


_SOONEST = ("busy", "gone", "open", "never")


def _since(before_ms: int | None, now_ms: int, still: bool) -> int | None:
    if not still:
        return None
    return now_ms if before_ms is None else before_ms
