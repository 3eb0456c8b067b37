"""Which stored calls another configuration would have held up.

A call that would have waited counts when it was granted all the same, and the money is what was spent: the answer to
"how often would this cap have been in the way", and no guess of what everybody would have done instead.
"""

from collections.abc import Iterable

from paymaster.admission.account_rows import account_configs, config_of
from paymaster.messages import DeskConfig, Window
from paymaster.messages.config import LimitName
from paymaster.reports.replayed import Call, HeldUp, Obstacle, Refusal, Refusals, StoredHold, Totals
from paymaster.reports.replayed_desk import ReplayedDesk
from paymaster.values.budget_path import is_within
from paymaster.values.time_zones import UTC_ZONE, Zone
from paymaster.values.windows import window_start_ms

APPROXIMATE = (
    "each call counts as what it cost, where the ledger would have held its larger bound while it ran",
    "all calls go on as they did: one that would have waited counts when it was granted, in every window around it",
    "caps that admins raised are those of the file, and prices are those that were paid",
    "a call that asked again, for another service, counts each time",
    "of what a run may take, its money alone is looked at",
)
"""What the stored rows do not say, and what a replay takes instead."""

_EARLIER_MS = 3_600_000
"""Calls that were granted so long before may still have places and rates."""


class Replay:
    """Stored holds, judged by a desk under another configuration, and what it would have held up."""

    def __init__(self, config: DeskConfig, *, since_ms: int = 0, budget: str | None = None) -> None:
        """Calls that were granted before `since_ms`, and those that do not count for `budget` (None: any), are in the
        books and are not told of."""
        self.total = Totals()
        self.by_budget: dict[str, Totals] = {}
        """By the calls' own budgets; in a replay for one budget, by the first ones within it."""
        self.held_up: dict[tuple[str, Window | LimitName], HeldUp] = {}
        """By account and cap or limit."""
        self.refusals: dict[str, Refusals] = {}
        """By the desk's word for the reason."""
        self._configs = account_configs(config)
        self._since_ms, self._budget = since_ms, budget
        self._desk = ReplayedDesk(config)

    def take(self, stored: StoredHold) -> None:
        """Replays one hold. They are given in the order of their grants."""
        judged = self._desk.judge(stored)
        if stored.granted_at_ms >= self._since_ms and self._counts(stored):
            self._tell(stored, *judged)

    def _counts(self, stored: StoredHold) -> bool:
        return self._budget is None or any(is_within(each, self._budget) for each in stored.budgets)

    def _shown_under(self, stored: StoredHold) -> str:
        return next(each for each in stored.budgets if self._budget is None or is_within(each, self._budget))

    def _tell(self, stored: StoredHold, obstacles: Iterable[Obstacle], refusal: Refusal | None) -> None:
        call = Call(stored.granted_at_ms, stored.call_id, stored.cost_nanos)
        waits = refusal is not None
        denied = refusal is not None and not refusal.waits
        for each in obstacles:
            enforced = self._is_enforced(each)
            waits, denied = waits or enforced, denied or (enforced and each.never_fits)
            self._found(each, call, enforced=enforced).add(each, call)
        if refusal is not None:
            self.refusals.setdefault(refusal.reason, Refusals(refusal.detail, call)).calls += 1
        for totals in (self.total, self.by_budget.setdefault(self._shown_under(stored), Totals())):
            totals.add(call, held_up=waits, denied=denied)

    def _is_enforced(self, obstacle: Obstacle) -> bool:
        """Whether the configuration has it bind, where the replay watches everything."""
        return any(found.enforce for key in obstacle.said_by if (found := config_of(key, self._configs)))

    def _found(self, obstacle: Obstacle, first: Call, *, enforced: bool) -> HeldUp:
        found = self.held_up.get((obstacle.account, obstacle.what))
        if found is None:
            found = HeldUp(obstacle.account, obstacle.what, obstacle.most, enforced, first)
            self.held_up[obstacle.account, obstacle.what] = found
        return found


def replayed_from_ms(config: DeskConfig, since_ms: int) -> int:
    """From when on calls have to be replayed, for each cap to know at `since_ms` what its window has in it."""
    zones = {name: Zone(offsets) for name, offsets in config.time_zones.items()}
    starts = (
        window_start_ms(window, since_ms, zones.get(account.time_zone, UTC_ZONE))
        for account in account_configs(config).values()
        for window in account.caps_nanos
    )
    return max(0, min([since_ms - _EARLIER_MS, *starts]))
