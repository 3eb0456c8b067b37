"""Rows and settlement are two views of the same attempts: whatever happened, they say the same."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import CALL, GRANT

from paymaster.calls.cost import cost_nanos
from paymaster.calls.usage_records import entries_of, expiry_correction, expiry_entry, settlement_of
from paymaster.messages import (
    Attempt,
    Billing,
    UsageRecord,
)
from paymaster.values.cost_lines import CostLine, Kind
from paymaster.values.money import NANOS_MAX, TokenUsage

USAGE = TokenUsage(input_tokens=1_000, output_tokens=50)
COST = 1_000 * 200 + 50 * 1_200

usages = st.builds(TokenUsage, input_tokens=st.integers(0, 10**6), output_tokens=st.integers(0, 10**6))
lines = st.builds(
    CostLine,
    kind=st.sampled_from([*Kind, "a kind of a later version"]),
    quantity=st.integers(0, 10**6),
    unit_price_nanos=st.none() | st.integers(0, 10**12),
    cost_nanos=st.integers(0, NANOS_MAX),
)
attempts = st.builds(
    Attempt,
    number=st.just(0),
    started_at_ms=st.integers(0, 2**41),
    duration_ms=st.integers(0, 10**6),
    billing=st.sampled_from(Billing),
    error_class=st.none() | st.just("timeout"),
    usage=st.none() | usages,
    trips_breaker=st.booleans(),
    cost_nanos=st.none() | st.integers(0, 2 * NANOS_MAX),
    paid_for=st.none() | st.lists(lines, max_size=4).map(tuple),
)


@st.composite
def records(draw: st.DrawFn) -> UsageRecord:
    found = draw(st.lists(attempts, max_size=5))
    numbered = tuple(attempt.model_copy(update={"number": n}) for n, attempt in enumerate(found, start=1))
    return UsageRecord(call=CALL, grant=GRANT, attempts=numbered, answered=bool(numbered) and draw(st.booleans()))


def attempt(billing: Billing, usage: TokenUsage | None = None, number: int = 1) -> Attempt:
    return Attempt(number=number, started_at_ms=5, duration_ms=7, billing=billing, usage=usage)


def record(*found: Attempt, answered: bool = False) -> UsageRecord:
    return UsageRecord(call=CALL, grant=GRANT, attempts=found, answered=answered, metadata={"article": "7"})


@given(record=records())
def test_the_settlement_is_the_sum_of_the_rows(record: UsageRecord) -> None:
    """To the nano-dollar, for any attempts: what is stored and what is posted cannot differ."""
    entries, settlement = entries_of(record, "default"), settlement_of(record)
    assert settlement.cost_nanos == sum(entry.cost_nanos for entry in entries)
    assert settlement.confirmed == all(entry.state == "final" for entry in entries)
    assert settlement.hold_id == GRANT.hold_id
    assert settlement.epoch == GRANT.epoch


@given(record=records())
def test_every_row_says_what_its_hold_counts_for(record: UsageRecord) -> None:
    """Also those of holds that expired."""
    counts_for = {"budget": "acme/a", "further_budgets": ("customers/42",), "run": "pr-17/researcher"}
    grant = GRANT.model_copy(update=counts_for)
    rows = entries_of(record.model_copy(update={"grant": grant}), "default")
    for row in (*rows, expiry_entry(grant, CALL, "default"), expiry_correction(grant, CALL, "default")):
        assert row.model_dump(include=set(counts_for)) == counts_for


@given(record=records())
def test_the_lines_of_each_row_add_up_to_its_cost(record: UsageRecord) -> None:
    """Whatever a worker or a forger says of them; only an older worker's charge by usage has none."""
    for attempt, entry in zip(record.attempts, entries_of(record, "default"), strict=True):
        if entry.paid_for is None:
            assert attempt.paid_for is None
            assert attempt.billing is Billing.BILLED
        else:
            assert sum(line.cost_nanos for line in entry.paid_for) == entry.cost_nanos
        if attempt.billing is Billing.NOT_BILLED:
            assert entry.paid_for == ()
    for entry in (expiry_entry(GRANT, CALL, "default"), expiry_correction(GRANT, CALL, "default")):
        assert entry.paid_for is not None
        assert sum(line.cost_nanos for line in entry.paid_for) == entry.cost_nanos


@given(record=records())
def test_each_attempt_has_one_row_of_its_own(record: UsageRecord) -> None:
    """Failed ones too; two rows with the same id and state would be one in the database."""
    entries = entries_of(record, "default")
    assert [entry.attempt_id for entry in entries] == [f"run-1/2/{a.number}" for a in record.attempts]
    assert len({entry.attempt_id for entry in entries}) == len(entries)


@given(record=records())
def test_no_row_says_completed_but_that_of_the_attempt_that_answered(record: UsageRecord) -> None:
    """And that one is the last."""
    completed = [entry.status == "completed" for entry in entries_of(record, "default")]
    assert completed == [False] * (len(completed) - 1) + [record.answered] * bool(completed)


