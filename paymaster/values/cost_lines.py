"""What the cost of an attempt was paid for: one line for each kind, which add up to the cost to the nano-dollar."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from fractions import Fraction
from math import ceil
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from paymaster.values.limits import COST_LINES_MAX
from paymaster.values.money import TOKENS_PER_PRICE, Price, Rates


class Kind(StrEnum):
    """What money is paid for. The kinds of tokens exclude each other: no token is in two lines."""

    INPUT = "input"
    """Text that was neither read from a cache nor written to one, and whatever the service does not tell apart."""
    CACHED_INPUT = "cached_input"
    CACHE_WRITE = "cache_write"
    """Kept for the service's usual time."""
    CACHE_WRITE_1H = "cache_write_1h"
    """Kept for an hour."""
    INPUT_AUDIO = "input_audio"
    CACHED_AUDIO = "cached_audio"
    INPUT_IMAGE = "input_image"
    """Images or documents."""
    CACHED_IMAGE = "cached_image"
    INPUT_VIDEO = "input_video"
    CACHED_VIDEO = "cached_video"
    OUTPUT = "output"
    """Text without the reasoning."""
    REASONING = "reasoning"
    OUTPUT_AUDIO = "output_audio"
    OUTPUT_IMAGE = "output_image"
    OUTPUT_VIDEO = "output_video"
    WEB_SEARCH = "web_search"
    """A search by the service itself."""
    PURCHASE = "purchase"
    """What is no call, such as the fee of a tool."""
    REQUEST = "request"
    """A fee for the request, whatever its size."""
    OWN_FIGURE = "own_figure"
    """All of the attempt, by what the service itself says that it charges."""
    BOUND = "bound"
    """All of the attempt, while nobody knows what it did cost."""
    RESOLVED = "resolved"
    """All of the attempt, or a correction, by what an admin found on the provider's bill."""
    ADJUSTMENT = "adjustment"
    """The difference between a charge and its other lines: counts that contradict each other, a cost that is cut."""


NOT_RECORDED = "not recorded"
"""In reports, what was stored before there were lines."""

READ = (Kind.CACHED_INPUT, Kind.CACHED_AUDIO, Kind.CACHED_IMAGE, Kind.CACHED_VIDEO)
WRITTEN = (Kind.CACHE_WRITE, Kind.CACHE_WRITE_1H)
INPUT = (Kind.INPUT, *READ, *WRITTEN, Kind.INPUT_AUDIO, Kind.INPUT_IMAGE, Kind.INPUT_VIDEO)
OUTPUT = (Kind.OUTPUT, Kind.REASONING, Kind.OUTPUT_AUDIO, Kind.OUTPUT_IMAGE, Kind.OUTPUT_VIDEO)

UNITS: Mapping[str, str] = {
    **dict.fromkeys((*INPUT, *OUTPUT), "tokens"),
    Kind.WEB_SEARCH: "searches",
    Kind.PURCHASE: "purchases",
    Kind.REQUEST: "requests",
    **dict.fromkeys((Kind.OWN_FIGURE, Kind.BOUND, Kind.RESOLVED, Kind.ADJUSTMENT), "attempts"),
}
"""What the quantity of each kind counts."""


