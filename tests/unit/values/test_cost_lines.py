"""The lines of a cost add up to it, whatever was used at whatever price."""

from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from paymaster.values.cost_lines import (
    INPUT,
    OUTPUT,
    UNITS,
    CostLine,
    Kind,
    Part,
    add_up,
    adding_up_to,
    at_price,
    in_one,
    only_quantities,
)
from paymaster.values.limits import COST_LINES_MAX
from paymaster.values.money import Price, PriceTier, TokenUsage

rates = st.one_of(st.integers(0, 10**6), st.integers(0, 10**14))
counts = st.one_of(st.integers(0, 20), st.integers(0, 10**9))
parts = st.builds(
    Part,
    st.sampled_from(Kind),
    counts,
    st.none() | st.builds(Fraction, rates, st.sampled_from([1, 2, 10, 3])),
    st.none() | st.sampled_from(["a", "b"]),
)
prices = st.builds(
    Price,
    input_nanos=rates,
    output_nanos=rates,
    cached_input_nanos=st.none() | rates,
    cache_write_nanos=st.none() | rates,
    request_nanos=st.integers(0, 10**9),
    source=st.just("test"),
    tiers=st.just(())
    | st.tuples(st.builds(PriceTier, above_input_tokens=st.integers(0, 10**9), input_nanos=rates, output_nanos=rates)),
)


def exact(part: Part) -> Fraction:
    return part.quantity * (part.price or Fraction(0)) / (10**6 if UNITS[part.kind] == "tokens" else 1)


