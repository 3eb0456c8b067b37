"""The candidates of a route as a call's question to the ledger lists them."""

from collections.abc import Sequence
from typing import NamedTuple

from paymaster.settings.routes import RouteSettings


class Listed(NamedTuple):
    """A candidate in its place."""

    name: str
    """`service/model`."""
    bracket: int = 0
    """Those with the same number share the load."""
    weight: int = 1
    short_below: int | None = None
    """Of one for when the money is short: below how many millionths of a cap it is."""


def listed(route: RouteSettings) -> tuple[Listed, ...]:
    """First choice first; those for when the money is short come last."""
    below = None if route.when_short is None else round(route.when_short.below * 1_000_000)
    brackets = [*((each, None) for each in route.candidates), *((each, below) for each in route.cheaper)]
    return tuple(
        Listed(name, number, route.weights.get(name, 1), short_below)
        for number, (bracket, short_below) in enumerate(brackets)
        for name in bracket
    )


def shares(candidates: Sequence[Listed], number: int) -> bool:
    """Whether this one is in one bracket with the one before it, of those that are left of the route."""
    return number > 0 and candidates[number - 1].bracket == candidates[number].bracket
