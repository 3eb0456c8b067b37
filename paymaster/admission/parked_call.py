"""One parked call: what it asked for, and what it waits for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import PlainSerializer

from paymaster.admission.breaker import Gate
from paymaster.admission.first_fit import Place
from paymaster.admission.routing import Obstacle
from paymaster.messages import Parked, Reserve
from paymaster.values.cut import cut

CLAIM_AFTER_MS = 60_000
"""A parked call that waits only for what clears by itself lets smaller calls pass for this long. From then on its
accounts are kept for it."""

COUNTING = "counting"
"""The reason of a call that was told to count its tokens."""
TO_COUNT = "to_count"
"""The reason of one that will be, as soon as fewer count."""
COUNTS_LATE = "counts_late"
"""The reason of one that was told so, and has not asked again in time: others count meanwhile."""
MODEL_PAUSED = "model_paused"
"""The reason of one whose model has reached a limit of its own."""
_TAKEN_BY_NOBODY = frozenset((COUNTING, TO_COUNT, COUNTS_LATE, MODEL_PAUSED))
"""Reasons to wait in a service of which those who call it meanwhile take nothing."""
SHORT = "short"
"""Why a call is looked at when money is not short any more: a candidate of it is for when it is."""


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
    """The earliest time to try again. None: something must change first."""
    busy_since_ms: int | None = None
    """Since when only holds, limits or pauses are in the way. None: money is gone, or no service works."""
    open_since_ms: int | None = None
    """Since when no service works. None: one does."""
    detail: str = ""
    waits: tuple[tuple[str, str | None], ...] = ()
    """For each candidate the reason why it could not be called, and the account where that was; then each account in
    which money was short for it, as `SHORT`. Empty in a state of rules 1."""

    counts_until_ms: int | None = None
    """How long it is waited for that it has counted its tokens. None: it does not count."""

    def place(self) -> Place:
        return (-self.reserve.priority, self.sequence)

    def claims_at_ms(self) -> int | None:
        return None if self.busy_since_ms is None else self.busy_since_ms + CLAIM_AFTER_MS

    def cooldown_ms(self, gates: Mapping[str, Gate]) -> int:
        """The longest cooldown of its services. They may be others than the gates know."""
        services = {candidate.service for candidate in self.reserve.candidates}
        return max((gates[service].breaker.cooldown_ms for service in services if service in gates), default=0)

    def answer(self) -> Parked:
        """What the call is told, each time that it asks."""
        return Parked(hold_id=self.reserve.hold_id, deadline_at_ms=self.reserve.deadline_at_ms, detail=self.detail)

    def kept_for_it(self) -> frozenset[str]:
        """Accounts that are kept for it when it has waited long enough. Not where it only waits for a count, or for its
        model: nobody behind it takes that."""
        others = {account for reason, account in self.waits if reason not in _TAKEN_BY_NOBODY}
        alone = {account for reason, account in self.waits if reason in _TAKEN_BY_NOBODY}
        return self.waits_for - (alone - others)

    def counts_in(self) -> str | None:
        """The account of the service by which it counts its tokens. None: it does not, or should have by now."""
        return next((account for reason, account in self.waits if reason == COUNTING), None)

    def short_below(self) -> int | None:
        """Millionths of a cap; money is short for a candidate while fewer are unspent. None: it has none for that."""
        parts = (each.short_below for each in self.reserve.candidates)
        return max((below for below in parts if below is not None), default=None)

    def short_in(self) -> list[str]:
        """The accounts in which money was short for it."""
        rest = self.waits[len(self.reserve.candidates) :]
        return [account for reason, account in rest if reason == SHORT and account is not None]

    def note(self, obstacles: list[Obstacle], now_ms: int, short_in: Iterable[str] = ()) -> None:
        """Remembers what is in the way, to look again when that changes, and where money is short."""
        deciding = decide(obstacles)
        self.waits = (*((o.reason, o.account) for o in obstacles), *((SHORT, key) for key in short_in))
        self.waits_for = frozenset(o.account for o in obstacles if o.account is not None and o.kind != "impossible")
        self.counts_until_ms = next((o.until_ms for o in obstacles if o.reason in (COUNTING, COUNTS_LATE)), None)
        self.retry_at_ms = min((o.until_ms for o in obstacles if o.until_ms is not None), default=None)
        # That is nobody's hold: patience begins after it.
        loading = any(o.reason in ("loading", "accounts_full", "runaway") for o in obstacles)
        self.busy_since_ms = _since(self.busy_since_ms, now_ms, deciding.kind == "transient" and not loading)
        if self.busy_since_ms is None:
            self.keeps = frozenset()
        # While another call probes, none works yet; else each parked call would wait for a probe of its own.
        none_works = deciding.kind == "breaker_open" or deciding.reason == "probing"
        self.open_since_ms = _since(self.open_since_ms, now_ms, none_works)
        self.detail = cut(deciding.detail, 500)


def decide(obstacles: list[Obstacle]) -> Obstacle:
    """The obstacle that clears soonest decides what happens to the call."""
    return min(obstacles, key=lambda obstacle: _SOONEST.index(obstacle.kind))


_SOONEST = ("transient", "exhausted", "breaker_open", "impossible")


def _since(before_ms: int | None, now_ms: int, still: bool) -> int | None:
    if not still:
        return None
    return now_ms if before_ms is None else before_ms
