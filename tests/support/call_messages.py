"""A call, its grant and what it asks of the ledger."""

from paymaster.messages import CallRef, Candidate, Grant, Reserve, RetrySettings
from paymaster.values.money import Price

CALL = CallRef(workflow_id="call/7", run_id="run-1")
PRICE = Price(input_nanos=1, output_nanos=2, cache_write_nanos=3, source="test")
GRANT = Grant(
    hold_id="run-1/1",
    budget="acme",
    service="openai",
    model="gpt-test",
    price=PRICE,
    max_output_tokens=100,
    bound_nanos=10**20 - 1,
    granted_at_ms=1,
    expires_at_ms=2,
    epoch="epoch-1",
    timeout_ms=1,
    retry=RetrySettings(),
    max_retry_after_ms=1,
    max_unconfirmed=1,
)
RESERVE = Reserve(
    hold_id="run-1/1",
    call=CALL,
    budget="acme/content",
    candidates=(Candidate(service="openai", model="gpt-test", max_output_tokens=100, price=PRICE),),
    input_bytes=10,
    on_exhausted="wait",
    deadline_at_ms=3,
    asked_at_ms=1,
)
