"""How the capped accounts of a call stand: what is left in each window, and until when."""

from collections.abc import Iterable

from paymaster.admission.accounts import Balance
from paymaster.admission.books import Ledger
from paymaster.admission.on_demand import OnDemand
from paymaster.messages import AskStanding, BudgetNotice, Standing, StandingAnswer
from paymaster.values.budget_path import budgets_charged, check_budget_path
from paymaster.values.limits import NOTICES_MAX


def notice_of(balance: Balance, ledger: Ledger) -> BudgetNotice:
    """How a capped balance stands now."""
    b = balance
    return BudgetNotice(
        b.account,
        b.window,
        b.cap_nanos or 0,
        b.posted_nanos,
        b.pending_nanos,
        (),
        ledger.end_ms(b),
        ledger.accounts[b.account].enforced,
    )


def completed(notices: Iterable[BudgetNotice], ledger: Ledger) -> tuple[BudgetNotice, ...]:
    """The notices of a settlement with the ends of their windows; of too many, those with the least left."""
    kept = tuple(notices)
    if len(kept) > NOTICES_MAX:
        kept = tuple(sorted(kept, key=lambda notice: notice.left_nanos)[:NOTICES_MAX])
    for notice in kept:
        account = ledger.accounts[notice.account]
        notice.enforced = account.enforced
        notice.ends_at_ms = ledger.end_ms(account.balances[notice.window])
    return kept


def standing_of(asked: AskStanding, ledger: Ledger, on_demand: OnDemand) -> StandingAnswer:
    """How the budgets and those above them stand, or why that is not known.

    Of a name that a template stands for it is known when what it has spent is read, as for a call.
    """
    try:
        for budget in asked.budgets:
            check_budget_path(budget)
    except ValueError as error:
        return StandingAnswer(unknown=str(error))
    for key in (f"budget:{path}" for path in budgets_charged(asked.budgets)):
        if key not in ledger.accounts and on_demand.stands_for(key):
            if ledger.is_full:
                return StandingAnswer(unknown=f"{key}: the ledger has no room for another account", passing=True)
            on_demand.open(key)
    accounts = ledger.charged_accounts(asked, "")
    if asked.run is not None and (ended := _who_ended(asked.run, accounts, ledger, on_demand)) is not None:
        return StandingAnswer(unknown=ended)
    if not any(key.startswith("budget:") for key in accounts):
        return StandingAnswer(unknown=f"neither {' nor '.join(asked.budgets)} nor an ancestor is configured")
    if (loading := ledger.is_loading(accounts)) is not None:
        return StandingAnswer(unknown=f"{loading}: what was spent before is being loaded", passing=True)
    balances = [b for key in accounts if ledger.accounts[key].enforced for b in ledger.accounts[key].balances.values()]
    notices = sorted(
        (notice_of(b, ledger) for b in balances if b.cap_nanos is not None), key=lambda notice: notice.left_nanos
    )
    return StandingAnswer(standing=Standing(accounts=tuple(notices[:NOTICES_MAX])))


def _who_ended(run: str, accounts: tuple[str, ...], ledger: Ledger, on_demand: OnDemand) -> str | None:
    """That nothing is left of a run, also where only its name is known; None: it goes on."""
    for key in accounts:
        of = ledger.accounts[key].run
        if of is not None and of.ended_by:
            return f"{key} was ended by {of.ended_by}"
    ended = on_demand.ended(run)
    return None if ended is None else ended.detail
