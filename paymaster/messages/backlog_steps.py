"""Between the usage backlog, its pieces and its activity."""

from pydantic import (
    Field,
)

from paymaster.messages.base import Message, added
from paymaster.messages.call_steps import UsageRecord


class BacklogBatch(Message):
    """Signal `add` of the usage backlog, and input of its activity `catch_up`."""

    records: tuple[UsageRecord, ...] = ()
    voids: tuple[str, ...] = ()
    """Hold ids."""


class CaughtUp(Message):
    rejected: tuple[str, ...] = ()
    """Holds whose records the database or the ledger refuses for good."""


class SetAsideSum(Message):
    """Records that are refused for good."""

    records: int = Field(default=0, ge=0)
    cost_nanos: int = Field(default=0, ge=0)

    def __add__(self, other: "SetAsideSum") -> "SetAsideSum":
        return SetAsideSum(records=self.records + other.records, cost_nanos=self.cost_nanos + other.cost_nanos)


class BacklogStart(Message):
    """Input of the usage backlog."""

    ledger: str
    waiting: str | None = None
    """A compressed BacklogBatch, carried by continue-as-new. None: nothing waits."""
    set_aside: tuple[UsageRecord, ...] = ()
    """Records that are refused for good, for a person to look at; without their metadata."""
    set_aside_more: SetAsideSum = added(SetAsideSum())
    """Older ones of that kind, which were too many to be kept."""
    pieces: int = added(0, ge=0)
    """How many workflows that took over a piece of what waited have not ended."""
    pieces_waiting: int = added(0, ge=0)
    """How many records and voids they took over."""


class BacklogPiece(Message):
    """Input of a workflow that takes over a piece of a usage backlog."""

    ledger: str
    waiting: str
    """A compressed BacklogBatch."""


class PieceEnded(Message):
    """Signal `piece_ended` to the usage backlog: a piece is stored and settled."""

    waited: int = Field(ge=0)
    """How many records and voids it took over."""
    set_aside: tuple[UsageRecord, ...] = ()
    set_aside_more: SetAsideSum = SetAsideSum()
