"""What a change of the books tells: thresholds that were crossed, windows that ended, amounts that do not fit."""

from typing import Literal, NamedTuple

from paymaster.admission.accounts import Account, Balance
from paymaster.messages import BudgetNotice, Window


class Crossed(NamedTuple):
    """A threshold that posted money reached for the first time in a window."""

    balance: Balance
    part: float


class Posted(NamedTuple):
    notices: tuple[BudgetNotice, ...]
    crossed: tuple[Crossed, ...]


class LetThrough(NamedTuple):
    """How many calls a cap, which is watched only, would have held up."""

    account: str
    window: Window
    cap_nanos: int
    calls: int
    ended: bool = True
    """The window has ended. False: its account leaves the books."""


def yet_to_tell(account: Account) -> list[LetThrough]:
    """What is to be told of an account when its windows end. That of `total` never does."""
    return [
        LetThrough(account.key, balance.window, balance.cap_nanos or 0, balance.let_through, ended=False)
        for balance in account.balances.values()
        if balance.let_through and balance.window != "total"
    ]


class Rolled(NamedTuple):
    """Windows ended and others began."""

    accounts: set[str]
    """Of which a capped window ended."""
    let_through: list[LetThrough]
    """What was watched in the windows that ended."""
    lapsed: bool
    """A raise lapsed with its window: what waits for something else may have become impossible."""


class Shortfall(NamedTuple):
    """Why an amount does not fit into an account now."""

    kind: Literal["impossible", "exhausted", "held"]
    """impossible: above the cap itself. exhausted: posted money is in the way. held: only pending holds are."""
    balance: Balance


SEVERITY = ("held", "exhausted", "impossible")
"""Kinds of shortfalls, the one that lasts longest last."""


def why_short(balance: Balance, cap_nanos: int, amount_nanos: int) -> Literal["impossible", "exhausted", "held"]:
    if amount_nanos > cap_nanos:
        return "impossible"
    return "exhausted" if balance.posted_nanos + amount_nanos > cap_nanos else "held"
