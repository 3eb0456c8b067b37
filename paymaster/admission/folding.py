"""Unconfirmed holds that are kept as a sum of each of their accounts: the database has an entry of each of them."""

from collections.abc import Set

from paymaster.admission.books import Ledger


def fold(ledger: Ledger, keep: int, spared: Set[str]) -> int | None:
    """Takes unconfirmed holds out of the books until `keep` are left, the oldest first: their money stays posted, and
    their place among the calls at once is free. Returns when the latest of them was granted; None: there was none.

    `spared` are hold ids of which no entry is stored yet.
    """
    over, latest_ms = ledger.unconfirmed - keep, None
    for hold_id in [hold_id for hold_id, hold in ledger.holds.items() if hold.state == "unconfirmed"]:
        if over <= 0:
            break
        if hold_id in spared:
            continue
        hold = ledger.holds.pop(hold_id)
        ledger.state.folded_purchases += not hold.is_of_service
        ledger.unconfirmed -= 1
        over -= 1
        ledger.release(hold, None, 0)
        ledger.mark(hold.accounts)
        for key in hold.accounts:
            ledger.accounts[key].folded += 1
            ledger.accounts[key].folded_nanos += hold.posted_nanos
        latest_ms = max(latest_ms or 0, hold.grant.granted_at_ms)
    return latest_ms


def folded(ledger: Ledger) -> int:
    """Unconfirmed attempts that are no holds any more. Each is in one service's account, or a purchase."""
    of_services = (account.folded for key, account in ledger.accounts.items() if _is_of_service(key))
    return sum(of_services) + ledger.state.folded_purchases


def _is_of_service(account: str) -> bool:
    return account.startswith("service:")


def correct_folded(
    ledger: Ledger, accounts: tuple[str, ...], granted_at_ms: int, posted_nanos: int, cost_nanos: int
) -> bool:
    """Posts what a folded attempt did cost instead of what it was posted at. False, and nothing is changed, where an
    account has not folded so much, or is being loaded."""
    lines = [ledger.accounts[key] for key in accounts]
    if not lines or any(line.loading or not line.folded or posted_nanos > line.folded_nanos for line in lines):
        return False
    ledger.mark(accounts)
    if not any(map(_is_of_service, accounts)):
        ledger.state.folded_purchases = max(0, ledger.state.folded_purchases - 1)
    for line in lines:
        line.folded -= 1
        line.folded_nanos -= posted_nanos
        starts = ledger.calendars.starts_ms(line.time_zone)
        for window, balance in line.balances.items():
            if granted_at_ms >= starts[window]:
                balance.post(cost_nanos - posted_nanos, granted_at_ms)
    return True
