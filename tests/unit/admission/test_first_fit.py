"""The index finds what a look at every entry would find."""

from hypothesis import given, settings
from hypothesis import strategies as st
from searches import examples

from paymaster.admission.first_fit import FirstFit, Place
from paymaster.admission.timers import NEVER_MS, Timers

places = st.tuples(st.integers(-2, 2), st.integers(0, 1_500))
needs = st.integers(-3, 30)
contents = st.dictionaries(places, needs, max_size=60)


@settings(max_examples=examples(300), deadline=None, derandomize=True, database=None)
@given(contents, st.lists(st.tuples(places, needs), max_size=60), st.lists(needs, min_size=1, max_size=4))
def test_the_index_finds_what_a_scan_finds(
    before: dict[Place, int], changes: list[tuple[Place, int]], limits: list[int]
) -> None:
    """Entries come and go in any order."""
    entries = dict(before)
    index = FirstFit(sorted(entries), [entries[place] for place in sorted(entries)])
    for place, need in changes:
        if place in entries:
            index.remove(place)
            del entries[place]
        else:
            index.add(place, need)
            entries[place] = need
        check(index, entries, limits)


def test_the_index_finds_what_a_scan_finds_among_thousands() -> None:
    """So many that they are cut into pieces, filled in the middle, and emptied again."""
    entries = {(0, number): number * 7_919 % 1_009 for number in range(0, 3_000, 2)}
    index = FirstFit(sorted(entries), [entries[place] for place in sorted(entries)])
    for number in range(1, 3_000, 2):
        index.add((0, number), number * 7_919 % 1_009)
        entries[0, number] = number * 7_919 % 1_009
    check(index, entries, [-1, 0, 1, 500, 1_007, 1_008, 2_000])
    for number in sorted(range(3_000), key=lambda number: number * 31 % 3_000):
        index.remove((0, number))
        del entries[0, number]
        if number % 100 == 0:
            check(index, entries, [0, 3, 1_005])
    assert not index


def check(index: FirstFit, entries: dict[Place, int], limits: list[int]) -> None:
    ordered = sorted(entries.items())
    assert bool(index) == bool(entries)
    assert index.first == min(entries, default=None)
    assert (index.lowest, index.highest) == (min(entries.values(), default=None), max(entries.values(), default=None))
    for limit in limits:
        assert index.first_at_most(limit) == next((place for place, need in ordered if need <= limit), None)
        assert index.first_above(limit) == next((place for place, need in ordered if need > limit), None)


times = st.lists(st.tuples(st.sampled_from("abcdef"), st.one_of(st.none(), st.integers(0, 20))), max_size=40)


@settings(max_examples=examples(200), deadline=None, derandomize=True, database=None)
@given(times, st.lists(st.integers(0, 25), min_size=1, max_size=5))
def test_timers_keep_the_latest_time_of_each_key(changes: list[tuple[str, int | None]], looks: list[int]) -> None:
    timers, expected = Timers(), dict[str, int]()
    for key, at_ms in changes:
        timers.set(key, at_ms)
        expected.pop(key, None)
        if at_ms is not None:
            expected[key] = at_ms
    for now_ms in looks:
        assert timers.first_ms() == min(expected.values(), default=NEVER_MS)
        due = sorted((at_ms, key) for key, at_ms in expected.items() if at_ms <= now_ms)
        assert timers.take_due(now_ms, 2) + timers.take_due(now_ms) == [key for _, key in due]
        expected = {key: at_ms for key, at_ms in expected.items() if at_ms > now_ms}
