"""A bill against the rows: equal where they are equal, exactly one difference where one nano-dollar is another."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paymaster.reports.bill import STAYS, Line, Posted, Unconfirmed, Why, compare
from paymaster.reports.bill_formats import Bill, Charge
from paymaster.reports.bill_models import same_model

FIRST = date(2026, 11, 1)
SECOND = FIRST + timedelta(days=1)
TODAY = date(2026, 11, 30)
LUNA, SOL = "gpt-5.6-luna", "gpt-5.6-sol"


def nano(count: int | Fraction) -> Fraction:
    return Fraction(count) / 10**9


def billed(*charges: tuple[date, str, int | Fraction], days: Sequence[date] = (FIRST, SECOND)) -> Bill:
    return Bill(tuple(Charge(day, item, nano(nanos)) for day, item, nanos in charges), tuple(days), {}, False)


def posted(nanos: int, day: date = FIRST, model: str = LUNA, **fields: Any) -> Posted:
    return Posted(day, model, fields.pop("answered", None), fields.pop("attempts", 1), nanos, **fields)


def lines(
    bill: Bill,
    rows: Sequence[Posted],
    unsure: Sequence[Unconfirmed] = (),
    *,
    today: date = TODAY,
    same: Mapping[str, str] | None = None,
) -> list[Line]:
    return compare(bill, rows, unsure, today=today, same=same)


def differences(found: Sequence[Line]) -> list[tuple[date, str, int, Why | None]]:
    return [(line.day, line.model, line.difference_nanos, line.why) for line in found if line.difference_nanos]


# ---------------------------------------------------------------- exact

ROWS = st.lists(
    st.builds(
        Posted,
        day=st.integers(0, 3).map(lambda days: FIRST + timedelta(days=days)),
        model=st.sampled_from([LUNA, SOL, "claude-haiku-4-5"]),
        answered=st.just(None),
        attempts=st.integers(1, 100),
        cost_nanos=st.integers(0, 10**18),  # more digits than a float has
    ),
    min_size=1,
    max_size=20,
)


def bill_of(rows: Sequence[Posted], kinds: int) -> Bill:
    """What a provider would have made of them: by kinds of tokens, with the model's date."""
    charges = [
        Charge(row.day, f"{row.model}-2026-08-06 kind", nano(Fraction(row.cost_nanos, kinds)))
        for row in rows
        for _ in range(kinds)
    ]
    charges = [charge._replace(item=charge.item.removesuffix(" kind")) for charge in charges]
    return Bill(tuple(charges), tuple(FIRST + timedelta(days=number) for number in range(4)), {}, False)


@given(rows=ROWS, kinds=st.integers(1, 7))
def test_a_bill_made_of_the_rows_has_no_difference(rows: list[Posted], kinds: int) -> None:
    found = lines(bill_of(rows, kinds), rows)
    assert differences(found) == []
    assert sum(line.posted_nanos for line in found) == sum(row.cost_nanos for row in rows)


@given(rows=ROWS, kinds=st.integers(1, 7), at=st.integers(0), more=st.sampled_from([1, -1]))
def test_a_nano_dollar_is_exactly_one_difference(rows: list[Posted], kinds: int, at: int, more: int) -> None:
    bill = bill_of(rows, kinds)
    changed = bill.charges[at % len(bill.charges)]
    bill = bill._replace(charges=(*bill.charges, changed._replace(usd=nano(more))))
    [(day, model, difference, why)] = differences(lines(bill, rows))
    assert (day, model, difference, why) == (changed.day, changed.item.removesuffix("-2026-08-06"), more, Why.UNKNOWN)


def test_a_bill_that_counts_finer_explains_our_rounding() -> None:
    """Of three attempts each is rounded up, so that at most three nano-dollars can come of it."""
    finer = billed((FIRST, LUNA, Fraction(2001, 2)))
    [line] = lines(finer, [posted(1_003, attempts=3)])
    assert (line.billed_nanos, line.why, line.why in STAYS) == (1_000, Why.ROUNDING, False)
    assert [line.why for line in lines(finer, [posted(1_004, attempts=3)])] == [Why.UNKNOWN]
    assert [line.why for line in lines(finer, [posted(999, attempts=3)])] == [Why.UNKNOWN]
    assert [line.why for line in lines(billed((FIRST, LUNA, 1_000)), [posted(1_003, attempts=3)])] == [Why.UNKNOWN]


# ---------------------------------------------------------------- explained


def test_an_unconfirmed_attempt_gets_what_the_bill_has_left() -> None:
    unsure = [Unconfirmed(FIRST, "run/1/1", LUNA, 500)]
    [line] = lines(billed((FIRST, LUNA, 1_200)), [posted(1_500)], unsure)
    assert (line.why, line.unconfirmed_nanos, line.resolve) == (Why.UNCONFIRMED, 500, (("run/1/1", 200),))
    assert line.why in STAYS
    resolved = [posted(1_000), posted(200)]
    assert differences(lines(billed((FIRST, LUNA, 1_200)), resolved)) == []


@given(charged=st.lists(st.integers(1, 10**6), min_size=1, max_size=8), cost=st.integers(0))
def test_several_unconfirmed_attempts_share_the_rest(charged: list[int], cost: int) -> None:
    """None gets more than it can have cost, and together they make the day right."""
    cost %= sum(charged)
    unsure = [Unconfirmed(FIRST, f"run/{n}/1", LUNA, nanos) for n, nanos in enumerate(charged)]
    [line] = lines(billed((FIRST, LUNA, 7 + cost)), [posted(7 + sum(charged))], unsure)
    assert sum(nanos for _, nanos in line.resolve) == cost
    assert all(0 <= nanos <= each.charged_nanos for (_, nanos), each in zip(line.resolve, unsure, strict=True))


