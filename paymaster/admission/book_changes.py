"""What a change of the books tells: thresholds that were crossed, windows that ended, amounts that do not fit."""

from typing import Literal, NamedTuple

from paymaster.admission.accounts import Balance
from paymaster.messages import BudgetNotice, Window


class Crossed(NamedTuple):
    """A threshold that posted money reached for the first time in a window."""

    balance: Balance
    part: float


class Posted(NamedTuple):
    notices: tuple[BudgetNotice, ...]
    crossed: tuple[Crossed, ...]


class LetThrough(NamedTuple):
    """How many calls a cap, which is watched only, would have held up in a window that has ended."""

    account: str
    window: Window
    cap_nanos: int
    calls: int


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
