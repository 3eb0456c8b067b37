"""What an answer costs, decided in two steps: `known_cost` when a worker reads it, `cost_nanos` wherever it is booked.

The first that is there decides: the service's own figure, the price of the configuration, the price of the model and
the tier that answered, the price that the grant was given for. An attempt of which nobody knows whether it was billed
costs its bound.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from paymaster.messages import Attempt, Billing, Grant
from paymaster.values.cost_lines import CostLine, Kind, Part, add_up, adding_up_to, at_price, in_one
from paymaster.values.money import NANOS_MAX, Price, TokenUsage

CONFIGURATION = "configuration"
"""The source of a price that the configuration sets."""
OWN_FIGURE = "the service's own figure"
"""The source of a cost that the service itself named."""


class Cost(NamedTuple):
    """A cost with the place that it is known from."""

    nanos: int
    source: str
    lines: tuple[CostLine, ...] = ()
    """What it was paid for, where a price list has a price for each kind."""


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


def paid_for(
    granted: Price, cost: Cost | None, usage: TokenUsage | None, counts: Mapping[Kind, int]
) -> tuple[CostLine, ...] | None:
    """What an answer was paid for: the lines of its cost, else its counts at the grant's price.

    The service's own figure is one line, beside counts without a price. None: the service did not say.
    """
    if cost is not None and cost.source != OWN_FIGURE:
        return cost.lines
    if cost is not None:
        used = add_up((Part(kind, count, None) for kind, count in counts.items()), 0)
        return in_one(Kind.OWN_FIGURE, cost.nanos, used)
    if usage is None:
        return None
    return add_up(at_price(granted, usage.input_tokens, counts), granted.cost_nanos(usage))


def cost_lines(grant: Grant, attempt: Attempt) -> tuple[CostLine, ...] | None:
    """What makes up the charge of `cost_nanos`, to the nano-dollar; nothing if it was not billed.

    None: an older worker read the answer, and did not say.
    """
    cost = cost_nanos(grant, attempt)
    match attempt.billing:
        case Billing.NOT_BILLED:
            return ()
        case Billing.BILLED if attempt.cost_nanos is not None or attempt.usage is not None:
            return None if attempt.paid_for is None else adding_up_to(attempt.paid_for, cost)
        case _:
            return in_one(Kind.BOUND, cost, attempt.paid_for or ())
