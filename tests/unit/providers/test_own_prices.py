"""Prices of one's own: a factor on listed prices, prices that begin and end, each beside a slow and obvious model."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from genai_prices.data_snapshot import get_snapshot, set_custom_snapshot
from hypothesis import given
from hypothesis import strategies as st

from paymaster.calls.cost import CONFIGURATION, Cost, known_cost
from paymaster.providers.listings import newest, take
from paymaster.providers.price_list import listed_cost, price_of
from paymaster.providers.provider import ServiceAnswer, WireUsage
from paymaster.settings import Settings
from paymaster.values.money import Price, TokenUsage

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
ADDRESSES = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
    "deepseek": "https://api.deepseek.com",
}
LISTED = [
    (name, model.id)
    for name, address in ADDRESSES.items()
    for model in get_snapshot().find_provider(None, None, address).models
]
FACTORS = st.decimals("0.000000001", "100", places=9) | st.sampled_from([Decimal("0.85"), Decimal(1), Decimal("1.1")])
COUNTS = st.integers(0, 10**6)


def settings(factor: Decimal | str = "1", **models: Any) -> Settings:
    services = {
        name: {"api": "anthropic" if name == "anthropic" else "openai", "base_url": address}
        | {"price_factor": factor, "models": models}
        for name, address in ADDRESSES.items()
    }
    return Settings.model_validate({"services": services})


@given(each=st.sampled_from(LISTED), factor=FACTORS, input_tokens=COUNTS, output_tokens=COUNTS)
def test_a_factor_multiplies_what_is_listed(
    each: tuple[str, str], factor: Decimal, input_tokens: int, output_tokens: int
) -> None:
    """The bill is the list's own sum, times the factor, rounded up once; the bound is never below it, and the lines add
    up to it."""
    service, model = each
    ours = settings(factor)
    price, plain = (price_of(which, service, model, NOON) for which in (ours, settings()))
    usage = WireUsage(input_tokens=input_tokens, output_tokens=output_tokens)
    cost = listed_cost(ours.services[service], ServiceAnswer(model=model, usage=usage), NOON, price)
    if price is None or plain is None:
        assert price is plain
        return
    assert cost is not None
    found = get_snapshot().find_provider(None, None, ADDRESSES[service]).find_model(model)
    assert found is not None
    rates = found.get_prices(NOON)
    parts = {"input_mtok": input_tokens, "output_mtok": output_tokens}
    exact = Fraction(rates.__dict__.get("requests_kcount") or 0) / 1_000
    for name, tokens in parts.items():
        rate = rates.__dict__[name] or 0
        if not isinstance(rate, Decimal | int):
            reached = [tier.price for tier in rate.tiers if input_tokens > tier.start]
            rate = reached[-1] if reached else rate.base
        exact += Fraction(rate) * tokens / 10**6
    assert cost.nanos == ceil(exact * Fraction(factor) * 10**9)
    assert sum(line.cost_nanos for line in cost.lines) == cost.nanos
    assert cost.source.startswith(price.source.rpartition(": ")[0])
    assert price.bound_nanos(input_tokens, output_tokens) >= cost.nanos
    assert price.cost_nanos(TokenUsage(input_tokens=input_tokens, output_tokens=output_tokens)) >= cost.nanos
    assert price.input_nanos == ceil(plain.input_nanos * Fraction(factor))


def test_a_factor_is_in_the_source_and_leaves_other_prices_alone() -> None:
    """A price of one's own is what one pays, and so is what the service says itself."""
    ours = settings("0.850", **{"gpt-5": {"price": {"input": "1", "output": "4"}}})
    listed, own = (price_of(ours, "openai", model, NOON) for model in ("gpt-5-mini", "gpt-5"))
    assert listed is not None
    assert listed.source == f"{newest().name} * 0.85: openai/gpt-5-mini"
    assert own == Price(input_nanos=10**9, output_nanos=4 * 10**9, source=CONFIGURATION)
    assert known_cost(listed, 7, lambda: Cost(5, "the list")) == Cost(7, "the service's own figure")


def test_the_factor_of_the_grant_decides_when_another_came_since() -> None:
    """Another worker may read the answer, with another configuration: the grant's price then decides itself."""
    answer = ServiceAnswer(model="gpt-5", usage=WireUsage(input_tokens=1_000, output_tokens=1_000))
    before, after = settings("0.85"), settings("0.9")
    price = price_of(before, "openai", "gpt-5", NOON)
    assert price is not None
    assert listed_cost(before.services["openai"], answer, NOON, price)
    for others in (after, settings()):
        assert listed_cost(others.services["openai"], answer, NOON, price) is None
    assert listed_cost(before.services["openai"], answer, NOON, price_of(settings(), "openai", "gpt-5", NOON)) is None


@pytest.fixture
def put_back() -> Any:
    yield
    set_custom_snapshot(None)


@pytest.mark.usefixtures("put_back")
def test_the_list_of_the_grant_decides_though_a_newer_came() -> None:
    """So that no answer costs more than its bound because a list came while it was on its way."""
    answer = ServiceAnswer(model="gpt-5", usage=WireUsage(input_tokens=1_000, output_tokens=1_000))
    service, dearer = settings().services["openai"], settings("2")
    price = price_of(settings(), "openai", "gpt-5", NOON)
    before = listed_cost(service, answer, NOON, price)
    assert price is not None
    assert before is not None
    providers = get_snapshot().providers
    ours = [each for each in providers if each.id != "openai"]
    take(ours, NOON)
    assert price_of(dearer, "openai", "gpt-5", NOON) is None
    assert listed_cost(service, answer, NOON, price) == before
    take(ours, NOON + timedelta(seconds=1))
    take(ours, NOON + timedelta(seconds=2))
    assert listed_cost(service, answer, NOON, price) is None  # kept no more: what the newest has, which is nothing


SPANS = st.lists(st.integers(0, 40), min_size=2, max_size=8, unique=True).map(sorted)


@given(spans=SPANS, open_start=st.booleans(), open_end=st.booleans(), falls_back=st.booleans(), hour=st.integers(0, 41))
def test_the_price_in_force_is_the_one_whose_time_it_is(
    spans: list[int], open_start: bool, open_end: bool, falls_back: bool, hour: int
) -> None:
    """Beside a table of all hours."""
    start = datetime(2026, 11, 22, tzinfo=UTC)
    pairs = list(zip(spans[::2], spans[1::2], strict=False))
    prices: list[dict[str, Any]] = [
        {"input": str(n), "output": "1", "from": start + timedelta(hours=begin), "until": start + timedelta(hours=end)}
        for n, (begin, end) in enumerate(pairs, 1)
    ]
    table = {each: n for n, (begin, end) in enumerate(pairs, 1) for each in range(begin, end)}
    if open_start:
        del prices[0]["from"]
        table |= dict.fromkeys(range(pairs[0][1]), 1)
    if open_end:
        del prices[-1]["until"]
        table |= dict.fromkeys(range(pairs[-1][0], 42), len(pairs))
    model: dict[str, Any] = {"prices": prices[::-1]}
    if falls_back:
        model["price"] = {"input": "99", "output": "1"}
    if not any("from" in price or "until" in price for price in prices):
        return
    price = price_of(settings(ours=model), "openai", "ours", start + timedelta(hours=hour))
    expected = table.get(hour, 99 if falls_back else None)
    assert (None if price is None else price.input_nanos // 10**9) == expected
