"""How windows end: those of the calendar begin anew with nothing spent, and rolling ones leave their oldest steps."""

from collections.abc import Mapping, Sequence

from paymaster.admission.accounts import Account, Balance
from paymaster.admission.book_changes import LetThrough, Rolled
from paymaster.admission.calendars import Calendars
from paymaster.admission.holds import Hold


def roll_windows(
    accounts: Mapping[str, Account], pending: Mapping[str, Hold], calendars: Calendars, now_ms: int
) -> Rolled:
    """Starts the windows of `now_ms` in the accounts. `pending`: the holds that were not settled yet."""
    rolled: set[str] = set()
    lapsed, let_through = False, list[LetThrough]()
    if not (ended := calendars.ended(now_ms)):
        return Rolled(rolled, let_through, lapsed)
    calendars.begin(now_ms)
    rolling: list[tuple[Account, Balance]] = []
    for account in accounts.values():
        for window in ended.get(account.time_zone, ()):
            balance = account.balances.get(window)
            if balance is None:
                continue
            if balance.let_through:
                let_through.append(LetThrough(account.key, window, balance.cap_nanos or 0, balance.let_through))
                balance.let_through = 0
            if balance.steps is not None:
                rolling.append((account, balance))
                rolled.add(account.key)
                continue
            balance.posted_nanos = balance.pending_nanos = balance.alert_from_nanos = 0
            balance.kept_nanos = balance.missing_nanos = 0
            balance.alerted = frozenset()
            if balance.cap_nanos is not None:
                lapsed = lapsed or balance.lapsing_nanos > 0
                balance.cap_nanos -= balance.lapsing_nanos
                balance.lapsing_nanos = 0
                rolled.add(account.key)
    _roll_on(rolling, pending, calendars)
    return Rolled(rolled, let_through, lapsed)


def _roll_on(rolling: Sequence[tuple[Account, Balance]], pending: Mapping[str, Hold], calendars: Calendars) -> None:
    """The oldest steps of rolling windows leave them, and with them what is held since then; in one pass over the
    holds."""
    found: dict[str, list[tuple[int, Balance]]] = {}
    for account, balance in rolling:
        start_ms = calendars.starts_ms(account.time_zone)[balance.window]
        balance.leave_steps_before(start_ms)
        balance.missing_nanos = min(balance.missing_nanos, balance.posted_nanos)
        balance.pending_nanos = 0
        found.setdefault(account.key, []).append((start_ms, balance))
        account.tell_again(balance)
    for hold in pending.values() if found else ():
        for key in hold.accounts:
            for start_ms, balance in found.get(key, ()):
                if hold.grant.granted_at_ms >= start_ms:
                    balance.pending_nanos += hold.grant.bound_nanos
