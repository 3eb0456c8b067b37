"""What a question for a hold may not ask, whatever money is left."""

from typing import NamedTuple

from paymaster.admission import alert_texts
from paymaster.admission.runs import check_run
from paymaster.messages import Reserve
from paymaster.values.budget_path import check_budget_path


class Wrong(NamedTuple):
    """Why nothing is looked at for it."""

    reason: str
    """A word for programs."""
    detail: str


def wrong_with(request: Reserve, rules: int) -> Wrong | None:
    """The first thing that is wrong with it, under these rules."""
    try:
        for budget in request.budgets:
            check_budget_path(budget)
    except ValueError as error:
        return Wrong("bad_budget", str(error))
    if request.further_budgets and rules < 2:
        return Wrong("bad_budget", alert_texts.SEVERAL_BUDGETS_NEED_RULES)
    if request.run is not None and rules < 2 and any(request.run_terms):
        return Wrong("bad_run", alert_texts.RUNS_NEED_RULES)
    try:
        if request.run is not None and rules >= 2:
            check_run(request.run, request.run_terms)
    except ValueError as error:
        return Wrong("bad_run", str(error))
    if rules < 2 and any(c.shares or c.short_below is not None for c in request.candidates):
        return Wrong("bad_route", alert_texts.POOLS_NEED_RULES)
    if rules < 2 and any(candidate.purchase for candidate in request.candidates):
        return Wrong("bad_purchase", alert_texts.PURCHASES_NEED_RULES)
    if not request.candidates:
        return Wrong("no_candidate", "no candidate of the route is left")
    return None
