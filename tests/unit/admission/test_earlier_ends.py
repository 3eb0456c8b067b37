"""Ends of holds that are remembered as groups: the same answers, and no more to write for each run of the ledger."""

from dataclasses import replace
from unittest.mock import patch

import pytest
from desk_kit import HOUR, MINUTE, SECOND, Site, capped, config
from drawn_columns import ends, ends_by_id, ids
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import examples

from paymaster.admission import settling
from paymaster.admission.earlier_ends import EarlierEnds
from paymaster.admission.holds import EndedHold
from paymaster.admission.pressure import estimated_bytes, parts_without_calls, relieve
from paymaster.messages import Ended, Settle, Settled, UnknownHold, Void
from paymaster.values.packed import NotPacked

groups = st.lists(st.lists(st.tuples(ids, ends), min_size=1, max_size=5).map(ends_by_id), max_size=4)


@settings(max_examples=examples(200), deadline=None, derandomize=True, database=None)
@given(groups, ids)
def test_what_is_known_of_an_end_comes_back_from_its_group(drawn: list[dict[str, EndedHold]], other: str) -> None:
    """Also through text; of an id in two groups the later end. Its time is that of the last one in its group."""
    earlier, expected = EarlierEnds(), dict[str, EndedHold]()
    for group in drawn:
        earlier.take(group)
        until_ms = max(end.at_ms for end in group.values())
        expected |= {key: replace(end, at_ms=until_ms) for key, end in group.items()}
    again = EarlierEnds.of(earlier.lines())
    assert again == earlier
    assert again.lines() == earlier.lines()
    assert again.number == sum(map(len, drawn))
    for key in {*expected, other}:
        assert earlier.get(key) == again.get(key) == expected.get(key)


@pytest.mark.parametrize("line", ["", "1", "1 AAAA", "x AAAA BBBB", "1 A BBBB", "1 é BBBB", "1 AAAA BBBB more"])
def test_text_that_is_no_group_is_refused(line: str) -> None:
    with pytest.raises(NotPacked, match="no group of ends"):
        EarlierEnds.of([line])


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ends are a group."""
    monkeypatch.setattr(settling, "ENDS_IN_GROUP", 2)


def grouped(site: Site, number: int) -> None:
    """So many calls are granted and settled, and all their ends are in groups."""
    for _ in range(number):
        site.settle(site.granted(), 0.001)
    assert not site.desk.state.ended


@pytest.mark.usefixtures("pairs")
def test_a_command_that_is_sent_again_gets_the_answer_of_its_end() -> None:
    """Whatever the end was, before and after a new run."""
    site = Site(config(budgets={"acme": capped(day=10), "full": capped(total=0)}))
    settled, given_back, unused = site.granted(), site.granted(), site.granted()
    denied = site.denied(budget="full")
    site.settle(settled, 1)
    site.void(given_back)
    site.void(site.granted(hold_id="run-x/1"))
    assert not site.desk.state.ended
    for _ in range(2):
        assert site.desk.handle(site.request(budget="full", hold_id=denied.hold_id), site.now_ms) == denied
        for hold_id in (settled.hold_id, given_back.hold_id, "run-x/1"):
            assert isinstance(site.reserve(hold_id=hold_id), Ended)
        assert site.settle(settled, 1) == Settled(hold_id=settled.hold_id)
        late = Settle(hold_id=given_back.hold_id, cost_nanos=1, epoch="this run")
        assert isinstance(site.desk.handle(late, site.now_ms), UnknownHold)
        site.cut()
    assert (site.posted(), site.pending()) == (1, 1)
    site.settle(unused, 0)


@pytest.mark.usefixtures("pairs")
def test_who_gives_back_what_was_denied_does_not_hide_the_denial() -> None:
    site = Site(config(budgets={"full": capped(total=0)}))
    denied = site.denied(budget="full")
    site.denied(budget="full")
    site.desk.advance(site.now_ms)
    assert not site.desk.state.ended
    assert isinstance(site.desk.handle(Void(hold_id=denied.hold_id), site.now_ms), Settled)
    assert site.desk.handle(site.request(budget="full", hold_id=denied.hold_id), site.now_ms) == denied


@pytest.mark.usefixtures("pairs")
def test_a_group_is_handed_on_as_it_is() -> None:
    """However many runs follow: what is written anew does not grow with the calls of the last minute."""
    site = Site()
    grouped(site, 6)
    before = site.desk.state.earlier_ends.lines()
    with patch.object(EarlierEnds, "take", side_effect=AssertionError):
        site.cut()
        site.cut()
    assert site.desk.state.earlier_ends.lines() == before
    assert site.desk.dump().splitlines()[2:] == before


@pytest.mark.usefixtures("pairs")
@pytest.mark.parametrize(
    ("waits_ms", "in_a_minute", "in_an_hour", "remembered"),
    [
        (0, 6, 3, 6),  # within the minute, and so many
        (0, 5, 3, 6),  # no group is parted: five of the last minute
        (0, 4, 3, 4),
        (2 * MINUTE, 6, 3, 4),  # then only those of an hour
        (2 * MINUTE, 6, 2, 2),
        (HOUR + MINUTE, 6, 3, 0),
    ],
)
def test_the_oldest_groups_are_forgotten(
    waits_ms: int, in_a_minute: int, in_an_hour: int, remembered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks again under one of them is told that it has ended."""
    monkeypatch.setattr(settling, "ENDED_IN_A_MINUTE_MAX", in_a_minute)
    monkeypatch.setattr(settling, "REMEMBER_ENDED_MAX", in_an_hour)
    site = Site()
    first = site.request(hold_id="run-1/1")
    site.calls = 0
    for _ in range(3):
        grouped(site, 2)
        site.wait(SECOND)
    site.wait(waits_ms)
    site.desk.advance(site.now_ms)
    assert site.desk.state.earlier_ends.number == remembered
    assert isinstance(site.desk.handle(first, site.now_ms), Ended)
    assert site.granted()


