"""How a call gets its hold, or its denial."""

from paymaster.admission.alert_policy import AlertPolicy
from paymaster.admission.books import Ledger
from paymaster.admission.holds import EndedHold, Hold
from paymaster.admission.routing import Choice
from paymaster.admission.state import DeskState
from paymaster.messages import BudgetNotice, Denied, Grant, Granted, Reserve, ServiceConfig

_FORMER_SERVICE = ServiceConfig()
"""How a service is called that the configuration does not name: not any more, or because it is a purchase."""


class Granting:
    def __init__(self, state: DeskState, ledger: Ledger, alerts: AlertPolicy) -> None:
        self._state, self._ledger, self._alerts = state, ledger, alerts

    def grant(self, request: Reserve, choice: Choice) -> Granted:
        candidate, state = choice.candidate, self._state
        service = state.config.services.get(candidate.service, _FORMER_SERVICE)
        assert candidate.price is not None  # `choose` passes over a candidate without a price
        grant = Grant(
            hold_id=request.hold_id,
            budget=request.budget,
            further_budgets=request.further_budgets,
            run=request.run,
            service=candidate.service,
            model=candidate.model,
            price=candidate.price,
            max_output_tokens=candidate.max_output_tokens,
            bound_nanos=choice.bound_nanos,
            granted_at_ms=state.now_ms,
            expires_at_ms=state.now_ms + state.config.hold_expires_after_ms,
            epoch=state.epoch,
            timeout_ms=service.timeout_ms,
            retry=service.retry,
            max_retry_after_ms=service.max_retry_after_ms,
            max_unconfirmed=service.max_unconfirmed,
            counted_tokens=candidate.counted_tokens,
            money_short=candidate.short_below is not None,
        )
        state.latest_granted_ms = max(state.latest_granted_ms, state.now_ms)
        if state.rules >= 2 and not candidate.purchase:
            self._alerts.price(grant)
        hold = Hold(
            request.call,
            grant,
            choice.accounts,
            choice.tokens,
            running=not candidate.purchase,
            is_first=not request.granted_before,
        )
        over = self._ledger.hold(hold)
        self._alerts.let_through(over, grant)
        if request.run is not None and not request.granted_before:
            self._count_for_runs(request, choice.accounts)
        if not candidate.purchase:
            state.gates[candidate.service].breaker.started(request.hold_id)
        return Granted(grant=grant)

    def _count_for_runs(self, request: Reserve, accounts: tuple[str, ...]) -> None:
        for key in accounts:
            account, now_ms = self._ledger.accounts[key], self._state.now_ms
            if account.run is None or account.run.runaway is None:
                continue
            if account.run.watched:
                posted = account.balances["minute"].posted_nanos
                if why := account.run.looks_like_a_runaway(request.digest, now_ms, posted):
                    self._alerts.runaway(key.removeprefix("run:"), why, enforced=False)
            account.run.asks_for(request.digest, now_ms)

    def deny(self, hold_id: str, reason: str, detail: str, in_the_way: tuple[BudgetNotice, ...] = ()) -> Denied:
        denied = Denied(hold_id=hold_id, reason=reason, detail=detail, in_the_way=in_the_way)
        self._state.ended[hold_id] = EndedHold(self._state.now_ms, denied=denied)
        return denied
