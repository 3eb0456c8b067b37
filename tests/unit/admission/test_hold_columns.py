"""The holds and the ends of holds that are read are those that were written."""

from dataclasses import replace

from drawn_columns import amounts, ends, ends_by_id, ids, prices, texts, times
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from pydantic_core import from_json, to_json
from searches import examples

from paymaster.admission.ended_columns import ended_columns, ended_of
from paymaster.admission.hold_columns import hold_columns, holds_of
from paymaster.admission.holds import EndedHold, Hold
from paymaster.admission.state import DeskState, read, written
from paymaster.messages import CallRef, Grant, RetrySettings
from paymaster.values.packed import pack, unpack

signed = st.integers(-(10**18), 10**18)
names = st.lists(texts, max_size=2).map(tuple)
retries = st.builds(
    RetrySettings,
    initial_interval_ms=times,
    backoff_coefficient=st.floats(1, 100),
    maximum_interval_ms=times,
    maximum_attempts=st.integers(0, 9),
)
grants = st.builds(
    Grant,
    hold_id=ids,
    budget=texts,
    service=texts,
    model=texts,
    price=prices.filter(lambda price: price is not None),
    max_output_tokens=times,
    bound_nanos=amounts,
    granted_at_ms=times,
    expires_at_ms=times,
    epoch=texts,
    timeout_ms=times,
    retry=st.one_of(st.just(RetrySettings()), retries),
    max_retry_after_ms=times,
    max_unconfirmed=times,
    further_budgets=names,
    run=st.one_of(st.none(), texts),
    counted_tokens=st.one_of(st.none(), times),
    money_short=st.booleans(),
)
holds = st.builds(
    Hold,
    call=st.builds(CallRef, workflow_id=ids, run_id=ids),
    grant=grants,
    accounts=names,
    tokens=signed,
    state=st.sampled_from(["pending", "unconfirmed"]),
    posted_nanos=amounts,
    expired=st.booleans(),
    running=st.booleans(),
    is_first=st.booleans(),
    failures_told=st.integers(0, 9),
)
numbers = st.one_of(st.none(), st.sampled_from(["1", "12", "0", "01", "", "²", "1/2", "9" * 30]))
SEARCH = settings(max_examples=examples(300), deadline=None, derandomize=True, database=None)


def by_id(drawn: list[tuple[Hold, str | None]]) -> dict[str, Hold]:
    found: dict[str, Hold] = {}
    for hold, number in drawn:
        hold_id = hold.grant.hold_id if number is None else f"{hold.call.run_id}/{number}"
        found[hold_id] = replace(hold, grant=hold.grant.model_copy(update={"hold_id": hold_id}))
    return found


@SEARCH
@given(st.lists(st.tuples(holds, numbers), max_size=6))
def test_holds_come_back_equal_and_in_order(drawn: list[tuple[Hold, str | None]]) -> None:
    """Whatever is in them."""
    before = by_id(drawn)
    after = holds_of(from_json(to_json(hold_columns(before))))
    assert after == before
    assert list(after) == list(before)


@SEARCH
@given(st.lists(st.tuples(st.one_of(ids, ids.map(lambda each: f"{each}/1")), ends), max_size=6))
def test_ends_come_back_equal_and_in_order(drawn: list[tuple[str, EndedHold]]) -> None:
    before = ends_by_id(drawn)
    after = ended_of(from_json(to_json(ended_columns(before))))
    assert after == before
    assert list(after) == list(before)


@settings(SEARCH, max_examples=examples(50))
@given(st.lists(st.tuples(holds, numbers), max_size=3), st.lists(st.tuples(ids, ends), max_size=3))
def test_a_state_whose_holds_are_no_columns_is_read(
    drawn: list[tuple[Hold, str | None]], ended: list[tuple[str, EndedHold]]
) -> None:
    """It was written before they were."""
    state = DeskState("test", "epoch", ended=ends_by_id(ended))
    state.books.holds = by_id(drawn)
    rules, _, packed = written(state)[0].partition("\n")
    document = from_json(unpack(packed, 10**6))
    del document["holds"], document["ended"]
    document["rest"].setdefault("books", {})["holds"] = TypeAdapter(dict[str, Hold]).dump_python(
        state.books.holds, mode="json"
    )
    document["rest"]["ended"] = TypeAdapter(dict[str, EndedHold]).dump_python(state.ended, mode="json")
    assert read(f"{rules}\n{pack(to_json(document))}")[0] == state == read(written(state)[0])[0]
