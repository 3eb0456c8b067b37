"""A purchase as a call with one attempt: what is asked of the ledger, and what is stored of it."""

from paymaster.messages import Attempt, Billing, Candidate
from paymaster.messages.purchases import PurchaseEnd
from paymaster.values.cost_lines import Kind, in_one
from paymaster.values.money import Price

PURCHASE = "purchase"
"""Of a purchase, what stands where the model of a call does, and the source of its price."""
NOT_TOLD = "not_told"
"""The error class of a purchase whose buyer did not say what became of it."""
NOTHING_BOUGHT = "nothing_bought"
"""The error class of one that certainly cost nothing."""


def candidate_of(what: str, up_to_nanos: int) -> Candidate:
    """Its bound is exactly what it can cost."""
    price = Price(input_nanos=0, output_nanos=0, request_nanos=up_to_nanos, source=PURCHASE)
    return Candidate(service=what, model=PURCHASE, max_output_tokens=1, price=price, purchase=True)


def attempt_of(end: PurchaseEnd, begun_at_ms: int, ended_at_ms: int) -> Attempt:
    """Its attempt, with its cost where that is known."""
    attempt = Attempt(
        number=1,
        started_at_ms=begun_at_ms,
        duration_ms=max(0, ended_at_ms - begun_at_ms),
        billing=Billing.UNKNOWN,
        error_class=NOT_TOLD,
        paid_for=in_one(Kind.PURCHASE, 0),
    )
    match end.outcome:
        case "paid":
            paid = {"cost_nanos": end.cost_nanos, "paid_for": in_one(Kind.PURCHASE, end.cost_nanos)}
            return attempt.model_copy(update={"billing": Billing.BILLED, "error_class": None} | paid)
        case "nothing":
            return attempt.model_copy(update={"billing": Billing.NOT_BILLED, "error_class": NOTHING_BOUGHT})
        case "unknown":
            return attempt