@given(parts=st.lists(parts, max_size=12))
@example(parts=[Part(Kind.REQUEST, 1, None), Part(Kind.WEB_SEARCH, 67_108_861, Fraction(285_707_014, 3))])
@example(parts=[Part(Kind.INPUT, 1, None), Part(Kind.WEB_SEARCH, 1_457, Fraction(29_631_255_822_332))])
def test_each_line_is_within_a_nano_dollar_of_its_price(parts: list[Part]) -> None:
    total = -(-sum(map(exact, parts), Fraction(0)) // 1)
    lines = add_up(parts, total)
    assert sum(line.cost_nanos for line in lines) == total
    expected: dict[tuple[str, int | None, str | None], Fraction] = {}
    for part in parts:
        key = (part.kind.value, None if part.price is None else -(-part.price // 1), part.model)
        if part.quantity:
            expected[key] = expected.get(key, Fraction(0)) + exact(part)
    found: dict[tuple[str, int | None, str | None], int] = {}
    for line in lines:
        key = (line.kind, line.unit_price_nanos, line.model)
        found[key] = found.get(key, 0) + line.cost_nanos
        assert line.cost_nanos >= 0
    assert found.keys() == expected.keys()
    # Prices that differ by less than a nano-dollar are shown alike, and each of their lines is rounded.
    assert all(abs(found[key] - expected[key]) < 3 for key in found)


@given(parts=st.lists(parts, max_size=12), total=st.integers(0, 10**20))
def test_any_total_is_met_and_quantities_stay(parts: list[Part], total: int) -> None:
    """A charge that was cut, or that counts which contradict each other do not explain, has an adjustment."""
    lines = add_up(parts, total)
    assert sum(line.cost_nanos for line in lines) == total
    assert all(line.cost_nanos >= 0 for line in lines)
    for kind in Kind:
        if kind is not Kind.ADJUSTMENT:
            told = sum(part.quantity for part in parts if part.kind is kind)
            assert sum(line.quantity for line in lines if line.kind == kind) == told


@st.composite
def used(draw: st.DrawFn) -> tuple[TokenUsage, dict[Kind, int]]:
    found = {kind: draw(counts) for kind in draw(st.sets(st.sampled_from([*INPUT, *OUTPUT, Kind.WEB_SEARCH])))}
    read = (Kind.CACHED_INPUT, Kind.CACHED_AUDIO, Kind.CACHED_IMAGE, Kind.CACHED_VIDEO)
    usage = TokenUsage(
        input_tokens=sum(found.get(kind, 0) for kind in INPUT),
        cached_input_tokens=sum(found.get(kind, 0) for kind in read),
        cache_write_tokens=sum(found.get(kind, 0) for kind in (Kind.CACHE_WRITE, Kind.CACHE_WRITE_1H)),
        output_tokens=sum(found.get(kind, 0) for kind in OUTPUT),
        reasoning_tokens=found.get(Kind.REASONING, 0),
    )
    return usage, found


@given(price=prices, used=used())
def test_lines_at_a_price_are_its_cost_and_all_that_was_used(
    price: Price, used: tuple[TokenUsage, dict[Kind, int]]
) -> None:
    """Without any adjustment: the price has one rate for each of them."""
    usage, found = used
    lines = add_up(at_price(price, usage.input_tokens, found), price.cost_nanos(usage))
    assert sum(line.cost_nanos for line in lines) == price.cost_nanos(usage)
    assert Kind.ADJUSTMENT not in {line.kind for line in lines}
    assert sum(line.quantity for line in lines if line.kind in INPUT) == usage.input_tokens
    assert sum(line.quantity for line in lines if line.kind in OUTPUT) == usage.output_tokens
    assert sum(line.cost_nanos for line in lines if line.kind == Kind.REQUEST) == price.request_nanos


def test_lines_in_front_of_the_reader() -> None:
    """$0.20 and $1.20 per million, cached at a tenth: 1,000 in, 600 of them cached, and 50 out, 30 of them thoughts."""
    price = Price(input_nanos=200_000_000, cached_input_nanos=20_000_000, output_nanos=1_200_000_000, source="list")
    usage = TokenUsage(input_tokens=1_000, cached_input_tokens=600, output_tokens=50, reasoning_tokens=30)
    kinds = {Kind.CACHED_INPUT: 600, Kind.INPUT: 400, Kind.REASONING: 30, Kind.OUTPUT: 20}
    assert add_up(at_price(price, 1_000, kinds), price.cost_nanos(usage)) == (
        CostLine(kind="input", quantity=400, unit_price_nanos=200_000_000, cost_nanos=80_000),
        CostLine(kind="cached_input", quantity=600, unit_price_nanos=20_000_000, cost_nanos=12_000),
        CostLine(kind="output", quantity=20, unit_price_nanos=1_200_000_000, cost_nanos=24_000),
        CostLine(kind="reasoning", quantity=30, unit_price_nanos=1_200_000_000, cost_nanos=36_000),
    )


def test_many_models_have_one_line_for_each_kind() -> None:
    """A hundred passes of as many models would not fit into a message."""
    parts = [Part(kind, 3, Fraction(10**6), f"m{n}") for n in range(100) for kind in (Kind.INPUT, Kind.OUTPUT)]
    lines = add_up(parts, 600)
    assert lines == (
        CostLine(kind="input", quantity=300, cost_nanos=300),
        CostLine(kind="output", quantity=300, cost_nanos=300),
    )
    assert len(add_up(parts[:COST_LINES_MAX], 3 * COST_LINES_MAX)) == COST_LINES_MAX


def test_a_cost_in_one_line_keeps_what_was_used_without_prices() -> None:
    """What was used is seen all the same, and no token has a price that nobody charged."""
    lines = adding_up_to([CostLine(kind="input", quantity=7, unit_price_nanos=1, cost_nanos=2)], 5)
    assert lines[1:] == (CostLine(kind="adjustment", quantity=1, cost_nanos=3),)
    bound = in_one(Kind.BOUND, 9, used=lines)
    assert bound == (
        CostLine(kind="input", quantity=7, cost_nanos=0),
        CostLine(kind="bound", quantity=1, cost_nanos=9),
    )
    assert only_quantities(bound) == bound[:1]


def test_each_kind_has_a_unit() -> None:
    assert UNITS.keys() == set(Kind)
