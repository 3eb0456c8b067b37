"""Runs and the holds that count for them: which runs a hold has, and what a run has taken under the holds here."""

from collections.abc import Collection, Mapping

from paymaster.admission.accounts import Account
from paymaster.admission.holds import Hold
from paymaster.admission.runs import Run
from paymaster.messages import Window


def runs_of(hold: Hold, accounts: Mapping[str, Account]) -> list[Run]:
    """Those of the hold's accounts that are runs, or parts of one."""
    if hold.grant.run is None:
        return []
    return [run for key in hold.accounts if (run := accounts[key].run) is not None]


def take_back(hold: Hold, accounts: Mapping[str, Account]) -> None:
    """The call of this hold sent nothing under its first grant: none of its runs has had it."""
    for run in runs_of(hold, accounts) if hold.is_first else ():
        run.take_back(hold.grant.granted_at_ms)


def is_held(path: str, holds: Collection[Hold]) -> bool:
    """Whether any of the holds is of this run or of a part of it."""
    return any(is_of(hold, path) for hold in holds)


def is_of(hold: Hold, path: str) -> bool:
    """Whether the hold is of this run or of a part of it."""
    run = hold.grant.run
    return run is not None and (run == path or run.startswith(f"{path}/"))


def count_anew(key: str, run: Run, holds: Collection[Hold], starts_ms: Mapping[Window, int]) -> None:
    """What the run of this account has taken, as far as holds say it. `starts_ms`: when the open windows began."""
    held = [hold for hold in holds if key in hold.accounts]
    run.calls = sum(hold.is_first for hold in held)
    for hold in held:
        run.began_ms = min(run.began_ms or hold.grant.granted_at_ms, hold.grant.granted_at_ms)
    for period in run.periods:
        period.begin(starts_ms[period.window])
        period.calls = sum(hold.is_first and hold.grant.granted_at_ms >= period.began_ms for hold in held)
