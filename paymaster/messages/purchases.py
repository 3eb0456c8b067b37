"""What costs money and is no call of an LLM: asked for, ended and answered."""

import json
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from hashlib import sha256
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from paymaster.messages.base import Message, json_bytes
from paymaster.messages.requests import Budgets
from paymaster.messages.results import BudgetNotice, Standing
from paymaster.messages.runs import RunId, RunLimits, RunPart
from paymaster.values.limits import BUDGETS_OF_CALL_MAX, ID_CHARACTERS_MAX, METADATA_KEYS_MAX, PURCHASE_BYTES_MAX
from paymaster.values.money import NANOS_MAX, nanos_to_usd
from paymaster.values.run_path import check_run_path


class PurchaseRequest(BaseModel):
    """One thing that is to be bought. Unknown fields are refused, never dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str = Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")
    """Stands where the service of a call stands: in rows, reports and metrics. No service of the configuration."""
    budget: Budgets
    up_to_nanos: int = Field(gt=0, le=NANOS_MAX)
    """The most that it can cost, which is held until the cost is known."""
    priority: int = Field(default=0, ge=-100, le=100)
    on_exhausted: Literal["wait", "fail"] | None = None
    wait_at_most: timedelta | None = Field(default=None, ge=timedelta(milliseconds=1), le=timedelta(days=366))
    metadata: dict[str, str] = Field(default={}, max_length=METADATA_KEYS_MAX)
    """Stored with its rows, for reports."""
    run: RunId | None = None
    """The id of the run that it counts for. None: the run of the workflow that buys, with all its sub-agents."""
    run_limits: RunLimits | None = None
    run_parts: tuple[RunPart, ...] = ()

    @model_validator(mode="after")
    def _can_be_carried(self) -> Self:
        if not 0 < len(self.budgets) <= BUDGETS_OF_CALL_MAX:
            raise ValueError(f"a purchase names 1 to {BUDGETS_OF_CALL_MAX} budgets, and this one {len(self.budgets)}")
        check_run_path("/".join((self.run or "-", *(part.name for part in self.run_parts))))
        try:
            size = json_bytes(self)
        except ValueError as error:
            raise ValueError(f"a purchase holds what is no Unicode text: {error}") from error
        if size > PURCHASE_BYTES_MAX:
            raise ValueError(f"a purchase has {size:,} bytes as JSON and may have {PURCHASE_BYTES_MAX:,}")
        return self

    @property
    def budgets(self) -> tuple[str, ...]:
        """All that it names."""
        return (self.budget,) if isinstance(self.budget, str) else self.budget

    @property
    def call_id(self) -> None:
        """An id that its buyer chose: none does."""
        return

    def digest(self) -> str:
        """Tells whether two purchases are for the same."""
        asked = json.loads(self.model_dump_json(exclude_defaults=True))
        return sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class PurchaseBegin(Message):
    """An attempt to buy wants to pay now."""

    attempt: str = Field(max_length=ID_CHARACTERS_MAX)
    """Of one execution of the buyer's block. Another one for the same purchase may pay as well, under its own hold."""


class PurchaseBegun(Message):
    """What became of that."""

    state: Literal["granted", "parked", "taken", "superseded"]
    """taken: an earlier attempt has had the hold, or the purchase has its result. superseded: there is a later one."""


class PurchaseEnd(Message):
    """What the buyer says of it at its end."""

    outcome: Literal["paid", "nothing", "unknown"]
    """unknown: it may have been paid for."""
    cost_nanos: int = Field(default=0, ge=0, le=NANOS_MAX)
    """Of one that was paid for."""


class PurchaseOutcome(StrEnum):
    PAID = "paid"
    NOTHING = "nothing"
    """Nothing was bought."""
    UNCONFIRMED = "unconfirmed"
    """Nobody knows whether it was paid for: it is charged at the most that it can cost."""
    DENIED = "denied"
    """The budget or the configuration forbids it, or no ledger answered: nothing was held."""


class PurchaseResult(Message):
    """How a purchase ended."""

    outcome: PurchaseOutcome
    cost_nanos: int = 0
    """What it is charged at."""
    attempt_id: str | None = None
    """Of its stored row, for `paymaster unconfirmed resolve`. None: it has none."""
    waited_ms: int = 0
    """How long it was parked."""
    budget: tuple[BudgetNotice, ...] = ()
    """How the capped accounts of it stood when it was settled; of a denied one, those that had no room for it."""
    reason: str | None = None
    """When denied: a word for programs, such as `cap_reached`."""
    detail: str | None = None
    """When denied: a sentence for people."""

    @property
    def cost_usd(self) -> Decimal:
        return nanos_to_usd(self.cost_nanos)

    @property
    def standing(self) -> Standing:
        """What was left after it in each capped account that it counts for, as LLMResult has it of a call."""
        return Standing.of(self.budget)
