"""Whether an account spends far more than it usually does, and on what.

Compared is an hour with the same hour of the week in the weeks before: a busy Monday morning is no news. The median and
the median of the distances from it (MAD) are not moved by a few odd weeks.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from paymaster.messages.spending import SPENT_ON_MAX, SpentOn, Unusual
from paymaster.reports.forecast import HOUR_MS, HOURS_OF_WEEK
from paymaster.values.budget_path import accounts_charged

WEEKS = 8
WEEK_MS = HOURS_OF_WEEK * HOUR_MS
WEEKS_NEEDED = 4
"""Of an account that is younger nobody knows what is usual."""
TIMES = 2
"""So many times the median: what is always the same may well be a little more."""
DEVIATIONS = 9
"""So many MADs above the median. Of a normal distribution a MAD is two thirds of a standard deviation."""


class Portion(NamedTuple):
    """What was spent under one budget, or several together, on one model of a service, by one run."""

    budgets: tuple[str, ...]
    """The first one is the row's own."""
    service: str
    model: str
    run: str | None
    nanos: int


def is_unusual(nanos: int, past: Sequence[int], floor_nanos: int) -> bool:
    """`past`: what was spent in the same hour of the weeks before; `floor_nanos`: what is less above it is no news."""
    if len(past) < WEEKS_NEEDED:
        return False
    usual = median(past)
    deviation = median([abs(each - usual) for each in past])
    return nanos >= usual + floor_nanos and nanos > TIMES * usual and nanos > usual + DEVIATIONS * deviation


def median(values: Sequence[int]) -> int:
    """Rounded down."""
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2


def past_of(hours_nanos: Mapping[int, int], now_ms: int) -> tuple[int, ...]:
    """What was spent in this hour of the week in each of the weeks before, the latest first, as far as it goes back.

    By sums of the clock's hours (UTC), by when they began: of the two in which the last 60 minutes lie, the larger one.
    """
    this_hour_ms = now_ms // HOUR_MS * HOUR_MS
    oldest_ms = min((at_ms for at_ms, nanos in hours_nanos.items() if nanos > 0), default=now_ms)
    ends_ms = [this_hour_ms - week * WEEK_MS for week in range(1, WEEKS + 1)]
    return tuple(
        max(hours_nanos.get(end_ms, 0), hours_nanos.get(end_ms - HOUR_MS, 0))
        for end_ms in ends_ms
        if oldest_ms <= end_ms
    )


def spent_by_account(portions: Iterable[Portion]) -> Counter[str]:
    spent: Counter[str] = Counter()
    for each in portions:
        spent.update(dict.fromkeys(_accounts(each), each.nanos))
    return spent


def unusual_accounts(
    portions: Sequence[Portion], past: Mapping[str, Sequence[int]], floor_nanos: int, told: Collection[str] = ()
) -> list[Unusual]:
    """Those of which people should know; `told` are those that they know of already.

    One event is one alert: runs come first, then budgets from below, then services, and an account in which only those
    before it are unusual is not named.
    """
    spent, found, explained = spent_by_account(portions), list[Unusual](), set[str]()
    candidates = [each for each in past if is_unusual(spent[each], past[each], floor_nanos)]
    for account in sorted(candidates, key=_from_below):
        own = [each for each in portions if account in _accounts(each)]
        rest = sum(each.nanos for each in own if explained.isdisjoint(_accounts(each)))
        if not is_unusual(rest, past[account], floor_nanos):
            continue
        explained.add(account)
        if account not in told:
            usual_nanos, parts = median(past[account]), _spent_on(account, own)
            found.append(Unusual(account=account, nanos=spent[account], usual_nanos=usual_nanos, spent_on=parts))
    return found


def _from_below(account: str) -> tuple[int, int, str]:
    kind, _, name = account.partition(":")
    return ("run", "budget", "service").index(kind), -name.count("/"), account


def _spent_on(account: str, portions: Sequence[Portion]) -> tuple[SpentOn, ...]:
    """The model, the run and the budget on which most was spent, the largest first."""
    parts = [
        SpentOn(what="model", name=name, nanos=nanos)
        for name, nanos in _most((f"{each.service}/{each.model}", each.nanos) for each in portions)
    ]
    parts += [
        SpentOn(what="run", name=name, nanos=nanos)
        for name, nanos in _most((each.run, each.nanos) for each in portions if each.run is not None)
        if account != f"run:{name}"
    ]
    parts += [
        SpentOn(what="budget", name=name, nanos=nanos)
        for name, nanos in _most((each.budgets[0], each.nanos) for each in portions)
        if account != f"budget:{name}"
    ]
    return tuple(sorted(parts, key=lambda part: -part.nanos)[:SPENT_ON_MAX])


def _most(spent: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """The name for which most was spent, if there is one."""
    sums: Counter[str] = Counter()
    for name, nanos in spent:
        sums[name] += nanos
    return sums.most_common(1)


def _accounts(portion: Portion) -> tuple[str, ...]:
    return accounts_charged(portion.budgets, portion.service, portion.run)
