"""The parked calls that are read are those that were written."""

from dataclasses import replace
from uuid import UUID

from drawn_columns import ids, prices, texts, times
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import from_json, to_json
from searches import examples

from paymaster.admission.parked_call import ParkedCall
from paymaster.admission.parked_columns import parked_calls, parked_columns
from paymaster.admission.uuid_column import ids_of, uuid_column
from paymaster.messages import CallRef, Candidate, Reserve

maybe_times = st.one_of(st.none(), times)
accounts = st.frozensets(st.sampled_from(["budget:a", "budget:a/b", "service:s", "service:語"]), max_size=3)
candidates = st.builds(
    Candidate, service=texts, model=texts, max_output_tokens=times, price=prices, refused=st.one_of(st.none(), texts)
)
reserves = st.builds(
    Reserve,
    hold_id=ids,
    call=st.builds(CallRef, workflow_id=ids, run_id=ids),
    budget=texts,
    further_budgets=st.lists(texts, max_size=2).map(tuple),
    candidates=st.lists(candidates, max_size=3).map(tuple),
    input_bytes=times,
    on_exhausted=st.sampled_from(["wait", "fail"]),
    deadline_at_ms=times,
    asked_at_ms=times,
    priority=st.integers(-(10**18), 10**18),
)
calls = st.builds(
    ParkedCall,
    reserve=reserves,
    sequence=times,
    parked_at_ms=times,
    waits_for=accounts,
    keeps=accounts,
    retry_at_ms=maybe_times,
    busy_since_ms=maybe_times,
    open_since_ms=maybe_times,
    detail=texts,
    waits=st.lists(st.tuples(texts, st.one_of(st.none(), texts)), max_size=3).map(tuple),
)
holds = st.one_of(st.none(), st.sampled_from(["1", "12", "0", "01", "", "²", "1/2", "9" * 30]))


@settings(max_examples=examples(300), deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(calls, holds), max_size=6))
def test_parked_calls_come_back_equal_and_in_order(parked: list[tuple[ParkedCall, str | None]]) -> None:
    """Whatever their ids look like, also a hold id that begins with the run id."""
    before: dict[str, ParkedCall] = {}
    for call, number in parked:
        hold_id = call.reserve.hold_id if number is None else f"{call.reserve.call.run_id}/{number}"
        before[hold_id] = replace(call, reserve=call.reserve.model_copy(update={"hold_id": hold_id}))
    after = parked_calls(from_json(to_json(parked_columns(before))))
    assert after == before
    assert list(after) == list(before)


@settings(max_examples=examples(300), deadline=None, derandomize=True, database=None)
@given(st.lists(ids, max_size=20))
def test_ids_come_back_equal(each: list[str]) -> None:
    """UUIDs in any form, and what only resembles them."""
    assert ids_of(from_json(to_json(uuid_column(each)))) == each


def test_ids_that_are_uuids_take_their_bytes() -> None:
    """22 characters each."""
    each = [f"call/{UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)}" for number in range(1_000)]
    assert len(to_json(uuid_column(each))) < 22 * len(each)
