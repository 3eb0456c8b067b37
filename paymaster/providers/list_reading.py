"""A list of prices that was brought from elsewhere, read and checked before anything is looked up in it.

Whoever can change the list must not stop a worker with it: sizes, numbers and patterns have bounds. What its prices
would change is another matter: see list_changes.
"""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, cast

from genai_prices.types import ModelPrice, Provider, Tier, TieredPrices
from pydantic import ConfigDict, TypeAdapter, ValidationError

from paymaster.values.limits import PRICE_LIST_BYTES_MAX

_PROVIDERS = TypeAdapter(list[Provider], config=ConfigDict(arbitrary_types_allowed=True))
_RATE_MAX = 10**6
_DECIMALS_MAX = 30
"""Some prices of the list were computed, and have the decimals of binary numbers: 0.18000000000000002."""
_NO_PRICES: dict[str, Any] = {"prices": {}, "price_variants": None}
_PATTERN_CHARACTERS_MAX = 300
_REPEATS_MAX = 2
"""Of any length, in one pattern: it then takes a time that grows with the square of a name of 200 characters."""
_ATOM = re.compile(r"\\.|\[[^\[\]]*\]")
_REPEATED_GROUP = re.compile(r"\)[*+{]")
_ENDLESS = re.compile(r"[*+]|\{[0-9]*,\}")
_LONG = re.compile(r"\{[0-9,]*[0-9]{3}")


class UnusableList(ValueError):
    """A list that is none, or that could stop a worker. The message says why."""


def read_list(data: bytes) -> list[Provider]:
    """The providers of a list in the form of genai-prices' data. Raises UnusableList.

    A model with a kind of price that this version of genai-prices does not know has none at all, so that its calls are
    refused and never charged too little.
    """
    if len(data) > PRICE_LIST_BYTES_MAX:
        raise UnusableList(f"it has more than {PRICE_LIST_BYTES_MAX:,} bytes")
    try:
        raw = json.loads(data, parse_float=Decimal, parse_constant=_no_number)
    except RecursionError:
        raise UnusableList("it is nested too deeply") from None
    except ValueError as error:
        raise UnusableList(f"it is not JSON: {error}") from None
    if not isinstance(raw, list) or not raw:
        raise UnusableList("it is no list of providers")
    for pattern in _patterns(cast(list[Any], raw)):
        _check_pattern(pattern)
    try:
        return _PROVIDERS.validate_python(_with_prices(raw))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise UnusableList(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _no_number(written: str) -> object:
    raise ValueError(f"{written} is no number")


def _patterns(value: Any) -> Iterator[object]:
    if isinstance(value, list):
        for each in cast(list[Any], value):
            yield from _patterns(each)
    elif isinstance(value, dict):
        for key, each in cast(dict[str, Any], value).items():
            if key in ("regex", "api_pattern"):
                yield each
            yield from _patterns(each)


def _check_pattern(pattern: object) -> None:
    """Only what is searched for in little time: no repeated group, few repeats. Raises UnusableList."""
    written = str(pattern)
    plain = _ATOM.sub("x", written[: _PATTERN_CHARACTERS_MAX + 1])
    slow = _REPEATED_GROUP.search(plain) or _LONG.search(plain) or len(_ENDLESS.findall(plain)) > _REPEATS_MAX
    if slow or len(written) > _PATTERN_CHARACTERS_MAX:
        raise UnusableList(f"the pattern {written[:100]!r} could take long to search for")
    try:
        re.compile(written)
    except re.error as error:
        raise UnusableList(f"the pattern {written[:100]!r} is none: {error}") from None


def _with_prices(value: Any) -> Any:
    """The data with genai-prices' own type for tables of prices, which pydantic cannot make."""
    if isinstance(value, list):
        return [_with_prices(each) for each in cast(list[Any], value)]
    if not isinstance(value, dict):
        return value
    table = cast(dict[str, Any], value)
    if "match" in table and not all(map(_is_known, _kinds_of_prices(table))):
        table = {**table, **_NO_PRICES}
    return {
        key: _model_price(cast(dict[str, Any], each))
        if key == "prices" and isinstance(each, dict)
        else _with_prices(each)
        for key, each in table.items()
    }


def _kinds_of_prices(value: Any) -> Iterator[str]:
    """Of a model, whatever its prices depend on."""
    if isinstance(value, list):
        for each in cast(list[Any], value):
            yield from _kinds_of_prices(each)
    elif isinstance(value, dict):
        for key, each in cast(dict[str, Any], value).items():
            if key == "prices" and isinstance(each, dict):
                yield from cast(dict[str, Any], each)
            else:
                yield from _kinds_of_prices(each)


def _model_price(written: dict[str, Any]) -> ModelPrice:
    return ModelPrice(**{name: _rate(name, rate) for name, rate in written.items() if rate is not None})


def _is_known(name: str) -> bool:
    return hasattr(ModelPrice(), name) and not hasattr(ModelPrice, name)


def _rate(name: str, written: Any) -> Decimal | TieredPrices:
    if not isinstance(written, dict):
        return _number(name, written)
    table = cast(dict[str, Any], written)
    tiers = table.get("tiers", [])
    if not isinstance(tiers, list):
        raise UnusableList(f"the tiers of {name} are no list")
    return TieredPrices(
        base=_number(name, table.get("base")), tiers=[_tier(name, tier) for tier in cast(list[Any], tiers)]
    )


def _tier(name: str, written: Any) -> Tier:
    tier = cast(dict[str, Any], written) if isinstance(written, dict) else {}
    start = tier.get("start")
    if type(start) is not int or not 0 <= start <= _RATE_MAX * 1_000:
        raise UnusableList(f"a tier of {name} begins at {str(start)[:40]}, which is no number of tokens")
    return Tier(start=start, price=_number(name, tier.get("price")))


def _number(name: str, written: Any) -> Decimal:
    if isinstance(written, int | Decimal) and not isinstance(written, bool) and 0 <= written <= _RATE_MAX:
        rate = Decimal(written)
        if int(rate.as_tuple().exponent) >= -_DECIMALS_MAX:
            return rate
    raise UnusableList(f"{name[:40]} is {str(written)[:40]}, which is no price")
