"""From attempts to the rows that are stored and the settlement that is posted: one place, so that the books agree."""

from paymaster.calls.cost import cost_lines, cost_nanos, cost_source
from paymaster.messages import (
    Attempt,
    Billing,
    CallRef,
    Grant,
    Settle,
    UsageEntry,
    UsageRecord,
    call_id_of,
)
from paymaster.values.cost_lines import Kind, in_one


def entries_of(record: UsageRecord, ledger: str) -> tuple[UsageEntry, ...]:
    """One row for each attempt under the hold, failed ones too."""
    answered = record.attempts[-1].number if record.answered else None
    return tuple(
        _entry(record.grant, record.call, ledger).model_copy(
            update={
                "attempt_id": f"{record.grant.hold_id}/{attempt.number}",
                "state": "unconfirmed" if attempt.billing is Billing.UNKNOWN else "final",
                "model_answered": attempt.model_answered,
                "started_at_ms": attempt.started_at_ms,
                "duration_ms": attempt.duration_ms,
                "status": _status(attempt, answered=attempt.number == answered),
                "error_class": attempt.error_class,
                "http_status": attempt.http_status,
                "provider_request_id": attempt.provider_request_id,
                "usage": attempt.usage,
                "cost_nanos": cost_nanos(record.grant, attempt),
                "price_source": cost_source(record.grant, attempt),
                "paid_for": cost_lines(record.grant, attempt),
                "metadata": record.metadata,
                "dialect": record.dialect,
            }
        )
        for attempt in record.attempts
    )


def settlement_of(record: UsageRecord) -> Settle:
    """Posts what the rows of `entries_of` say, neither more nor less."""
    grant, attempts = record.grant, record.attempts
    confirmed = all(attempt.billing is not Billing.UNKNOWN for attempt in attempts)
    used = [attempt.usage.input_tokens + attempt.usage.output_tokens for attempt in attempts if attempt.usage]
    return Settle(
        hold_id=grant.hold_id,
        cost_nanos=sum(cost_nanos(grant, attempt) for attempt in attempts),
        confirmed=confirmed,
        tokens=sum(used) if confirmed else None,
        served=record.answered,
        failures=sum(attempt.trips_breaker for attempt in attempts),
        epoch=grant.epoch,
        unknown_attempt=next(
            (f"{grant.hold_id}/{attempt.number}" for attempt in attempts if attempt.billing is Billing.UNKNOWN), None
        ),
    )


def expiry_entry(grant: Grant, call: CallRef, ledger: str) -> UsageEntry:
    """The unconfirmed row of a hold that nobody settled in time, at its bound."""
    return _entry(grant, call, ledger)


def expiry_correction(grant: Grant, call: CallRef, ledger: str) -> UsageEntry:
    """Supersedes `expiry_entry` when the hold is settled after all: the attempts' own rows have the cost."""
    return _entry(grant, call, ledger).model_copy(update={"state": "final", "cost_nanos": 0, "paid_for": ()})


def _entry(grant: Grant, call: CallRef, ledger: str) -> UsageEntry:
    """What all rows of a hold have in common, as the row of its expiry."""
    return UsageEntry(
        attempt_id=f"{grant.hold_id}/expiry",
        state="unconfirmed",
        hold_id=grant.hold_id,
        call_id=call_id_of(call.workflow_id),
        workflow_id=call.workflow_id,
        run_id=call.run_id,
        ledger=ledger,
        epoch=grant.epoch,
        budget=grant.budget,
        further_budgets=grant.further_budgets,
        run=grant.run,
        service=grant.service,
        model=grant.model,
        granted_at_ms=grant.granted_at_ms,
        status="expired",
        cost_nanos=grant.bound_nanos,
        price_source=grant.price.source,
        paid_for=in_one(Kind.BOUND, grant.bound_nanos),
    )


def _status(attempt: Attempt, *, answered: bool) -> str:
    if answered:
        return "completed"
    return "unknown" if attempt.billing is Billing.UNKNOWN else "failed"
