"""What an answer costs: each way to know it, and which of them comes first."""

import pytest
import records

from paymaster.calls.cost import (
    CONFIGURATION,
    OWN_FIGURE,
    Cost,
    cost_lines,
    cost_nanos,
    cost_source,
    known_cost,
    paid_for,
)
from paymaster.messages import Attempt, Billing
from paymaster.values.cost_lines import CostLine, Kind
from paymaster.values.money import NANOS_MAX, Price, TokenUsage

PRICE = Price(input_nanos=200_000_000, output_nanos=1_200_000_000, source="genai-prices")
CONFIGURED = PRICE.model_copy(update={"source": CONFIGURATION})
LISTED = Cost(7, "genai-prices of the model that answered")
GRANT = records.GRANT.model_copy(update={"price": PRICE})
USAGE = TokenUsage(input_tokens=1_000, output_tokens=50)
AT_ITS_PRICE = 1_000 * 200 + 50 * 1_200


@pytest.mark.parametrize("granted", [PRICE, CONFIGURED], ids=["listed price", "configured price"])
def test_the_services_own_figure_comes_before_every_price(granted: Price) -> None:
    assert known_cost(granted, 14_547_600, lambda: LISTED) == Cost(14_547_600, OWN_FIGURE)
    assert known_cost(granted, 0, lambda: LISTED) == Cost(0, OWN_FIGURE)


def test_a_configured_price_holds_whatever_model_answered() -> None:
    assert known_cost(CONFIGURED, None, lambda: LISTED) is None


def test_else_the_model_and_tier_that_answered_decide() -> None:
    assert known_cost(PRICE, None, lambda: LISTED) == LISTED
    assert known_cost(PRICE, None, lambda: None) is None


@pytest.mark.parametrize(
    ("billing", "known", "usage", "cost"),
    [
        (Billing.BILLED, 5, USAGE, 5),
        (Billing.BILLED, None, USAGE, AT_ITS_PRICE),
        (Billing.BILLED, None, None, GRANT.bound_nanos),
        (Billing.BILLED, 10**30, USAGE, NANOS_MAX),
        (Billing.NOT_BILLED, 5, USAGE, 0),
        (Billing.UNKNOWN, 5, USAGE, GRANT.bound_nanos),
    ],
)
def test_an_attempt_costs_what_is_known_of_it(
    billing: Billing, known: int | None, usage: TokenUsage | None, cost: int
) -> None:
    """The bound while nobody knows."""
    attempt = Attempt(number=1, started_at_ms=5, duration_ms=7, billing=billing, usage=usage, cost_nanos=known)
    assert cost_nanos(GRANT, attempt) == cost


def test_the_source_of_a_cost_is_its_own_or_that_of_the_grants_price() -> None:
    attempt = Attempt(number=1, started_at_ms=5, duration_ms=7, billing=Billing.BILLED)
    assert cost_source(GRANT, attempt) == PRICE.source
    assert cost_source(GRANT, attempt.model_copy(update={"cost_source": OWN_FIGURE})) == OWN_FIGURE


COUNTS = {Kind.INPUT: 1_000, Kind.OUTPUT: 50}
PRICED = (
    CostLine(kind="input", quantity=1_000, unit_price_nanos=200_000_000, cost_nanos=200_000),
    CostLine(kind="output", quantity=50, unit_price_nanos=1_200_000_000, cost_nanos=60_000),
)
USED = tuple(CostLine(kind=line.kind, quantity=line.quantity, cost_nanos=0) for line in PRICED)


def test_an_answer_is_paid_kind_by_kind_at_the_deciding_price() -> None:
    listed = Cost(7, "a list", (CostLine(kind="input", quantity=7, unit_price_nanos=10**6, cost_nanos=7),))
    assert paid_for(PRICE, listed, USAGE, COUNTS) == listed.lines
    assert paid_for(PRICE, None, USAGE, COUNTS) == PRICED
    assert paid_for(PRICE, None, None, {}) is None


@pytest.mark.parametrize("counts", [COUNTS, {}], ids=["with counts", "without"])
def test_the_services_own_figure_is_one_line_beside_the_counts(counts: dict[Kind, int]) -> None:
    """No token has a price that nobody charged."""
    lines = paid_for(PRICE, Cost(77, OWN_FIGURE), USAGE if counts else None, counts)
    figure = CostLine(kind="own_figure", quantity=1, cost_nanos=77)
    assert lines == ((*USED, figure) if counts else (figure,))


BOUND = CostLine(kind="bound", quantity=1, cost_nanos=GRANT.bound_nanos)


@pytest.mark.parametrize(
    ("billing", "known", "usage", "said", "lines"),
    [
        (Billing.BILLED, None, USAGE, PRICED, PRICED),
        (Billing.BILLED, 260_001, USAGE, PRICED, (*PRICED, CostLine(kind="adjustment", quantity=1, cost_nanos=1))),
        (Billing.BILLED, None, USAGE, None, None),
        (Billing.BILLED, 5, None, None, None),
        (Billing.BILLED, None, None, None, (BOUND,)),
        (Billing.NOT_BILLED, None, USAGE, PRICED, ()),
        (Billing.UNKNOWN, None, None, None, (BOUND,)),
        (Billing.UNKNOWN, None, USAGE, PRICED, (*USED, BOUND)),
    ],
)
def test_the_lines_of_an_attempt_follow_what_it_is_charged(
    billing: Billing,
    known: int | None,
    usage: TokenUsage | None,
    said: tuple[CostLine, ...] | None,
    lines: tuple[CostLine, ...] | None,
) -> None:
    """None: an older worker did not say, and nothing is made up."""
    attempt = Attempt(
        number=1, started_at_ms=5, duration_ms=7, billing=billing, usage=usage, cost_nanos=known, paid_for=said
    )
    assert cost_lines(GRANT, attempt) == lines