@pytest.mark.parametrize(
    ("billing", "usage", "cost", "state", "status"),
    [
        (Billing.BILLED, USAGE, COST, "final", "failed"),
        (Billing.BILLED, None, GRANT.bound_nanos, "final", "failed"),
        (Billing.NOT_BILLED, None, 0, "final", "failed"),
        (Billing.NOT_BILLED, USAGE, 0, "final", "failed"),
        (Billing.UNKNOWN, None, GRANT.bound_nanos, "unconfirmed", "unknown"),
        (Billing.UNKNOWN, USAGE, GRANT.bound_nanos, "unconfirmed", "unknown"),
    ],
)
def test_an_attempt_costs_its_usage_nothing_or_its_bound(
    billing: Billing,
    usage: TokenUsage | None,
    cost: int,
    state: Literal["final", "unconfirmed"],
    status: str,
) -> None:
    """Its usage when it was billed, nothing when it was not, the bound as long as nobody knows."""
    assert cost_nanos(GRANT, attempt(billing, usage)) == cost
    (entry,) = entries_of(record(attempt(billing, usage)), "default")
    assert (entry.cost_nanos, entry.state, entry.status, entry.usage) == (cost, state, status, usage)


def test_an_answer_after_failed_attempts_costs_what_it_used() -> None:
    """Two that were not billed, one that was: one bill, confirmed, with the failures told to the breaker."""
    failed = attempt(Billing.NOT_BILLED).model_copy(update={"trips_breaker": True})
    answered = record(
        failed, failed.model_copy(update={"number": 2}), attempt(Billing.BILLED, USAGE, number=3), answered=True
    )
    settlement = settlement_of(answered)
    assert (settlement.cost_nanos, settlement.confirmed, settlement.served) == (COST, True, True)
    assert (settlement.tokens, settlement.failures) == (1_050, 2)
    assert [entry.status for entry in entries_of(answered, "default")] == ["failed", "failed", "completed"]


def test_nothing_sent_costs_nothing() -> None:
    """A hold under which no attempt was made is settled with zero, and has no rows."""
    assert entries_of(record(), "default") == ()
    settlement = settlement_of(record())
    assert (settlement.cost_nanos, settlement.confirmed, settlement.tokens) == (0, True, 0)


def test_a_bill_above_its_bound_is_posted_as_it_is() -> None:
    """Overage is never hidden, as long as the database can hold it."""
    usage = TokenUsage(input_tokens=10**6, output_tokens=10**6)
    assert settlement_of(record(attempt(Billing.BILLED, usage))).cost_nanos == 1_400_000_000 > GRANT.bound_nanos
    absurd = TokenUsage(input_tokens=10**30)
    assert cost_nanos(GRANT, attempt(Billing.BILLED, absurd)) == NANOS_MAX


def test_a_row_carries_what_a_report_groups_by() -> None:
    """The times of the grant and the attempt, the ids of call, hold and run, the price's source, the metadata."""
    answered = attempt(Billing.BILLED, USAGE).model_copy(
        update={"http_status": 200, "provider_request_id": "req-1", "model_answered": "gpt-test-2026"}
    )
    (entry,) = entries_of(record(answered, answered=True), "books")
    assert (entry.ledger, entry.epoch, entry.hold_id) == ("books", "epoch-1", "run-1/2")
    assert (entry.call_id, entry.workflow_id, entry.run_id) == ("article-7/outline", CALL.workflow_id, "run-1")
    assert (entry.budget, entry.service, entry.model) == ("acme/content", "openai", "gpt-test")
    assert (entry.model_answered, entry.http_status, entry.provider_request_id) == ("gpt-test-2026", 200, "req-1")
    assert (entry.granted_at_ms, entry.started_at_ms, entry.duration_ms) == (GRANT.granted_at_ms, 5, 7)
    assert (entry.price_source, entry.metadata) == ("test prices", {"article": "7"})


def test_an_expired_hold_is_charged_once_however_it_ends() -> None:
    """Its row at the bound is superseded by one of the same id, so that only the attempts' own rows count."""
    expired, corrected = expiry_entry(GRANT, CALL, "default"), expiry_correction(GRANT, CALL, "default")
    assert (expired.state, expired.cost_nanos, expired.status) == ("unconfirmed", GRANT.bound_nanos, "expired")
    assert (corrected.state, corrected.cost_nanos) == ("final", 0)
    assert expired.attempt_id == corrected.attempt_id == "run-1/2/expiry"
    assert expired.model_copy(update={"state": "final", "cost_nanos": 0, "paid_for": ()}) == corrected
    own = entries_of(record(attempt(Billing.BILLED, USAGE)), "default")
    assert expired.attempt_id not in {entry.attempt_id for entry in own}


def test_every_row_of_a_wire_call_says_its_dialect() -> None:
    told = record(attempt(Billing.NOT_BILLED), attempt(Billing.BILLED, USAGE, 2)).model_copy(
        update={"dialect": "anthropic"}
    )
    assert [entry.dialect for entry in entries_of(told, "default")] == ["anthropic", "anthropic"]
    assert [entry.dialect for entry in entries_of(record(attempt(Billing.BILLED, USAGE)), "default")] == [None]
