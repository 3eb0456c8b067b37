"""What a run of an agent may take, and what it has taken: the part of its account that no budget has."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from paymaster.messages import AccountConfig, RunTerms, Window
from paymaster.values.run_path import run_ancestors

RunOver = Literal["run_ended", "run_calls_exhausted", "run_time_over"]
"""Why a run gets nothing more, whatever money is left."""


@dataclass(slots=True)
class Run:
    """A run, or a part of one. Its money is the `total` of its account."""

    asked: RunTerms | None = None
    """What the first request that named limits asked for. None: none did."""
    budgets: tuple[str, ...] = ()
    """Accounts of budgets whose `per_run` holds for it: those that its calls counted for."""
    calls_max: int | None = None
    """Of all these the lowest. None: no limit."""
    lasts_ms: int | None = None
    """Likewise."""
    calls: int = 0
    """Calls that got a grant."""
    began_ms: int = 0
    """When the first one did. 0: none has."""
    more_calls: int = 0
    """What admins have added to the limit."""
    more_ms: int = 0
    """Likewise."""
    ended_by: str = ""
    """The admin who ended it. Empty: it goes on."""

    @property
    def is_changed_by_admin(self) -> bool:
        return bool(self.more_calls or self.more_ms or self.ended_by)

    @property
    def ends_ms(self) -> int | None:
        """When its time is over. None: never, or not known before its first grant."""
        if self.lasts_ms is None or not self.began_ms:
            return None
        return self.began_ms + self.lasts_ms + self.more_ms

    def limit(self, terms: RunTerms) -> None:
        self.calls_max, self.lasts_ms = terms.calls, terms.lasts_ms

    def over(self, now_ms: int, *, another_call: bool) -> RunOver | None:
        """Why it gets nothing more. `another_call`: for one that has got no grant yet."""
        if self.ended_by:
            return "run_ended"
        if self.ends_ms is not None and now_ms >= self.ends_ms:
            return "run_time_over"
        if another_call and self.calls_max is not None and self.calls >= self.calls_max + self.more_calls:
            return "run_calls_exhausted"
        return None

    def granted(self, now_ms: int, *, another_call: bool) -> None:
        self.calls += another_call
        self.began_ms = self.began_ms or now_ms


def run_terms(run: Run, per_run: Iterable[RunTerms]) -> RunTerms:
    """The lowest of what was asked for and of what its budgets allow each run."""
    every = [terms for terms in (run.asked, *per_run) if terms is not None]
    return RunTerms(
        usd_nanos=min((each.usd_nanos for each in every if each.usd_nanos is not None), default=None),
        calls=min((each.calls for each in every if each.calls is not None), default=None),
        lasts_ms=min((each.lasts_ms for each in every if each.lasts_ms is not None), default=None),
    )


def run_config(terms: RunTerms) -> AccountConfig:
    """The caps of a run's account."""
    caps: dict[Window, int] = {} if terms.usd_nanos is None else {"total": terms.usd_nanos}
    return AccountConfig(caps_nanos=caps, alert_at=())


def run_levels(run: str, terms: tuple[RunTerms | None, ...]) -> list[tuple[str, RunTerms | None]]:
    """The run and its parts down to this one, outermost first, with what a request asks for each."""
    paths = run_ancestors(run)[::-1]
    return list(zip(paths, (*terms, *[None] * (len(paths) - len(terms))), strict=True))
