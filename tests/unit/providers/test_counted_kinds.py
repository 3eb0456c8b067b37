"""Counts of an answer, taken apart: no token is lost and none is counted twice."""

from hypothesis import given
from hypothesis import strategies as st

from paymaster.providers.counted_kinds import counted_kinds
from paymaster.providers.provider import WireUsage
from paymaster.values.cost_lines import INPUT, OUTPUT, READ, WRITTEN, Kind

counts = st.one_of(st.integers(0, 20), st.integers(0, 10**9))


@given(usage=st.builds(WireUsage, **dict.fromkeys(WireUsage.model_fields, counts)))
def test_the_kinds_of_any_counts_add_up_to_them(usage: WireUsage) -> None:
    """Also where a service contradicts itself: then what is charged is kept."""
    kinds = counted_kinds(usage)
    assert all(count > 0 for count in kinds.values())
    charged = max(usage.input_tokens, usage.cached_input_tokens + usage.cache_write_tokens)
    assert sum(kinds.get(kind, 0) for kind in INPUT) == charged
    assert sum(kinds.get(kind, 0) for kind in READ) == usage.cached_input_tokens
    assert sum(kinds.get(kind, 0) for kind in WRITTEN) == usage.cache_write_tokens
    assert sum(kinds.get(kind, 0) for kind in OUTPUT) == usage.output_tokens
    assert kinds.get(Kind.WEB_SEARCH, 0) == usage.web_searches


def test_each_kind_is_what_the_service_says_of_it() -> None:
    usage = WireUsage(
        input_tokens=1_000,
        cached_input_tokens=300,
        cached_audio_tokens=50,
        cache_write_tokens=200,
        cache_write_1h_tokens=80,
        input_audio_tokens=90,
        input_image_tokens=20,
        output_tokens=100,
        reasoning_tokens=40,
        output_image_tokens=10,
        web_searches=2,
    )
    assert counted_kinds(usage) == {
        Kind.INPUT: 440,
        Kind.CACHED_INPUT: 250,
        Kind.CACHED_AUDIO: 50,
        Kind.CACHE_WRITE: 120,
        Kind.CACHE_WRITE_1H: 80,
        Kind.INPUT_AUDIO: 40,
        Kind.INPUT_IMAGE: 20,
        Kind.OUTPUT: 50,
        Kind.OUTPUT_IMAGE: 10,
        Kind.REASONING: 40,
        Kind.WEB_SEARCH: 2,
    }
