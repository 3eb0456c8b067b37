"""Usage records as calls send them."""

from paymaster.messages import Attempt, BacklogBatch, Billing, CallRef, Grant, RetrySettings, UsageEntry, UsageRecord
from paymaster.values.money import Price

CALL = CallRef(workflow_id="call/article-7/outline", run_id="run-1")
PRICE = Price(input_nanos=200_000_000, output_nanos=1_200_000_000, source="test prices")
GRANT = Grant(
    hold_id="run-1/2",
    budget="acme/content",
    service="openai",
    model="gpt-test",
    price=PRICE,
    max_output_tokens=100,
    bound_nanos=500_000,
    granted_at_ms=1_700_000_000_000,
    expires_at_ms=1_700_000_900_000,
    epoch="epoch-1",
    timeout_ms=60_000,
    retry=RetrySettings(),
    max_retry_after_ms=60_000,
    max_unconfirmed=1,
)
ATTEMPT = Attempt(number=1, started_at_ms=1, duration_ms=1, billing=Billing.UNKNOWN, error="cut off")


def record(number: int, metadata: dict[str, str] | None = None) -> UsageRecord:
    grant = GRANT.model_copy(update={"hold_id": f"run/{number}"})
    return UsageRecord(call=CALL, grant=grant, attempts=(ATTEMPT,), answered=False, metadata=metadata or {})


def text_of(batch: BacklogBatch) -> bytes:
    return batch.model_dump_json().encode()


def usual_entry(number: int) -> dict[str, object]:
    """The fields of a row of an attempt that completed, with ids of its own."""
    return {
        "attempt_id": f"run-{number}/1/1",
        "state": "final",
        "hold_id": f"run-{number}/1",
        "call_id": f"call-{number}",
        "workflow_id": f"call/call-{number}",
        "run_id": f"run-{number}",
        "ledger": "default",
        "epoch": "epoch-1",
        "budget": "acme/content",
        "service": "openai",
        "model": "gpt-5.6-luna",
        "status": "completed",
        "cost_nanos": 1_000,
        "price_source": "test",
    }


def charged_entry(
    ledger: str,
    number: int,
    budgets: tuple[str, ...],
    service: str,
    cost_nanos: int,
    *,
    granted_at_ms: int = 1_000,
    run: str | None = None,
) -> UsageEntry:
    """A final row, charged to these budgets, with ids that no other number and no other ledger has."""
    own = f"{ledger}-{number}"
    return UsageEntry(
        attempt_id=f"{own}/1/1",
        state="final",
        hold_id=f"{own}/1",
        call_id=own,
        workflow_id=f"call/{own}",
        run_id=own,
        ledger=ledger,
        epoch="epoch",
        budget=budgets[0],
        further_budgets=budgets[1:],
        run=run,
        service=service,
        model="model",
        granted_at_ms=granted_at_ms,
        status="completed",
        cost_nanos=cost_nanos,
        price_source="test",
    )
