"""What another list of prices would change: every rate of it, whatever it depends on.

Whoever can change the list could empty a budget: of a price of zero nothing is ever posted. So what falls by more than
a part, or to zero, is told from the rest; somebody has to agree.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import ModelPrice, StartDateConstraint, TieredPrices, TimeOfDateConstraint

from paymaster.providers.price_list import find_listed
from paymaster.settings import ServiceSettings, Settings, split_candidate
from paymaster.values.money import Price

_SEARCHES = ("requests_kcount", "web_searches_kcount")
"""Fees, which nothing else covers where they are missing."""

Place = tuple[str, str, int]
"""When a rate holds, its name in the list, and the tokens of input above which it does."""
ListedRates = dict[Place, Decimal]


class ListChange(NamedTuple):
    """One rate that another list has another value for, or a model that it begins or ceases to have a price for."""

    name: str
    """`service/model`."""
    text: str
    needs_consent: bool
    """Money could leave without being counted: a price of zero, or one that falls by more than the configured part."""


def used_models(settings: Settings) -> set[str]:
    """The `service/model` that the configuration names."""
    configured = {f"{name}/{model}" for name, service in settings.services.items() for model in service.models}
    return {*configured, *(name for route in settings.routes.values() for name in route.names)}


def list_changes(
    settings: Settings, before: DataSnapshot, after: DataSnapshot, at: datetime, more: Iterable[str] = ()
) -> list[ListChange]:
    """What changes for every model that either list has at the services' addresses, and for those that the
    configuration or `more` names; a price of the configuration's own that is in force stays."""
    part = settings.prices.ask_at_fall
    names = {name for name in (*used_models(settings), *more) if split_candidate(name)[0] in settings.services}
    for name, service in settings.services.items():
        names |= {f"{name}/{model}" for snapshot in (before, after) for model in _models(service, snapshot)}
    found: list[ListChange] = []
    for name in sorted(names):
        service, model = split_candidate(name)
        if _own_price(settings.services[service], model, at) is None:
            old, new = (_rates(settings.services[service], model, snapshot) for snapshot in (before, after))
            found += _changes(name, old, new, part)
    return found


def _own_price(service: ServiceSettings, model: str, at: datetime) -> Price | None:
    configured = service.models.get(model)
    return None if configured is None else configured.price_at(at, "")


def _models(service: ServiceSettings, snapshot: DataSnapshot) -> Sequence[str]:
    try:
        provider = snapshot.find_provider(None, None, service.base_url)
    except LookupError:
        return ()
    return [model.id for model in provider.models]


def _rates(service: ServiceSettings, model: str, snapshot: DataSnapshot) -> ListedRates:
    """Every rate of a model, in whatever time or choice it holds."""
    found = find_listed(service, model, snapshot)
    if found is None:
        return {}
    info = found[1]
    conditions = [("", info.prices)] if isinstance(info.prices, ModelPrice) else []
    for window in () if isinstance(info.prices, ModelPrice) else info.prices:
        conditions.append((_time(window.constraint), window.prices))
    for variant in info.price_variants or ():
        chosen = ", ".join(f"{name}={word}" for name, word in sorted(variant.when.items()))
        conditions.append((f" at {chosen}{_time(variant.constraint)}", variant.prices))
    return {place: rate for when, prices in conditions for place, rate in _of_prices(when, prices)}


def _time(constraint: StartDateConstraint | TimeOfDateConstraint | None) -> str:
    match constraint:
        case StartDateConstraint():
            return f" from {constraint.start_date}"
        case TimeOfDateConstraint():
            return f" {constraint.start_time:%H:%M} to {constraint.end_time:%H:%M}"
        case None:
            return ""


def _of_prices(when: str, prices: ModelPrice) -> Iterator[tuple[Place, Decimal]]:
    for name, rate in prices.__dict__.items():
        if isinstance(rate, TieredPrices):
            yield (when, name, 0), rate.base
            yield from (((when, name, tier.start), tier.price) for tier in rate.tiers)
        elif isinstance(rate, Decimal):
            yield (when, name, 0), rate


def _changes(name: str, before: ListedRates, after: ListedRates, part: float) -> Iterator[ListChange]:
    had, has = _has_price(before), _has_price(after)
    if had and not has:
        yield ListChange(name, f"{name}: no price any more, so that its calls are refused", needs_consent=False)
    if not had and has:
        said = ", ".join(f"{_words(*place)} ${rate:f}" for place, rate in sorted(after.items()))
        is_free = any(rate == 0 for (_, kind, _), rate in after.items() if kind in ("input_mtok", "output_mtok"))
        yield ListChange(name, f"{name}: new, {said}", needs_consent=is_free)
    if not (had and has):
        return
    for place in sorted({*before, *after}):
        old, new = _reached(before, place), _reached(after, place)
        if old != new:
            falls = new == 0 or new < old * (1 - Decimal(str(part)))
            yield ListChange(name, f"{name}: {_words(*place)} ${old:f} → ${new:f}", needs_consent=old > new and falls)


def _has_price(rates: ListedRates) -> bool:
    return any(kind == "input_mtok" for _, kind, _ in rates)


def _reached(rates: ListedRates, place: Place) -> Decimal:
    """What is paid there: the rate itself, else the one that the list then takes for it; without any, nothing."""
    when, kind, above = place
    general = "output_mtok" if kind.startswith("output_") else "input_mtok"
    for each_when in (when, ""):
        for each_kind in (kind, *(() if kind in _SEARCHES else (general,))):
            starts = [start for at, name, start in rates if (at, name) == (each_when, each_kind) and start <= above]
            if starts:
                return rates[each_when, each_kind, max(starts)]
    return Decimal(0)


def _words(when: str, kind: str, above: int) -> str:
    what, _, unit = kind.rpartition("_")
    per = {"mtok": "", "kcount": " per thousand"}.get(unit, f" per {unit}")
    return f"{what.replace('_', ' ')}{per}{when}{f' above {above:,} tokens' if above else ''}"
