"""What an answer costs, decided in two steps: `known_cost` when a worker reads it, `cost_nanos` wherever it is booked.

The first that is there decides: the service's own figure, the price of the configuration, the price of the model and
the tier that answered, the price that the grant was given for. An attempt of which nobody knows whether it was billed
costs its bound.
"""

from collections.abc import Callable
from typing import NamedTuple

from paymaster.messages import Attempt, Billing, Grant
from paymaster.values.money import NANOS_MAX, Price

CONFIGURATION = "configuration"
"""The source of a price that the configuration sets."""
OWN_FIGURE = "the service's own figure"
"""The source of a cost that the service itself named."""


class Cost(NamedTuple):
    """A cost with the place that it is known from."""

    nanos: int
    source: str


def cost_nanos(grant: Grant, attempt: Attempt) -> int:
    """The charge for one attempt: its known cost, else its usage at the grant's price; nothing if it was not billed;
    the bound while nobody knows."""
    match attempt.billing:
        case Billing.NOT_BILLED:
            return 0
        case Billing.BILLED if attempt.cost_nanos is not None:
            return min(attempt.cost_nanos, NANOS_MAX)
        case Billing.BILLED if attempt.usage is not None:
            return min(grant.price.cost_nanos(attempt.usage), NANOS_MAX)
        case _:
            return grant.bound_nanos


def cost_source(grant: Grant, attempt: Attempt) -> str:
    """Where the cost of an attempt is known from."""
    return attempt.cost_source or grant.price.source


def known_cost(granted: Price, own_figure_nanos: int | None, listed: Callable[[], Cost | None]) -> Cost | None:
    """The cost of an answer where it is known better than by the price of its grant; None: that price decides.

    A configured price is what the owner wants, whatever model answered: only the service's own figure is better.
    `listed` looks up the cost at the price of the model and the tier that answered.
    """
    if own_figure_nanos is not None:
        return Cost(own_figure_nanos, OWN_FIGURE)
    return None if granted.source == CONFIGURATION else listed()
