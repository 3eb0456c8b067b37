"""What a run of an agent may take, and what it has taken: the part of its account that no budget has."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from paymaster.messages import AccountConfig, Message, RunawayTerms, RunTerms, Window
from paymaster.values.money import format_usd
from paymaster.values.run_path import check_run_path, run_ancestors
from paymaster.values.windows import RENEWAL_WINDOWS, window_end_ms, window_start_ms

RunOver = Literal["run_ended", "run_calls_exhausted", "run_time_over"]
"""Why a run gets nothing more, whatever money is left."""
DIGESTS_MAX = 50
"""Different things that a run has asked for, of which it is remembered how often; the latest ones."""


@dataclass(slots=True)
class Period:
    """The calls of a run in a window, where a budget renews it: it has its calls anew in the next one of this kind.

    Its money there is the balance of its account.
    """

    window: Window
    calls_max: int | None = None
    """None: no limit."""
    began_ms: int = 0
    """When the window began that is counted: the latest in which a call got a grant."""
    calls: int = 0
    """Calls whose first grant is of that window."""
    more_calls: int = 0
    """What admins have added to the limit in that window."""

    def is_over(self, now_ms: int) -> bool:
        """Whether the window that is counted has ended."""
        return window_start_ms(self.window, now_ms) > self.began_ms

    def ends_ms(self, now_ms: int) -> int | None:
        return window_end_ms(self.window, now_ms)

    def is_used_up(self, now_ms: int) -> bool:
        most = self.calls_max
        return most is not None and (0 if self.is_over(now_ms) else self.calls - self.more_calls) >= most

    def begin(self, start_ms: int) -> None:
        """The window that began then is counted, from nothing if it is another one."""
        if start_ms != self.began_ms:
            self.began_ms, self.calls, self.more_calls = start_ms, 0, 0

    def roll(self, now_ms: int) -> None:
        if self.is_over(now_ms):
            self.begin(window_start_ms(self.window, now_ms))

    def put_back(self, now_ms: int, to_ms: int) -> None:
        """What admins added to the open window they have added to that of the earlier time. Calls are counted anew."""
        if self.is_over(now_ms):
            self.more_calls = 0
        else:
            self.began_ms = window_start_ms(self.window, to_ms)

    def loaded(self, calls: int, start_ms: int) -> None:
        """Adds the calls of which rows are stored."""
        self.begin(start_ms)
        self.calls += calls


@dataclass(slots=True)
class Run:
    """A run, or a part of one. Its money is the `total` of its account."""

    asked: RunTerms | None = None
    """What the first request that named limits asked for. None: none did."""
    budgets: tuple[str, ...] = ()
    """Accounts of budgets whose `per_run` holds for it: those that its calls counted for. Of a part: those that renew
    its run."""
    calls_max: int | None = None
    """Of all these the lowest that is not renewed. None: no limit."""
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
    runaway: RunawayTerms | None = None
    """When it is held: of what its budgets say the lowest. None: never."""
    watched: bool = False
    """Only budgets that are watched say so."""
    asked_for: dict[str, int] = field(default_factory=dict[str, int])
    """By the digest of what was asked for, how many calls got a grant for it; the latest last."""
    minute: int = 0
    """The latest minute in which a call got a grant, since 1970."""
    calls_of_minute: int = 0
    """How many did in it."""
    held: str = ""
    """Why it is held as a runaway. Empty: it is not."""
    periods: list[Period] = field(default_factory=list[Period])
    """What is renewed, the shortest first. Empty: nothing is."""

    @property
    def is_changed_by_admin(self) -> bool:
        """Or is held, for an admin to change it."""
        more_calls = self.more_calls or any(period.more_calls for period in self.periods)
        return bool(more_calls or self.more_ms or self.ended_by or self.held)

    @property
    def is_stopped(self) -> bool:
        """Nothing of it goes on: an admin ended it, or it is held."""
        return bool(self.ended_by or self.held)

    @property
    def ends_ms(self) -> int | None:
        """When its time is over. None: never, or not known before its first grant."""
        if self.lasts_ms is None or not self.began_ms:
            return None
        return self.began_ms + self.lasts_ms + self.more_ms

    def limit(self, limits: "Limits") -> bool:
        """Returns whether calls are to be counted that were not so far: they must be loaded."""
        self.calls_max, self.lasts_ms = limits.terms.calls, limits.terms.lasts_ms
        self.runaway, self.watched = limits.runaway, limits.watched
        before = {period.window: period for period in self.periods}
        self.periods = [before.get(window) or Period(window) for window in limits.renewed]
        for period in self.periods:
            period.calls_max = limits.renewed[period.window].calls
        return not before.keys() >= limits.renewed.keys()

    def over(self, now_ms: int, *, another_call: bool) -> RunOver | None:
        """Why it gets nothing more. `another_call`: for one that has got no grant yet."""
        if self.ended_by:
            return "run_ended"
        if self.ends_ms is not None and now_ms >= self.ends_ms:
            return "run_time_over"
        if another_call and (self._has_used_up_calls() or self.used_up(now_ms) is not None):
            return "run_calls_exhausted"
        return None

    def _has_used_up_calls(self) -> bool:
        return self.calls_max is not None and self.calls >= self.calls_max + self.more_calls

    def used_up(self, now_ms: int) -> Period | None:
        """The longest period whose calls are used up, where those of all time are not."""
        used_up = (period for period in reversed(self.periods) if period.is_used_up(now_ms))
        return None if self._has_used_up_calls() else next(used_up, None)

    def renews_ms(self, now_ms: int) -> int | None:
        """When it has calls anew. None: never."""
        return min((end for each in self.periods if (end := each.ends_ms(now_ms)) is not None), default=None)

    def granted(self, now_ms: int, *, another_call: bool) -> None:
        self.calls += another_call
        self.began_ms = self.began_ms or now_ms
        for period in self.periods:
            period.roll(now_ms)
            period.calls += another_call

    def take_back(self, granted_at_ms: int) -> None:
        """A call that got its first grant then has sent nothing under it."""
        self.calls -= 1
        for period in self.periods:
            period.calls -= granted_at_ms >= period.began_ms

    def loaded(self, calls: int, began_ms: int) -> None:
        """Adds the calls of which rows are stored; `began_ms`: when the first of them was granted."""
        if calls:
            self.calls += calls
            self.began_ms = min(self.began_ms or began_ms, began_ms)

    def looks_like_a_runaway(self, digest: str, now_ms: int, posted_in_minute: int) -> str | None:
        """Why a further call would make it one."""
        terms = self.runaway
        if terms is None:
            return None
        same = self.asked_for.get(digest, 0) if digest else 0
        calls = self.calls_of_minute if self.minute == now_ms // 60_000 else 0
        if terms.identical_calls is not None and same >= terms.identical_calls:
            return f"it has asked {same} times for the same thing"
        if terms.calls_per_minute is not None and calls >= terms.calls_per_minute:
            return f"it has made {calls} calls in a minute"
        if terms.usd_nanos_per_minute is not None and posted_in_minute >= terms.usd_nanos_per_minute:
            return f"it has spent {format_usd(posted_in_minute)} in a minute"
        return None

    def asks_for(self, digest: str, now_ms: int) -> None:
        """A call of it got its first grant."""
        if self.runaway is None:
            return
        minute = now_ms // 60_000
        self.calls_of_minute = self.calls_of_minute + 1 if self.minute == minute else 1
        self.minute = minute
        if digest:
            self.asked_for[digest] = self.asked_for.pop(digest, 0) + 1
            if len(self.asked_for) > DIGESTS_MAX:
                del self.asked_for[next(iter(self.asked_for))]

    def forget_what_was_asked_once(self) -> int:
        """Where there is no room for all. How many different things those were."""
        before = len(self.asked_for)
        self.asked_for = {digest: times for digest, times in self.asked_for.items() if times > 1}
        return before - len(self.asked_for)

    def go_on(self) -> None:
        """What it did so far counts no more."""
        self.held, self.calls_of_minute = "", 0
        self.asked_for.clear()


class Limits(NamedTuple):
    """What holds for a run, of what was asked for and of what its budgets say."""

    terms: RunTerms
    """Of all time."""
    renewed: Mapping[Window, RunTerms]
    """Of each window of a kind, the shortest first."""
    runaway: RunawayTerms | None
    watched: bool
    """Nothing of it binds: only budgets that are watched say it."""

    def account(self) -> AccountConfig:
        """Of the run's account."""
        caps: dict[Window, int] = {} if self.terms.usd_nanos is None else {"total": self.terms.usd_nanos}
        caps |= {window: each.usd_nanos for window, each in self.renewed.items() if each.usd_nanos is not None}
        return AccountConfig(caps_nanos=caps, alert_at=(), enforce=not self.watched)


