"""A provider's bill against the stored rows: for each day and model what was billed and what was posted, and why they
differ where the rows can tell."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from enum import StrEnum
from fractions import Fraction

from paymaster.reports.bill_formats import Bill
from paymaster.reports.bill_models import is_search, together
from paymaster.values.money import NANOS_PER_USD, format_usd

SEARCHES = "web searches"
ALL_MODELS = "all models"
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Posted:
    """What is stored of a model on a day."""

    day: date
    """UTC, of the grant."""
    model: str
    answered: str | None
    """The name that the service answered with."""
    attempts: int
    """Those that cost something."""
    cost_nanos: int
    searches_nanos: int = 0
    """Part of the cost: searches by the service itself."""
    into_next_day_nanos: int = 0
    """Part of the cost: of attempts that ended on a later day."""


@dataclass(frozen=True)
class Unconfirmed:
    """An attempt that is charged at its bound, because nobody knows what it did cost."""

    day: date
    attempt_id: str
    model: str
    charged_nanos: int


class Why(StrEnum):
    """What a difference comes from."""

    ROUNDING = "rounding"
    """Each attempt is rounded up to a nano-dollar, and the bill counts finer."""
    PARTIAL_DAY = "partial_day"
    """The day is not over, or the bill has a part of it."""
    MIDNIGHT = "midnight"
    """Attempts that ended on the next day: the bill has them there."""
    UNCONFIRMED = "unconfirmed"
    """Attempts that are charged at their bound."""
    UNKNOWN = "unknown"


STAYS = frozenset({Why.UNCONFIRMED, Why.UNKNOWN})
"""Differences that stay until somebody does something."""


@dataclass(frozen=True)
class Line:
    """A model on a day."""

    day: date
    model: str
    """One of ours where there is one, else the name on the bill."""
    billed_nanos: int
    posted_nanos: int
    unconfirmed_nanos: int = 0
    """Part of what was posted."""
    why: Why | None = None
    """None: they are equal."""
    words: str = ""
    """For people: what the difference comes from."""
    resolve: tuple[tuple[str, int], ...] = ()
    """Unconfirmed attempts, each with a cost by which this line agrees with the bill."""

    @property
    def difference_nanos(self) -> int:
        return self.billed_nanos - self.posted_nanos


@dataclass
class _Sums:
    """What there is of a group of names on a day."""

    billed: Fraction = Fraction(0)
    posted: int = 0
    attempts: int = 0
    into_next_day: int = 0
    unconfirmed: list[Unconfirmed] = field(default_factory=list[Unconfirmed])


def compare(
    bill: Bill,
    posted: Sequence[Posted],
    unconfirmed: Sequence[Unconfirmed],
    *,
    today: date,
    same: Mapping[str, str] | None = None,
) -> list[Line]:
    """Each day of the bill and each model of the bill or of the rows, in this order.

    What is stored of other days is left out. `today`: in UTC; that day is not over. `same`: names on the bill that are
    a model of ours, whatever they look like.
    """
    days = set(bill.days)
    rows = [row for row in posted if row.day in days]
    unsure = [each for each in unconfirmed if each.day in days]
    if any(is_search(charge.item) for charge in bill.charges):
        rows = [part for row in rows for part in _without_searches(row)]
    items = {charge.item for charge in bill.charges if not is_search(charge.item)}
    pairs = [(row.model, row.answered or row.model) for row in rows if row.model != SEARCHES]
    pairs += [(each.model, each.model) for each in unsure]
    group_of = {**together(pairs, sorted(items), same or {}), SEARCHES: SEARCHES}
    sums: dict[tuple[date, str], _Sums] = {}
    for charge in bill.charges:
        group = SEARCHES if is_search(charge.item) else group_of[charge.item]
        sums.setdefault((charge.day, group), _Sums()).billed += charge.usd * NANOS_PER_USD
    for row in rows:
        found = sums.setdefault((row.day, group_of[row.model]), _Sums())
        found.posted += row.cost_nanos
        found.attempts += row.attempts
        found.into_next_day += row.into_next_day_nanos
    for each in unsure:
        sums.setdefault((each.day, group_of[each.model]), _Sums()).unconfirmed.append(each)
    labels = _labels(group_of, {model for model, _ in pairs})
    partial = {day: "the day is not over" for day in days if day >= today} | dict(bill.partial)
    lines = {at: _line(at[0], labels.get(at[1], at[1]), found, partial) for at, found in sorted(sums.items())}
    return [line for line in _over_midnight(lines, sums).values() if line.billed_nanos or line.posted_nanos]


def _without_searches(row: Posted) -> Iterable[Posted]:
    yield replace(row, cost_nanos=row.cost_nanos - row.searches_nanos)
    if row.searches_nanos:
        yield replace(row, model=SEARCHES, answered=None, cost_nanos=row.searches_nanos, into_next_day_nanos=0)


def _labels(group_of: Mapping[str, str], ours: set[str]) -> dict[str, str]:
    """A name for each group: the shortest of ours, else the shortest on the bill."""
    names: dict[str, list[str]] = {}
    for name, group in group_of.items():
        names.setdefault(group, []).append(name)
    return {
        group: ALL_MODELS if "" in found else min(ours.intersection(found) or found, key=lambda name: (len(name), name))
        for group, found in names.items()
    }


def _line(day: date, model: str, sums: _Sums, partial: Mapping[date, str]) -> Line:
    billed = round(sums.billed)
    unsure = sum(each.charged_nanos for each in sums.unconfirmed)
    line = Line(day, model, billed, sums.posted, unsure)
    above = sums.posted - billed
    if above == 0:
        return line
    if day in partial:
        return replace(line, why=Why.PARTIAL_DAY, words=partial[day])
    if billed != sums.billed and 0 < above <= sums.attempts:
        words = (
            f"rounding: the bill counts finer, and each of {sums.attempts:,} attempts is rounded up to a nano-dollar"
        )
        return replace(line, why=Why.ROUNDING, words=words)
    if 0 < above <= unsure:
        return _resolved(line, sums.unconfirmed, unsure - above)
    return replace(line, why=Why.UNKNOWN, words=_unknown(line))


def _resolved(line: Line, unsure: Sequence[Unconfirmed], cost_nanos: int) -> Line:
    """What they cost together is known; each takes of it what it can have cost at most."""
    costs: list[tuple[str, int]] = []
    rest = cost_nanos
    for each in unsure:
        cost = min(rest, each.charged_nanos)
        costs.append((each.attempt_id, cost))
        rest -= cost
    words = f"the unconfirmed attempt did cost {format_usd(cost_nanos)}"
    if len(unsure) > 1:
        words = (
            f"the {len(unsure)} unconfirmed attempts did cost {format_usd(cost_nanos)} together; "
            "which of them how much, the bill does not say"
        )
    return replace(line, why=Why.UNCONFIRMED, words=words, resolve=tuple(costs))


def _unknown(line: Line) -> str:
    if not line.posted_nanos:
        return "no call of ours: is a key used without Paymaster, or is it a model of ours by another name (--model)?"
    if not line.billed_nanos:
        return "the bill has nothing: is it for other projects or accounts, or is it a model by another name (--model)?"
    if line.difference_nanos > 0:
        return "billed more than posted: calls without Paymaster, or a price that is too low"
    return "posted more than billed: a price that is too high, a discount, or a bill that is not complete"


def _over_midnight(
    lines: Mapping[tuple[date, str], Line], sums: Mapping[tuple[date, str], _Sums]
) -> dict[tuple[date, str], Line]:
    """Two days whose differences cancel out, where attempts of the first day ended on the second."""
    found = dict(lines)
    for (day, group), line in lines.items():
        after = found.get((day + _DAY, group))
        moved = -line.difference_nanos
        if after is None or not 0 < moved <= sums[day, group].into_next_day or after.difference_nanos != moved:
            continue
        if {line.why, after.why} <= STAYS:
            words = f"attempts for {format_usd(moved)} ended after midnight: the bill has them on the next day"
            found[day, group] = replace(line, why=Why.MIDNIGHT, words=words, resolve=())
            found[day + _DAY, group] = replace(after, why=Why.MIDNIGHT, words=words, resolve=())
    return found