def test_more_than_the_unconfirmed_can_explain_is_no_offer() -> None:
    unsure = [Unconfirmed(FIRST, "run/1/1", LUNA, 500)]
    for billed_nanos in (999, 1_501):
        [line] = lines(billed((FIRST, LUNA, billed_nanos)), [posted(1_500)], unsure)
        assert (line.why, line.resolve) == (Why.UNKNOWN, ())


def test_attempts_over_midnight_are_on_the_next_day_of_the_bill() -> None:
    bill = billed((FIRST, LUNA, 900), (SECOND, LUNA, 1_100))
    rows = [posted(1_000, into_next_day_nanos=100), posted(1_000, SECOND)]
    assert [line.why for line in lines(bill, rows)] == [Why.MIDNIGHT, Why.MIDNIGHT]
    rows = [posted(1_000, into_next_day_nanos=99), posted(1_000, SECOND)]
    assert [line.why for line in lines(bill, rows)] == [Why.UNKNOWN, Why.UNKNOWN]


def test_a_day_in_part_is_told_and_no_difference() -> None:
    bill = billed((FIRST, LUNA, 5), (SECOND, LUNA, 5))._replace(partial={FIRST: "the bill has it from 12:00"})
    found = lines(bill, [posted(7), posted(7, SECOND)], today=SECOND)
    assert [(line.why, line.words) for line in found] == [
        (Why.PARTIAL_DAY, "the bill has it from 12:00"),
        (Why.PARTIAL_DAY, "the day is not over"),
    ]


def test_other_days_are_not_compared_and_days_between_are() -> None:
    bill = billed((FIRST, LUNA, 5), days=(FIRST, SECOND))
    rows = [posted(5), posted(7, SECOND), posted(9, SECOND + timedelta(days=1))]
    assert differences(lines(bill, rows)) == [(SECOND, LUNA, -7, Why.UNKNOWN)]


def test_searches_are_apart_where_the_bill_has_them_apart() -> None:
    rows = [posted(1_000, searches_nanos=300)]
    apart = lines(billed((FIRST, LUNA, 700), (FIRST, "web_search", 300)), rows)
    assert [(line.model, line.billed_nanos) for line in apart] == [(LUNA, 700), ("web searches", 300)]
    assert differences(apart) == []
    assert differences(lines(billed((FIRST, LUNA, 1_000)), rows)) == []


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("on_the_bill", "ours"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o", "gpt-4o-2024-08-06"),
        ("gpt 4o 0806 Outp glbl Tokens", "gpt-4o-2024-08-06"),
        ("gpt 4o 0806 Inp glbl Tokens", "gpt-4o"),
        ("gpt 4.1 mini cached Inp Data Zone 1M Tokens", "gpt-4.1-mini"),
        ("Claude Haiku 4.5", "claude-haiku-4-5-20251001"),
        ("openai/gpt-4.1-2025-04-14", "openai/gpt-4.1"),
        ("gemini-2.0-flash-001", "gemini-2.0-flash"),
        ("", "anything"),
    ],
)
def test_a_model_is_known_by_the_name_on_the_bill(on_the_bill: str, ours: str) -> None:
    assert same_model(on_the_bill, ours)


@pytest.mark.parametrize(
    ("on_the_bill", "ours"),
    [
        ("gpt-4o-mini", "gpt-4o"),
        ("gpt-4.1", "gpt-4"),
        ("gpt-4o", "gpt-4"),
        ("gpt-5.6-sol", "gpt-5"),
        ("o3", "o3-pro"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-08-06"),
        ("gpt-image-1", "gpt-audio"),
    ],
)
def test_another_model_is_not_taken_for_it(on_the_bill: str, ours: str) -> None:
    assert not same_model(on_the_bill, ours)


@pytest.mark.parametrize(
    ("same", "found"),
    [({}, [(LUNA, -5), ("prod-chat", -7), (SOL, 12)]), ({SOL: "prod-chat"}, [(LUNA, -5), ("prod-chat", 5)])],
)
def test_a_name_may_be_said_to_be_one_of_ours(same: Mapping[str, str], found: list[tuple[str, int]]) -> None:
    told = lines(billed((FIRST, SOL, 12)), [posted(5), posted(7, model="prod-chat")], same=same)
    assert sorted((model, nanos) for _, model, nanos, _ in differences(told)) == sorted(found)


def test_what_the_bill_cannot_tell_apart_is_compared_together() -> None:
    """A deployment by another name answers as the model that the bill has; so does the model itself."""
    rows = [posted(5, model="prod-chat", answered="gpt-4o-2024-08-06"), posted(7, model="gpt-4o")]
    [line] = lines(billed((FIRST, "gpt 4o 0806 Inp glbl", 4), (FIRST, "gpt 4o 0806 Outp glbl", 8)), rows)
    assert (line.model, line.billed_nanos, line.why) == ("gpt-4o", 12, None)
    [line] = lines(billed((FIRST, "", 12)), rows)
    assert (line.model, line.billed_nanos, line.why) == ("all models", 12, None)