@pytest.mark.usefixtures("pairs")
def test_a_clock_that_goes_back_takes_the_groups_along() -> None:
    """Else they would be remembered for longer than an hour, and calls of now be taken for older ones."""
    site = Site()
    grouped(site, 2)
    state = site.desk.state
    state.earlier_ends.put_back(site.now_ms - HOUR)
    assert [group.until_ms for group in state.earlier_ends.groups] == [site.now_ms - HOUR]


@pytest.mark.usefixtures("pairs")
def test_under_pressure_groups_go_after_alerts() -> None:
    """Those beyond what is remembered for an hour go first, uncounted; the others are counted."""
    site = Site()
    grouped(site, 6)
    site.desk.outbox.alert(site.now_ms, "no_price", "text")
    state, estimate = site.desk.state, estimated_bytes(site.desk.state)
    with patch("paymaster.admission.pressure.REMEMBER_ENDED_MAX", 3):
        assert relieve(state, 1) == 0
    assert (state.earlier_ends.number, state.ended_dropped, len(site.alerts("no_price"))) == (4, 0, 1)
    assert estimated_bytes(state) < estimate
    while relieve(state, 1) == 0:
        pass
    assert (state.earlier_ends.number, state.ended_dropped, len(site.alerts("no_price"))) == (0, 4, 0)
    assert isinstance(site.reserve(hold_id="run-6/1"), Ended)


def test_a_new_group_is_counted_as_growth_of_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one, denials with a sentence are estimated as three times what they take: less would be no less."""
    monkeypatch.setattr(settling, "ENDS_IN_GROUP", 200)
    site = Site(config(budgets={"full": capped(total=0, day=0, hour=0)}))
    for _ in range(200):
        site.denied(budget="full")
    measured, parts = len(site.desk.dump()), parts_without_calls(site.desk.state)
    site.desk.advance(site.now_ms)
    assert site.desk.state.earlier_ends.number == 200
    growth = parts_without_calls(site.desk.state).growth_from(parts)
    assert measured < len(site.desk.dump()) <= measured + growth


@pytest.mark.usefixtures("pairs")
def test_under_the_rules_of_0_1_0_ends_stay_one_by_one() -> None:
    """It reads the state, and knows no groups."""
    site = Site(rules=1)
    for _ in range(5):
        site.settle(site.granted(), 0.001)
    assert len(site.desk.state.ended) == 5
    site.cut()
    assert (len(site.desk.state.ended), site.desk.state.earlier_ends.groups) == (5, [])