def limits_of(run: Run, budgets: Sequence[AccountConfig], *, is_part: bool) -> Limits:
    """The lowest of each. What budgets say that are watched only counts where nothing else is said.

    What was asked for is renewed with the shortest of what budgets renew, but for the time. Budgets say nothing of a
    part of a run but when it is renewed.
    """
    binding = [each for each in budgets if each.enforce]
    watched = not binding and run.asked is None and bool(budgets) and not is_part
    budgets = budgets if watched else binding
    said = [each.per_run for each in budgets if each.per_run is not None]
    renewing: list[Window] = [window for window in RENEWAL_WINDOWS if any(each.renews == window for each in said)]
    if is_part:
        budgets, said, renewing = [], [], renewing[:1]
    if run.asked is not None:
        said.append(run.asked.model_copy(update={"renews": renewing[0] if renewing else None}))
    lasts_ms = [each.lasts_ms for each in said if each.lasts_ms is not None]
    runaway = [each.runaway for each in budgets if each.runaway is not None]
    return Limits(
        _terms(said, None).model_copy(update={"lasts_ms": min(lasts_ms, default=None)}),
        {window: _terms(said, window) for window in renewing},
        RunawayTerms(**_lowest(RunawayTerms.model_fields, runaway)) if runaway else None,
        watched,
    )


def _terms(said: Sequence[RunTerms], renews: Window | None) -> RunTerms:
    lowest = _lowest(("usd_nanos", "calls"), [each for each in said if each.renews == renews])
    return RunTerms(usd_nanos=lowest["usd_nanos"], calls=lowest["calls"])


def _lowest(names: Iterable[str], every: Sequence[Message]) -> dict[str, int | None]:
    """Of each limit; None where none of them has it."""
    said = {name: [getattr(each, name) for each in every] for name in names}
    return {name: min((most for most in limits if most is not None), default=None) for name, limits in said.items()}


def check_run(run: str, terms: tuple[RunTerms | None, ...]) -> None:
    """Raises ValueError, which says why, for a run that no request can name: its account could not be loaded."""
    check_run_path(run)
    if len(terms) > (levels := len(run_ancestors(run))):
        raise ValueError(f"limits are asked for {len(terms)} levels of a run, and {run} has {levels}")


def run_levels(run: str, terms: tuple[RunTerms | None, ...]) -> list[tuple[str, RunTerms | None]]:
    """The run and its parts down to this one, outermost first, with what a request asks for each."""
    paths = run_ancestors(run)[::-1]
    return list(zip(paths, (*terms, *[None] * (len(paths) - len(terms))), strict=True))
