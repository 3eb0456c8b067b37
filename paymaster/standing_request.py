"""How workflows ask a worker what is left of some budgets."""

from collections.abc import Sequence
from datetime import timedelta

from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, FailureError

from paymaster.errors import StandingUnknown
from paymaster.messages import StandingRequest
from paymaster.values.limits import BUDGETS_OF_CALL_MAX

ASKED_FOR = timedelta(minutes=2)
"""A ledger that begins anew, or reads what was spent before, answers within."""
ANSWERED_WITHIN = timedelta(seconds=45)
"""More than the 30 s for which a worker tries."""
RETRIES = RetryPolicy(maximum_interval=timedelta(seconds=10))


def standing_request(budget: str | Sequence[str], run: str | None) -> StandingRequest:
    """Raises StandingUnknown for none, and for more than a call may name."""
    budgets = (budget,) if isinstance(budget, str) else tuple(budget)
    try:
        return StandingRequest(budgets=budgets, run=run)
    except ValueError:
        words = f"a question names 1 to {BUDGETS_OF_CALL_MAX} budgets, and this one {len(budgets)}"
        raise StandingUnknown(words) from None


def standing_unknown(failure: BaseException | None) -> StandingUnknown:
    """What the worker said last, or why nobody did."""
    while isinstance(failure, FailureError) and not isinstance(failure, ApplicationError) and failure.cause is not None:
        failure = failure.cause
    return StandingUnknown(failure.message if isinstance(failure, FailureError) else str(failure))
