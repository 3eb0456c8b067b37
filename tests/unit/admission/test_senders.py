"""When each sender of updates may send its next one, and who is told before a run of the ledger ends."""

import random
from itertools import pairwise

import pytest

from paymaster.admission.senders import HANDOVER_MS, HANDOVER_MS_EACH, SPACING_MAX_MS, SPACING_MS, TOGETHER, Senders
from paymaster.values.limits import COMMANDS_PER_RUN, SENDERS_MAX, UPDATES_PER_RUN

AT = 1_000_000


def times_given(senders: Senders, count: int, now_ms: int = AT) -> list[int]:
    """At which each of so many may come again, who are heard one after the other."""
    return [now_ms + number + senders.heard(f"s{number}", now_ms + number) for number in range(count)]


def in_turn(senders: Senders, count: int, *, together: int, seconds: float) -> list[int]:
    """When updates came, of senders who come at their times; so many are answered by one task of the ledger."""
    due, came = dict.fromkeys(range(count), AT), list[int]()
    while not came or came[-1] < AT + seconds * 1_000:
        next_ones = sorted(due, key=lambda sender: due[sender])[:together]
        now_ms = max(due[sender] for sender in next_ones) + 20
        for sender in next_ones:
            came.append(due[sender])
            due[sender] = now_ms + senders.heard(f"s{sender}", now_ms)
    return came


def test_one_that_is_alone_never_waits() -> None:
    senders = Senders()
    assert [senders.heard("a", AT + number) for number in range(100)] == [0] * 100
    senders.tell_all(AT + 100)
    assert senders.all_told
    assert senders.heard("a", AT + 101) == 0


def test_who_sends_little_does_not_wait() -> None:
    """64 of them, at any time, a third of what the ledger takes."""
    senders, chance = Senders(spacing_ms=SPACING_MS), random.Random(1)
    at_ms = sorted(chance.randrange(AT, AT + 10_000) for _ in range(400))
    waits_ms = [senders.heard(f"s{chance.randrange(64)}", now_ms) for now_ms in at_ms]
    assert sorted(waits_ms)[380] <= 4 * SPACING_MS


@pytest.mark.parametrize("count", [2, 12, 64, 400])
def test_each_has_a_time_of_its_own(count: int) -> None:
    senders = Senders(spacing_ms=SPACING_MS)
    times_given(senders, count)
    times = times_given(senders, count)
    assert [after - before for before, after in pairwise(times)] == [SPACING_MS] * (count - 1)


@pytest.mark.parametrize("back_ms", [20_000, 86_400_000])
def test_a_clock_that_goes_back_keeps_nobody_waiting(back_ms: int) -> None:
    senders = Senders()
    times_given(senders, 64)
    later = Senders(64, senders.next_at_ms, senders.spacing_ms)
    for of_a_run in (senders, later):
        waits_ms = [of_a_run.heard(f"s{number}", AT - back_ms) for number in range(64)]
        assert 0 < max(waits_ms) <= 64 * SPACING_MAX_MS
        assert len(set(waits_ms)) == 64
    times_given(senders, 64)
    assert senders.tell_all(AT - back_ms) <= 2 * 64 * SPACING_MAX_MS


def test_where_many_come_together_all_come_further_apart() -> None:
    """The more updates a task of the ledger finds, the longer it took: ten of them wait for one that takes 100 ms."""
    senders = Senders()
    in_turn(senders, 64, together=10, seconds=10)
    assert senders.spacing_ms > 2 * SPACING_MS
    in_turn(senders, 64, together=10, seconds=300)
    assert senders.spacing_ms == SPACING_MAX_MS, "within bounds: a turn has an end, however slow Temporal is"


def test_at_first_they_come_further_apart() -> None:
    """Nobody knows yet how many there are, nor how fast Temporal is."""
    senders = Senders()
    in_turn(senders, 64, together=1, seconds=1)
    assert senders.spacing_ms > 2 * SPACING_MS
    in_turn(senders, 64, together=1, seconds=20)
    assert senders.spacing_ms == SPACING_MS


def test_where_few_come_together_all_come_nearer_again() -> None:
    senders = Senders(64, AT, SPACING_MAX_MS)
    in_turn(senders, 64, together=int(TOGETHER) - 1, seconds=200)
    assert senders.spacing_ms == SPACING_MS


