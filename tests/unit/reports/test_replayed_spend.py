"""What a replay knows of accounts that its desk has forgotten."""

from desk_kit import DAY, NOON

from paymaster.reports.replayed_spend import ReplayedSpend, Spent


def test_windows_are_known_until_they_end() -> None:
    spend = ReplayedSpend()
    spend.remember("a", (Spent("day", NOON + DAY, 3), Spent("total", None, 7)), NOON)
    assert spend.of("a", NOON + DAY - 1) == {"day": 3, "total": 7}
    assert spend.of("a", NOON + DAY) == {"total": 7}
    assert spend.of("b", NOON) == {}


def test_memory_follows_those_whose_windows_are_open() -> None:
    spend, days, each_day = ReplayedSpend(), 5, 8_000
    for day in range(days):
        for number in range(each_day):
            at_ms = NOON + day * DAY
            spend.remember(f"{day} {number}", (Spent("day", at_ms + DAY, number),), at_ms)
    known = [sum(bool(spend.of(f"{day} {number}", 0)) for number in range(each_day)) for day in range(days)]
    assert known[0] == 0, "it was looked through since"
    assert known[-1] == each_day
    assert sum(known) < 4 * each_day
