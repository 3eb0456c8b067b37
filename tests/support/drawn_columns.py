"""What Hypothesis draws of what calls, holds and their ends have in the columns of a dump."""

from dataclasses import replace

from hypothesis import strategies as st

from paymaster.admission.holds import EndedHold
from paymaster.messages import BudgetNotice, Denied
from paymaster.values.money import Price, PriceTier

uuids = st.uuids().map(str)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
ids = st.one_of(
    uuids,
    st.uuids().map(lambda each: each.hex),
    uuids.map(str.upper),
    uuids.map(lambda each: f"call/{each}"),
    uuids.map(lambda each: f"{each[:-3]} - {each[-2:]}"),
    st.uuids().map(lambda each: f"call/{each.hex}"),
    texts,
)
times = st.integers(0, 2**53)
prices = st.sampled_from(
    [
        None,
        Price(input_nanos=1, output_nanos=2, source="x"),
        Price(
            input_nanos=1,
            output_nanos=2,
            source="x",
            request_nanos=3,
            tiers=(PriceTier(input_nanos=5, output_nanos=6, cached_input_nanos=0, above_input_tokens=7),),
        ),
    ]
)
amounts = st.one_of(st.integers(0, 10**6), st.integers(0, 10**29))
notices = st.lists(
    st.builds(
        BudgetNotice,
        account=texts,
        window=st.just("day"),
        cap_nanos=amounts,
        posted_nanos=amounts,
        pending_nanos=amounts,
    ),
    max_size=2,
)
denials = st.builds(Denied, hold_id=texts, reason=texts, detail=texts, in_the_way=notices.map(tuple))
ends = st.builds(
    EndedHold, at_ms=times, posted=st.booleans(), denied=st.one_of(st.none(), denials), presumed=st.booleans()
)


def ends_by_id(drawn: list[tuple[str, EndedHold]]) -> dict[str, EndedHold]:
    return {
        hold_id: replace(end, denied=end.denied and end.denied.model_copy(update={"hold_id": hold_id}))
        for hold_id, end in drawn
    }
