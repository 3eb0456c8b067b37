"""Tags of what admins change: a command may name the tag of what its sender saw, and is refused where it is another.

A tag follows from what admins decide (caps, raises, pauses, limits and ends of runs), and not from what is spent.
"""

import json
from hashlib import sha256

from paymaster.admission.books import Ledger
from paymaster.admission.stale import Stale
from paymaster.admission.state import DeskState
from paymaster.messages import (
    AdminMessage,
    EndRun,
    PauseService,
    RaiseCap,
    RaiseRun,
    ResumeRun,
    ResumeService,
    SetCap,
    UnsetCap,
)

NOTHING = "none"
"""The tag of an account or a service that is not there."""
SINCE_RULES = 2
"""A worker of version 0.1.0, which may go on with the run, would not know the field."""


def check_tag(change: AdminMessage, wanted: str, state: DeskState, ledger: Ledger) -> None:
    """Raises Stale where what the command changes has another tag, and ValueError for one that changes nothing which
    has tags."""
    if state.rules < SINCE_RULES:
        raise ValueError("the ledger still runs by the rules of version 0.1.0, which know no tags: `paymaster upgrade`")
    match change:
        case RaiseCap() | SetCap() | UnsetCap():
            what, tag = change.account, account_tag(ledger, change.account)
        case RaiseRun() | ResumeRun() | EndRun():
            what, tag = f"run:{change.run}", account_tag(ledger, f"run:{change.run}")
        case PauseService() | ResumeService():
            what, tag = change.service, service_tag(state, change.service)
        case _:
            raise ValueError("this command takes no tag")
    if tag != wanted:
        raise Stale(f"{what} was changed since it was read: its tag is {tag}, and not {wanted}")


def account_tag(ledger: Ledger, key: str) -> str:
    """Of its caps and, of a run, its limits."""
    account = ledger.accounts.get(key)
    if account is None:
        return NOTHING
    run = account.run
    caps = [
        (each.window, each.cap_nanos, each.lapsing_nanos)
        for each in account.balances.values()
        if each.cap_nanos is not None
    ]
    limits: tuple[object, ...] | None = None
    if run is not None:
        renewed = ((each.window, each.calls_max, each.more_calls) for each in run.periods)
        limits = (run.calls_max, run.more_calls, run.more_ms, run.ended_by, run.held, *renewed)
    return _digest(sorted(caps), account.enforced, limits)


def service_tag(state: DeskState, service: str) -> str:
    """Of the pause of an admin."""
    gate = state.gates.get(service)
    return NOTHING if gate is None else _digest(service, gate.paused_by)


def _digest(*parts: object) -> str:
    return sha256(json.dumps(parts).encode()).hexdigest()[:16]
