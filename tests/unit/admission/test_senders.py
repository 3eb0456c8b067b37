"""How long each sender of updates waits for its turn, and who is told before a run of the ledger ends."""

from paymaster.admission.senders import EACH_MS, HANDOVER_MS, Senders
from paymaster.values.limits import SENDERS_MAX, UPDATES_PER_RUN

AT = 1_000_000


def heard_once(senders: Senders, count: int, now_ms: int = AT) -> list[int]:
    return [senders.heard(f"s{number}", now_ms) for number in range(count)]


def test_one_that_is_alone_never_waits() -> None:
    senders = Senders()
    assert [senders.heard("a", AT + number) for number in range(100)] == [0] * 100
    senders.tell_all(AT + 100)
    assert senders.all_told
    assert senders.heard("a", AT + 101) == 0


def test_each_waits_for_as_long_as_all_need() -> None:
    """However many there are, they send two hundred updates a second together."""
    for count in (2, 12, 64, 400):
        senders = Senders()
        heard_once(senders, count)
        assert set(heard_once(senders, count)) == {count * EACH_MS}


def test_who_is_not_heard_of_for_a_while_does_not_count() -> None:
    senders = Senders()
    heard_once(senders, 12)
    assert senders.heard("s0", AT + 2_000) == 12 * EACH_MS
    assert senders.heard("s0", AT + 3_000) == 0


def test_who_waits_for_its_turn_counts() -> None:
    """Four hundred wait two seconds, and as slow ones for four times as long."""
    senders = Senders()
    heard_once(senders, 400)
    turn_ms = 400 * EACH_MS
    assert senders.heard("s0", AT + 4 * turn_ms) == turn_ms


def test_no_more_are_known_than_may_be() -> None:
    """Also when one invents names."""
    senders = Senders(handed_on=10**9)
    heard_once(senders, 3 * SENDERS_MAX)
    assert senders.count(AT) == SENDERS_MAX
    assert senders.heard("new", AT + 1) == SENDERS_MAX * EACH_MS


def test_the_next_run_knows_at_once_how_many_there_are() -> None:
    """Until all had the time to send; then it goes by what it heard."""
    before = Senders()
    heard_once(before, 64)
    after = Senders(before.count(AT))
    assert after.heard("s0", AT + 300) == 64 * EACH_MS
    assert after.count(AT + 300) == 64
    assert after.heard("s0", AT + 300 + 3_000) == 0


def test_a_run_has_had_enough_after_a_thousand_updates() -> None:
    senders = Senders()
    for number in range(UPDATES_PER_RUN):
        assert not senders.sent_enough
        senders.heard("a", AT + number)
    assert senders.sent_enough


def test_all_are_told_before_a_run_ends_to_come_after_it() -> None:
    senders = Senders()
    heard_once(senders, 12)
    within_ms = senders.tell_all(AT)
    assert within_ms > 12 * EACH_MS
    for number in range(12):
        assert not senders.all_told
        assert senders.heard(f"s{number}", AT + number) == 12 * EACH_MS + HANDOVER_MS
    assert senders.all_told


def test_a_run_waits_for_nobody_who_does_not_wait_for_it() -> None:
    """Programs without a name, and workers of versions that do not know of turns."""
    senders = Senders()
    heard_once(senders, 2)
    senders.heard("", AT)
    senders.tell_all(AT)
    senders.heard("s0", AT + 1)
    assert not senders.all_told
    senders.heard("s1", AT + 1)
    assert senders.all_told
