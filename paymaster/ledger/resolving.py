"""Attempts of which nobody knows whether they were billed: a person says what they did cost.

First a final row is stored, then the books get it, as for every attempt.
"""

from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.ledger.handle import Ledger
from paymaster.messages import CallRef, Settle, UnconfirmedEntry, UsageEntry
from paymaster.storage.usage_rows import entries_of_attempt, insert_entries
from paymaster.values.cost_lines import Kind, in_one
from paymaster.values.money import format_usd, nanos_to_usd


class CannotResolve(Exception):
    """Nothing was stored. The message says why."""


class NotUnconfirmed(CannotResolve):
    """There is no such attempt."""


class AboveBound(CannotResolve):
    """It is more than the attempt can have cost."""


class Resolution(NamedTuple):
    """What counted before, corrections added up, and the row that says what it did cost."""

    before: UsageEntry
    new: UsageEntry
    bound_nanos: int
    cost_nanos: int

    @property
    def budgets(self) -> tuple[str, ...]:
        return self.before.budget, *self.before.further_budgets

    def correction(self) -> dict[str, object]:
        """For a `CorrectSpend`, which tells it to a ledger that does not have the hold any more."""
        said: dict[str, object] = self.before.model_dump(
            include={"hold_id", "budget", "further_budgets", "run", "service"}
        )
        return {
            **said,
            "granted_at_ms": max(1, self.before.granted_at_ms),
            "from_usd": f"{nanos_to_usd(self.before.cost_nanos):.9f}",
            "to_usd": f"{nanos_to_usd(self.cost_nanos):.9f}",
        }


async def find_resolution(engine: AsyncEngine, ledger: str, attempt: str, cost_nanos: int) -> Resolution:
    """What resolving an attempt would store. Raises NotUnconfirmed."""
    entries = await entries_of_attempt(engine, ledger, attempt)
    unsure = next((entry for entry in entries if entry.state == "unconfirmed"), None)
    if unsure is None:
        raise NotUnconfirmed(f"{attempt} is not an unconfirmed attempt; see `paymaster unconfirmed list`")
    finals = [entry for entry in entries if entry.state == "final"]
    if finals:
        before = finals[0].model_copy(update={"cost_nanos": sum(entry.cost_nanos for entry in finals)})
        correction = cost_nanos - before.cost_nanos
        difference = {"cost_nanos": correction, "status": "corrected", "usage": None}
        lines = {"paid_for": in_one(Kind.RESOLVED, correction)}
        new = before.model_copy(update=difference | lines | {"attempt_id": f"{attempt}/correction/{len(finals)}"})
    else:
        lines = {"paid_for": in_one(Kind.RESOLVED, cost_nanos, used=unsure.paid_for or ())}
        before, new = unsure, unsure.model_copy(update={"state": "final", "cost_nanos": cost_nanos} | lines)
    return Resolution(before, new, unsure.cost_nanos, cost_nanos)


async def store_resolution(engine: AsyncEngine, ledger: Ledger, found: Resolution, *, force: bool) -> None:
    """Stores its row. `force`: also of more than the attempt can have cost. Raises CannotResolve."""
    if found.cost_nanos > found.bound_nanos and not force:
        raise AboveBound(
            f"{found.before.attempt_id} can have cost {format_usd(found.bound_nanos)} at most, and "
            f"{format_usd(found.cost_nanos)} is more: is the amount right?"
        )
    before, is_first = found.before, found.before.state == "unconfirmed"
    if is_first and before.status == "expired":
        call = CallRef(workflow_id=before.workflow_id, run_id=before.run_id)
        if await ledger.is_running(call):
            raise CannotResolve(
                f"{call.workflow_id} is still running and will report itself what it did cost; wait, or cancel it"
            )
    if is_first or found.new.cost_nanos != 0:
        await insert_entries(engine, [found.new])


async def settle_resolution(ledger: Ledger, epoch: str, found: Resolution) -> bool:
    """Whether the books of this epoch have the hold, and so know now what it did cost. Raises LedgerNotFound and
    AdminRefused."""
    before, new = found.before, found.new
    if before.state != "unconfirmed" or before.epoch != epoch:
        return False
    # The hold's other attempts were certainly not billed: their cost is zero.
    said = before.model_dump(include={"budget", "further_budgets", "run", "service", "granted_at_ms"})
    entry = UnconfirmedEntry(**said, posted_nanos=before.cost_nanos)
    settle = Settle(hold_id=new.hold_id, cost_nanos=found.cost_nanos, epoch=new.epoch, corrects=entry)
    (answer,) = await ledger.send([settle])
    return answer.kind == "settled"