def test_the_spacing_changes_once_in_a_round() -> None:
    """Who has a time already comes at it; only when those have come is there something to learn from."""
    senders = Senders()
    times_given(senders, 64)
    before_ms = senders.spacing_ms
    times_given(senders, 63, AT + 20)
    assert senders.spacing_ms == before_ms


def test_after_a_refusal_all_come_further_apart_once() -> None:
    """All who were refused together say so when they are answered at last."""
    senders = Senders()
    times_given(senders, 64)
    before_ms, at_ms = senders.spacing_ms, senders.next_at_ms
    told_ms: list[float] = []
    for number in range(40):
        senders.heard(f"s{number}", at_ms + 300 * number, was_refused=True)
        told_ms.append(senders.spacing_ms)
    assert told_ms[0] == 1.5 * before_ms
    further = [number for number, (earlier, later) in enumerate(pairwise(told_ms)) if later > earlier]
    assert further == [33], "once more, after ten seconds: these were refused later"


def test_who_is_not_heard_of_for_a_while_does_not_count() -> None:
    senders = Senders()
    last_ms = times_given(senders, 12)[-1]
    assert senders.count(last_ms) == 12
    assert senders.count(last_ms + 3_000) == 0
    assert senders.heard("s0", last_ms + 3_000) == 0


def test_who_waits_for_its_turn_counts() -> None:
    """The last of a thousand waits ten seconds."""
    senders = Senders(spacing_ms=SPACING_MS)
    times_given(senders, 1_000)
    assert senders.count(AT + 3_000) > 990
    assert senders.count(AT + 8_000) > 300


def test_no_more_are_known_than_may_be() -> None:
    """Also when one invents names."""
    senders = Senders(handed_on=10**9, spacing_ms=10**9)
    assert senders.spacing_ms == SPACING_MAX_MS
    times_given(senders, 3 * SENDERS_MAX)
    assert senders.count(AT) == SENDERS_MAX


def test_the_next_run_goes_on_where_the_one_before_ended() -> None:
    before = Senders()
    in_turn(before, 64, together=10, seconds=10)
    last_ms = before.next_at_ms
    after = Senders(64, last_ms, before.spacing_ms)
    assert last_ms - 100 + after.heard("s0", last_ms - 100) == last_ms + round(before.spacing_ms)
    assert after.count(last_ms) == 64
    assert after.heard("s0", last_ms + 4_000) == 0


def test_a_run_has_had_enough_after_a_thousand_updates() -> None:
    senders = Senders()
    for number in range(UPDATES_PER_RUN):
        assert not senders.sent_enough
        senders.heard("a", AT + number)
    assert senders.sent_enough


def test_a_run_has_had_enough_after_so_many_commands() -> None:
    """If it counts them, as runs that began before did not."""
    counts, does_not = Senders(), Senders()
    counts.commands_max = COMMANDS_PER_RUN
    for number in range(COMMANDS_PER_RUN // 200):
        assert not counts.sent_enough
        for senders in (counts, does_not):
            senders.heard("a", AT + number, 200)
    assert counts.sent_enough
    assert not does_not.sent_enough


def test_all_are_told_before_a_run_ends_to_come_after_it() -> None:
    """Who has a time comes at it, and is given one after those of all others and the end."""
    senders = Senders(spacing_ms=SPACING_MS)
    last_ms = times_given(senders, 12)[-1]
    within_ms = senders.tell_all(AT)
    assert last_ms < AT + within_ms < last_ms + HANDOVER_MS
    for number in range(12):
        assert not senders.all_told
        given_ms = AT + number + senders.heard(f"s{number}", AT + number)
        assert given_ms == last_ms + HANDOVER_MS + (number + 1) * SPACING_MS
    assert senders.all_told


def test_a_run_that_hands_on_much_is_given_more_time_for_it() -> None:
    senders = Senders(spacing_ms=SPACING_MS)
    last_ms = times_given(senders, 12)[-1]
    senders.tell_all(AT, handed_on=14_000)
    given_ms = AT + senders.heard("s0", AT)
    assert given_ms == last_ms + HANDOVER_MS + 14_000 * HANDOVER_MS_EACH + SPACING_MS


def test_a_run_waits_for_nobody_who_does_not_wait_for_it() -> None:
    """Programs without a name, and workers of versions that do not know of turns."""
    senders = Senders()
    times_given(senders, 2)
    senders.heard("", AT)
    senders.tell_all(AT)
    senders.heard("s0", AT + 1)
    assert not senders.all_told
    senders.heard("s1", AT + 1)
    assert senders.all_told
