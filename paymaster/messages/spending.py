"""What a worker sees in the stored rows of a ledger and tells it, so that it tells people."""

from typing import Annotated, Literal

from pydantic import FailFast, Field

from paymaster.messages.base import Message
from paymaster.values.limits import BATCH_ITEMS_MAX
from paymaster.values.windows import Window

SPENT_ON_MAX = 3
"""Things that an alert names for which an account has spent."""


class Foreseen(Message):
    """A cap that will be used up before its window ends."""

    account: str
    window: Window
    used_up_at_ms: int
    by_pattern: bool
    """By the pattern of the last four weeks. False: at the rate of the last hour."""


class SpentOn(Message):
    """A part of what an account has spent."""

    what: Literal["model", "run", "budget"]
    name: str
    nanos: int


class Unusual(Message):
    """An account that has spent far more in an hour than it usually does at this time of the week."""

    account: str
    nanos: int
    """In the last hour."""
    usual_nanos: int
    """The median of the weeks before."""
    spent_on: Annotated[tuple[SpentOn, ...], Field(max_length=SPENT_ON_MAX)] = ()
    """The largest part of each kind."""


class SpendingReport(Message):
    """Signal `report_spending`."""

    foreseen: Annotated[tuple[Foreseen, ...], Field(max_length=BATCH_ITEMS_MAX), FailFast()] = ()
    unusual: Annotated[tuple[Unusual, ...], Field(max_length=BATCH_ITEMS_MAX), FailFast()] = ()
