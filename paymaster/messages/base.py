"""What every message is made of: its base class, and fields that were added later."""

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
)

DefaultT = TypeVar("DefaultT")


def added(default: DefaultT, **constraints: Any) -> DefaultT:
    """A field that an earlier released version does not know: it is written only when it differs from its default.

    `reserved: int = added(0, ge=0)` for `reserved: int = Field(default=0, ge=0)`; `constraints` are those of pydantic's
    `Field`. An older reader then meets the field only where it is used: one that forbids unknown fields (LLMRequest,
    AdminMessage, Signature) refuses it there, any other reader ignores it. A new `kind` of a union and a new word of a
    Literal cannot be left out, and an older reader fails on them: the ledger writes them only under newer rules
    (`RULES` in paymaster/admission/state.py).
    """
    return Field(default=default, exclude_if=lambda value: value == default, **constraints)


class CountsForBudgets:
    """A message about money that counts for a budget, and perhaps for others and for a run."""

    if TYPE_CHECKING:  # the fields are each message's own, in its own order
        budget: str
        further_budgets: tuple[str, ...]
        run: str | None

    @property
    def budgets(self) -> tuple[str, ...]:
        """All that it counts for, besides their ancestors; the first one is its own."""
        return (self.budget, *self.further_budgets)


class Message(BaseModel):
    model_config = ConfigDict(frozen=True)


def json_bytes(message: BaseModel) -> int:
    """How long a message is in a payload."""
    return len(message.model_dump_json().encode())