class CostLine(BaseModel):
    """A part of the cost of one attempt. Without a unit price it only says what was used: another line has the cost."""

    model_config = ConfigDict(frozen=True)

    kind: str
    """One of `Kind`, or a word of a later version."""
    quantity: int
    """In the unit that `UNITS` has for the kind."""
    unit_price_nanos: int | None = Field(default=None, exclude_if=lambda value: value is None)
    """Nano-dollars per million tokens, or for one of anything else. Where a factor makes it finer, rounded up."""
    cost_nanos: int
    """Negative only where a charge is taken back."""
    model: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The name that the price list has for it, where several models had a part. None: there was one."""


class Part(NamedTuple):
    """A quantity with its exact price."""

    kind: Kind
    quantity: int
    price: Fraction | None
    """Nano-dollars per million tokens, or for one of anything else. None: it has no price of its own."""
    model: str | None = None


def add_up(parts: Iterable[Part], total_nanos: int) -> tuple[CostLine, ...]:
    """A line for each kind, price and model, which together cost exactly the total.

    A line ends at the rounded-up cost of it and all before it, and the total is never passed: so each is within a
    nano-dollar of its quantity at its price, and none is negative. What then is left of the total is an adjustment.
    """
    quantities: dict[Part, int] = {}
    for part in parts:
        same = part._replace(quantity=0)
        quantities[same] = quantities.get(same, 0) + part.quantity
    found = sorted(
        (part._replace(quantity=quantity) for part, quantity in quantities.items() if quantity),
        key=lambda part: (part.model or "", _ORDER[part.kind]),
    )
    exact, booked = Fraction(0), 0
    lines: list[CostLine] = []
    for part in found:
        exact += part.quantity * (part.price or Fraction(0)) / _priced_at_once(part.kind)
        end = min(ceil(exact), total_nanos)
        lines.append(
            CostLine(
                kind=part.kind,
                quantity=part.quantity,
                unit_price_nanos=None if part.price is None else ceil(part.price),
                cost_nanos=end - booked,
                model=part.model,
            )
        )
        booked = end
    return adding_up_to(_few(lines), total_nanos)


def adding_up_to(lines: Sequence[CostLine], total_nanos: int) -> tuple[CostLine, ...]:
    """The lines, with an adjustment where they cost another sum."""
    rest = total_nanos - sum(line.cost_nanos for line in lines)
    return (*lines, CostLine(kind=Kind.ADJUSTMENT, quantity=1, cost_nanos=rest)) if rest else tuple(lines)


def at_price(price: Price, input_tokens: int, counts: Mapping[Kind, int]) -> list[Part]:
    """The counts at what the price has for each kind. It has none for searches."""
    rates = price.rates_at(input_tokens)
    parts = [Part(kind, count, _rate(rates, kind)) for kind, count in counts.items()]
    return [*parts, Part(Kind.REQUEST, 1, Fraction(price.request_nanos))] if price.request_nanos else parts


def only_quantities(lines: Iterable[CostLine]) -> tuple[CostLine, ...]:
    """What was used, for an attempt whose cost is not made of it."""
    used = [line for line in lines if line.kind in UNITS and UNITS[line.kind] != "attempts"]
    return tuple(CostLine(kind=line.kind, quantity=line.quantity, cost_nanos=0, model=line.model) for line in used)


def in_one(kind: Kind, cost_nanos: int, used: Iterable[CostLine] = ()) -> tuple[CostLine, ...]:
    """The whole cost in one line, after what was used for it."""
    return (*only_quantities(used), CostLine(kind=kind, quantity=1, cost_nanos=cost_nanos))


_ORDER = {kind: number for number, kind in enumerate(Kind)}


def _priced_at_once(kind: Kind) -> int:
    return TOKENS_PER_PRICE if UNITS[kind] == "tokens" else 1


def _rate(rates: Rates, kind: Kind) -> Fraction | None:
    if kind in READ:
        return Fraction(rates.cached_nanos)
    if kind in WRITTEN:
        return Fraction(rates.written_nanos)
    if kind in OUTPUT:
        return Fraction(rates.output_nanos)
    return Fraction(rates.input_nanos) if kind in INPUT else None


def _few(lines: Sequence[CostLine]) -> Sequence[CostLine]:
    """One line for each kind, without models and prices, where there would be too many to carry."""
    if len(lines) <= COST_LINES_MAX:
        return lines
    together: dict[str, CostLine] = {}
    for line in sorted(lines, key=lambda line: _ORDER[Kind(line.kind)]):
        so_far = together.get(line.kind)
        together[line.kind] = CostLine(
            kind=line.kind,
            quantity=line.quantity + (so_far.quantity if so_far else 0),
            cost_nanos=line.cost_nanos + (so_far.cost_nanos if so_far else 0),
        )
    return list(together.values())
