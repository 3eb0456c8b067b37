"""How two prices of a model differ: every rate of them, in words."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from paymaster.admission.configuration import Difference
from paymaster.values.money import Price, format_usd
from paymaster.values.money import Rates as PricedRates

Rates = tuple[int, ...]
"""The price of a model in numbers: nano-dollars per million tokens of input, output, cached input and cache writes;
nano-dollars for each request; then for each tier the tokens of input above which it holds, and its own four."""
_TOKENS = ("input", "output", "cached input", "cache writes")
_CACHES = 2
"""Behind input and output: what follows the price of input where a provider has none for its cache."""
_REQUEST = len(_TOKENS)
_TIER = 1 + len(_TOKENS)


class PriceChange(NamedTuple):
    """One rate of a price that became another."""

    what: str
    old_nanos: int
    new_nanos: int
    per: str = "per million tokens"

    @property
    def by_more_than_half(self) -> bool:
        """It fell so."""
        return 2 * self.new_nanos < self.old_nanos

    def __str__(self) -> str:
        return f"{self.what} {format_usd(self.old_nanos)} → {format_usd(self.new_nanos)} {self.per}"


def rates_of(price: Price) -> Rates:
    tiers = (rate for tier in price.tiers for rate in (tier.above_input_tokens, *_four(tier)))
    return (*_four(price), price.request_nanos, *tiers)


def price_changes(before: Rates, after: Rates) -> list[PriceChange]:
    """What changed of what both know: the ledger's state once had input and output alone."""
    found = [*_of_tokens(before[:_REQUEST], after[:_REQUEST], "")]
    if len(before) <= _REQUEST:
        return found
    if before[_REQUEST] != after[_REQUEST]:
        found.append(PriceChange("request", before[_REQUEST], after[_REQUEST], "each"))
    for above in sorted({*_starts(before), *_starts(after)}):
        old, new = _reached(before, above), _reached(after, above)
        found += _of_tokens(old, new, f" above {above:,} tokens")
    return found


def price_differences(before: Mapping[str, Rates], after: Mapping[str, Rates]) -> tuple[Difference, ...]:
    """What other prices there are, by `service/model`; models that only one side knows are left out."""
    return tuple(
        Difference(f"{name} price {change}", loosens=change.new_nanos < change.old_nanos)
        for name in sorted(before.keys() & after.keys())
        for change in price_changes(before[name], after[name])
    )


def _four(rates: PricedRates) -> Rates:
    return rates.input_nanos, rates.output_nanos, rates.cached_nanos, rates.written_nanos


def _of_tokens(before: Rates, after: Rates, where: str) -> Iterator[PriceChange]:
    for number, (what, old, new) in enumerate(zip(_TOKENS, before, after, strict=False)):
        follows = number >= _CACHES and (old, new) == (before[0], after[0])
        if old != new and not follows:
            yield PriceChange(what + where, old, new)


def _starts(rates: Rates) -> Rates:
    return rates[_REQUEST + 1 :: _TIER]


def _reached(rates: Rates, above: int) -> Rates:
    """The four that hold for more tokens of input than that."""
    reached = rates[:_REQUEST]
    for begin in range(_REQUEST + 1, len(rates), _TIER):
        if rates[begin] <= above:
            reached = rates[begin + 1 : begin + _TIER]
    return reached
