"""What Hypothesis draws of what calls, holds and their ends have in the columns of a dump."""

from hypothesis import strategies as st

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
