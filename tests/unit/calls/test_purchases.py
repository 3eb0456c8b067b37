"""A purchase as a call with one attempt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import record

from paymaster.admission.routing import bound_nanos
from paymaster.calls.purchases import attempt_of, candidate_of
from paymaster.calls.usage_records import entries_of, settlement_of
from paymaster.messages import CallRef, Candidate, Grant, Reserve, RetrySettings, UsageRecord
from paymaster.messages.bounds import check_command, check_grant, check_record
from paymaster.messages.purchases import PurchaseEnd
from paymaster.values.money import NANOS_MAX

COSTS = st.integers(0, NANOS_MAX)


def a_reserve(candidate: Candidate, input_bytes: int = 0) -> Reserve:
    return Reserve(
        hold_id="run/1",
        call=CallRef(workflow_id="purchase/1", run_id="run"),
        budget="acme",
        candidates=(candidate,),
        input_bytes=input_bytes,
        on_exhausted="wait",
        deadline_at_ms=1,
        asked_at_ms=0,
    )


def a_record(up_to_nanos: int, end: PurchaseEnd) -> UsageRecord:
    candidate = candidate_of("search", up_to_nanos)
    assert candidate.price is not None
    grant = record(1).grant.model_copy(
        update={"service": "search", "model": candidate.model, "price": candidate.price, "bound_nanos": up_to_nanos}
    )
    attempt = attempt_of(end, 1_000, 2_500)
    return record(1).model_copy(
        update={"grant": grant, "attempts": (attempt,), "answered": end.outcome == "paid", "dialect": None}
    )


@given(up_to_nanos=st.integers(1, NANOS_MAX), input_bytes=st.integers(0, 10**6))
def test_its_bound_is_exactly_what_it_can_cost(up_to_nanos: int, input_bytes: int) -> None:
    candidate = candidate_of("search", up_to_nanos)
    request = a_reserve(candidate, input_bytes)
    assert bound_nanos(request, candidate) == up_to_nanos


@given(up_to_nanos=st.integers(1, NANOS_MAX), cost_nanos=COSTS)
def test_rows_and_settlement_have_the_cost_that_was_said(up_to_nanos: int, cost_nanos: int) -> None:
    said = a_record(up_to_nanos, PurchaseEnd(outcome="paid", cost_nanos=cost_nanos))
    check_record(said)
    [row], settle = entries_of(said, "default"), settlement_of(said)
    assert (row.state, row.status, row.cost_nanos, row.usage, row.error_class) == (
        "final",
        "completed",
        cost_nanos,
        None,
        None,
    )
    assert (settle.cost_nanos, settle.confirmed) == (cost_nanos, True)
    assert [(line.kind, line.quantity, line.cost_nanos) for line in row.paid_for or ()] == [("purchase", 1, cost_nanos)]


@pytest.mark.parametrize(
    ("outcome", "state", "cost_nanos"), [("nothing", "final", 0), ("unknown", "unconfirmed", 50_000_000)]
)
def test_one_without_a_cost_is_free_or_charged_at_its_bound(outcome: str, state: str, cost_nanos: int) -> None:
    said = a_record(50_000_000, PurchaseEnd.model_validate({"outcome": outcome}))
    [row], settle = entries_of(said, "default"), settlement_of(said)
    assert (row.state, row.cost_nanos, sum(line.cost_nanos for line in row.paid_for or ())) == (
        state,
        cost_nanos,
        cost_nanos,
    )
    assert (settle.cost_nanos, settle.confirmed) == (cost_nanos, state == "final")


@given(up_to_nanos=st.integers(1, NANOS_MAX))
def test_its_grant_is_within_the_bounds_of_messages(up_to_nanos: int) -> None:
    candidate = candidate_of("search", up_to_nanos)
    assert candidate.price is not None
    check_grant(
        Grant(
            hold_id="run/1",
            budget="acme",
            service="search",
            model=candidate.model,
            price=candidate.price,
            max_output_tokens=candidate.max_output_tokens,
            bound_nanos=up_to_nanos,
            granted_at_ms=1,
            expires_at_ms=2,
            epoch="epoch",
            timeout_ms=1,
            retry=RetrySettings(),
            max_retry_after_ms=1,
            max_unconfirmed=1,
        )
    )


@pytest.mark.parametrize("tokens", [{"countable": True}, {"counted_tokens": 5}])
def test_a_purchase_with_tokens_to_count_is_refused(tokens: dict[str, object]) -> None:
    forged = candidate_of("search", 1).model_copy(update=tokens)
    with pytest.raises(ValueError, match="no tokens to count"):
        check_command(a_reserve(forged))
