"""Raises that approvers give: who may raise which cap, by how much at once and in a day, and each button once."""

from paymaster.admission.accounts import Balance
from paymaster.admission.signed_commands import utc
from paymaster.admission.stale import ApprovalRefused
from paymaster.admission.state import Approved, DeskState
from paymaster.messages import Approval, ApproverConfig, DeskConfig, RaiseCap, RaiseOffer
from paymaster.values.budget_path import is_within
from paymaster.values.limits import APPROVALS_KEPT_MAX, OFFERS_MAX
from paymaster.values.money import format_usd
from paymaster.values.windows import ROLLING_MS, window_end_ms, window_start_ms

REMEMBER_KEPT = 200
"""So many raises are remembered however long their window and their day have been over, for a clock that goes back."""


def offer_of(config: DeskConfig, balance: Balance, ends_at_ms: int | None) -> RaiseOffer | None:
    """What approvers may do about a cap that is in the way. None: nobody may raise it until its window ends."""
    kind, _, budget = balance.account.partition(":")
    if kind != "budget" or balance.cap_nanos is None or ends_at_ms is None or balance.window in ROLLING_MS:
        return None
    offers = {nanos for each in config.approvers.values() if may_raise(each, budget) for nanos in each.offers_nanos}
    if not offers:
        return None
    by_nanos = tuple(sorted(offers)[:OFFERS_MAX])
    return RaiseOffer(cap_nanos=balance.cap_nanos, window_ends_at_ms=ends_at_ms, by_nanos=by_nanos)


def may_raise(approver: ApproverConfig, budget: str) -> bool:
    return any(is_within(budget, own) for own in approver.budgets)


class Approvals:
    def __init__(self, state: DeskState) -> None:
        self._state = state

    def check(self, change: RaiseCap, approval: Approval, by_nanos: int) -> None:
        """Who raises what, whatever the cap is now. Raises ApprovalRefused, which says why not."""
        approvers, (kind, _, budget) = self._state.config.approvers, change.account.partition(":")
        if self._state.rules < 2:
            raise ApprovalRefused("the ledger still runs by the rules of version 0.1.0, which know no approvals")
        approver = approvers.get(approval.by)
        if approver is None:
            known = ", ".join(sorted(approvers)) or "nobody"
            raise ApprovalRefused(f"there is no approver {approval.by!r}; [approvals] of the ledger has: {known}")
        if kind != "budget" or not may_raise(approver, budget):
            own = ", ".join(approver.budgets)
            raise ApprovalRefused(f"{approval.by} may raise caps of {own} and below, and not of {change.account}")
        if not change.until_window_end:
            raise ApprovalRefused("an approver raises a cap until its window ends, and not for good")
        if by_nanos > approver.per_raise_nanos:
            most = format_usd(approver.per_raise_nanos)
            raise ApprovalRefused(f"{approval.by} may raise by {most} at once, and not by {format_usd(by_nanos)}")

    def check_now(
        self, change: RaiseCap, approval: Approval, by_nanos: int, balance: Balance, ends_at_ms: int | None
    ) -> None:
        """Whether it is still to be raised, and within what is left of the approver's day. Raises ApprovalRefused."""
        state = self._state
        self._forget()
        if given := state.approved.get(approval.nonce):
            raise ApprovalRefused(
                f"{given.by} ({given.where}) raised {change.account} by {format_usd(given.nanos)} with it at "
                f"{utc(given.at_ms)}, and each is good for one raise"
            )
        if approval.window_ends_at_ms != ends_at_ms:
            raise ApprovalRefused(
                f"this was for the {change.window} of {change.account} that ended at {utc(approval.window_ends_at_ms)}"
            )
        if approval.cap_nanos != balance.cap_nanos:
            raise ApprovalRefused(
                f"the cap of {change.account} ({change.window}) is {format_usd(balance.cap_nanos or 0)} now and was "
                f"{format_usd(approval.cap_nanos)}: somebody changed it meanwhile (`paymaster budget log` says who)"
            )
        today_ms = window_start_ms("day", state.now_ms)
        raised = sum(
            each.nanos for each in state.approved.values() if each.by == approval.by and each.at_ms >= today_ms
        )
        most = state.config.approvers[approval.by].per_day_nanos
        if raised + by_nanos > most:
            ends = utc(window_end_ms("day", state.now_ms) or 0)
            raise ApprovalRefused(
                f"{approval.by} has raised by {format_usd(raised)} today and may by {format_usd(most)}: "
                f"{format_usd(max(0, most - raised))} is left until {ends}"
            )
        if len(state.approved) >= APPROVALS_KEPT_MAX:
            raise ApprovalRefused(
                f"the ledger remembers {APPROVALS_KEPT_MAX:,} approvals and takes no more: ask an admin"
            )

    def keep(self, approval: Approval, by_nanos: int) -> None:
        """It was given."""
        self._state.approved[approval.nonce] = Approved(
            by=approval.by,
            where=approval.where,
            nanos=by_nanos,
            at_ms=self._state.now_ms,
            window_ends_at_ms=approval.window_ends_at_ms,
        )

    def _forget(self) -> None:
        """Those of earlier days that could raise nothing again, because their window is over; not the latest, whose
        window would be open again if the clock went back."""
        state, today_ms = self._state, window_start_ms("day", self._state.now_ms)
        given = state.approved.items()
        over = [nonce for nonce, each in given if each.window_ends_at_ms <= state.now_ms and each.at_ms < today_ms]
        for nonce in over[: max(0, len(state.approved) - REMEMBER_KEPT)]:
            del state.approved[nonce]
