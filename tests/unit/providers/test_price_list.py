"""Prices: what is known, from where, and that what is not known is never taken for zero."""

import tomllib
from copy import deepcopy
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import pytest
from genai_prices.data_snapshot import DataSnapshot, get_snapshot, set_custom_snapshot
from genai_prices.types import ModelPrice
from hypothesis import given
from hypothesis import strategies as st
from paymaster_process import ROOT

from paymaster.providers.listings import LIST_DATES
from paymaster.providers.price_list import Asked, listed_cost, price_of, unpriced
from paymaster.providers.provider import Pass, ServiceAnswer, WireUsage
from paymaster.settings import ServiceSettings, Settings
from paymaster.values.cost_lines import INPUT, OUTPUT, Kind
from paymaster.values.money import Price, PriceTier, TokenUsage

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
VERTEX = "https://aiplatform.googleapis.com/v1/projects/acme/locations"
SETTINGS = Settings.model_validate(
    {
        "services": {
            "openai": {
                "api": "openai",
                "base_url": "https://api.openai.com/v1",
                "models": {
                    "gpt-5.6-sol": {"max_output_tokens": 100},
                    "ours": {"price": {"input": "1", "output": "4"}},
                    "gpt-5": {"price": {"input": "0", "output": "0"}},
                },
            },
            "anthropic": {"api": "anthropic", "base_url": "https://api.anthropic.com/v1"},
            "deepseek": {"api": "openai", "base_url": "https://api.deepseek.com"},
            "openrouter": {"api": "openai", "base_url": "https://openrouter.ai/api/v1"},
            "bedrock": {"api": "bedrock", "base_url": "https://bedrock-runtime.us-east-1.amazonaws.com"},
            "google": {"api": "gemini", "base_url": "https://generativelanguage.googleapis.com/v1beta"},
            "vertex": {"api": "vertex-claude", "base_url": f"{VERTEX}/global"},
            "vertex-east": {"api": "vertex-claude", "base_url": f"{VERTEX}/us-east5"},
            "vertex-eu": {"api": "vertex-gemini", "base_url": f"{VERTEX}/europe-west4"},
            "local": {"api": "openai", "base_url": "http://127.0.0.1:8080/v1"},
        }
    }
)


def mtok(usd: str) -> int:
    return int(Decimal(usd).scaleb(9))


def test_genai_prices_is_asked_by_the_services_address_and_named_as_the_source() -> None:
    price = price_of(SETTINGS, "openai", "gpt-5.6-sol", NOON)
    assert price is not None
    assert (price.input_nanos, price.output_nanos) == (mtok("4"), mtok("20"))
    assert (price.cached_input_nanos, price.cache_write_nanos) == (mtok("0.4"), mtok("5"))
    assert price.tiers == (
        PriceTier(
            above_input_tokens=272_000,
            input_nanos=mtok("8"),
            output_nanos=mtok("30"),
            cached_input_nanos=mtok("0.8"),
            cache_write_nanos=mtok("10"),
        ),
    )
    assert price.source.startswith("genai-prices ")
    assert price.source.endswith(": openai/gpt-5.6-sol")


def test_new_data_of_genai_prices_is_asked_from_the_next_call_on() -> None:
    """Nothing here remembers a price; the ledger has the one that each call brings."""
    providers = deepcopy(get_snapshot().providers)
    (model,) = (
        model
        for provider in providers
        if provider.id == "openai"
        for model in provider.models
        if model.id == "gpt-5.6-sol"
    )
    model.prices = ModelPrice(input_mtok=Decimal("7"), output_mtok=Decimal("70"))
    set_custom_snapshot(DataSnapshot(providers=providers, from_auto_update=True))
    try:
        changed = price_of(SETTINGS, "openai", "gpt-5.6-sol", NOON)
    finally:
        set_custom_snapshot(None)
    assert changed is not None
    assert (changed.input_nanos, changed.output_nanos) == (mtok("7"), mtok("70"))


def test_no_name_of_a_model_is_remembered() -> None:
    """Agents and services make them up; whatever begins with `computer-use` is taken for one that is listed."""

    def remembered() -> int:
        return sum(len(each) for each in vars(get_snapshot()).values() if isinstance(each, dict | set))

    assert price_of(SETTINGS, "openai", "computer-use", NOON)
    before = remembered()
    for number in range(20):
        assert price_of(SETTINGS, "openai", f"computer-use-{number}", NOON)
    assert remembered() == before


def test_the_configuration_comes_first_zero_included() -> None:
    ours, free = (price_of(SETTINGS, "openai", model, NOON) for model in ("ours", "gpt-5"))
    assert ours == Price(input_nanos=mtok("1"), output_nanos=mtok("4"), source="configuration")
    assert free == Price(input_nanos=0, output_nanos=0, source="configuration")


@pytest.mark.parametrize(
    ("service", "model"),
    [
        ("openai", "nobody-knows-this"),
        ("local", "gpt-5.6-sol"),  # the same name served by somebody else
        ("openrouter", "google/gemma-3-4b-it:free"),  # genai-prices has it without rates
    ],
)
def test_what_is_not_known_has_no_price(service: str, model: str) -> None:
    assert price_of(SETTINGS, service, model, NOON) is None


def test_a_model_that_is_dearer_at_some_hours_is_held_at_its_dearest_and_settled_at_its_hour() -> None:
    noon, night = (price_of(SETTINGS, "deepseek", "deepseek-v4-flash", NOON.replace(hour=hour)) for hour in (12, 2))
    assert noon is not None
    assert noon == night
    answer = ServiceAnswer(model="deepseek-v4-flash", usage=WireUsage(input_tokens=1_000_000))
    costs = [listed_cost(SETTINGS.services["deepseek"], answer, NOON.replace(hour=hour)) for hour in (12, 2)]
    assert all(costs)
    assert [cost.nanos for cost in costs if cost] == [noon.input_nanos // 2, noon.input_nanos]


def test_the_windows_of_one_model_move_all_its_rates_alike() -> None:
    """What `price_of` takes for granted when it picks the dearest window, for all the data that there is."""
    for provider in get_snapshot().providers:
        for model in provider.models:
            windows = [] if isinstance(model.prices, ModelPrice) else model.prices
            daily = [window.prices for window in windows if type(window.constraint).__name__ == "TimeOfDateConstraint"]
            rates = [[rate for rate in prices.__dict__.values() if isinstance(rate, Decimal)] for prices in daily]
            dearest = max(rates, default=[])
            assert all(mine >= other for row in rates for mine, other in zip(dearest, row, strict=True)), model.id


def test_the_model_and_the_tier_that_answered_are_what_is_paid() -> None:
    """Asked for gpt-5.6-sol or not: this was answered by gpt-5, in the tier that costs twice."""
    usage = WireUsage(input_tokens=8, output_tokens=11)
    service = SETTINGS.services["openai"]
    standard = listed_cost(service, ServiceAnswer(model="gpt-5-2025-08-07", usage=usage), NOON)
    assert standard is not None
    assert standard.nanos == 8 * 1_250 + 11 * 10_000
    priority = listed_cost(service, ServiceAnswer(model="gpt-5-2025-08-07", usage=usage, service_tier="priority"), NOON)
    assert priority is not None
    assert priority.nanos == 2 * standard.nanos


@pytest.mark.parametrize(
    "answer",
    [
        ServiceAnswer(model="gpt-5"),
        ServiceAnswer(usage=WireUsage(input_tokens=1)),
        ServiceAnswer(model="unheard-of", usage=WireUsage(input_tokens=1)),
        ServiceAnswer(model="gpt-5", usage=WireUsage(input_tokens=1, cached_input_tokens=2)),
    ],
    ids=["no usage", "no model", "unknown model", "more cached than input"],
)
def test_where_nothing_better_is_known_the_grants_price_decides(answer: ServiceAnswer) -> None:
    assert listed_cost(SETTINGS.services["openai"], answer, NOON) is None


TIERED = Price(
    input_nanos=mtok("3"),
    output_nanos=mtok("15"),
    cached_input_nanos=mtok("0.3"),
    cache_write_nanos=mtok("3.75"),
    tiers=(PriceTier(above_input_tokens=200_000, input_nanos=mtok("6"), output_nanos=mtok("22.5")),),
    source="test",
)


def test_strictly_above_its_start_all_tokens_move_to_the_higher_tier() -> None:
    at, above = TokenUsage(input_tokens=200_000, output_tokens=10), TokenUsage(input_tokens=200_001, output_tokens=10)
    assert TIERED.cost_nanos(at) == 200_000 * 3_000 + 10 * 15_000
    assert TIERED.cost_nanos(above) == 200_001 * 6_000 + 10 * 22_500


def test_a_price_without_tiers_is_the_message_that_it_was() -> None:
    """What an older worker wrote into a history is read."""
    old = '{"input_nanos": 1, "output_nanos": 2, "cached_input_nanos": null, "cache_write_nanos": null, "source": "x"}'
    assert Price.model_validate_json(old) == Price(input_nanos=1, output_nanos=2, source="x")


rates = st.integers(0, 10**12)
prices = st.builds(
    Price,
    input_nanos=rates,
    output_nanos=rates,
    cached_input_nanos=st.none() | rates,
    cache_write_nanos=st.none() | rates,
    request_nanos=st.integers(0, 10**9),
    source=st.just("x"),
    tiers=st.lists(st.integers(1, 10**6), unique=True, max_size=3)
    .map(sorted)
    .flatmap(
        lambda starts: st.tuples(
            *(
                st.builds(
                    PriceTier,
                    above_input_tokens=st.just(start),
                    input_nanos=rates,
                    output_nanos=rates,
                    cached_input_nanos=st.none() | rates,
                    cache_write_nanos=st.none() | rates,
                )
                for start in starts
            )
        )
    ),
)


@given(price=prices, data=st.data(), input_max=st.integers(0, 2 * 10**6), output_max=st.integers(0, 10**6))
def test_no_usage_within_the_bound_costs_more_than_the_bound(
    price: Price, data: st.DataObject, input_max: int, output_max: int
) -> None:
    """Whatever part of the input is cached or written, and whichever tier it comes to be in."""
    input_tokens = data.draw(st.integers(0, input_max))
    cached = data.draw(st.integers(0, input_tokens))
    usage = TokenUsage(
        input_tokens=input_tokens,
        cached_input_tokens=cached,
        cache_write_tokens=data.draw(st.integers(0, input_tokens - cached)),
        output_tokens=data.draw(st.integers(0, output_max)),
    )
    assert price.cost_nanos(usage) <= price.bound_nanos(input_max, output_max)


def test_the_bound_has_room_for_whatever_a_model_may_answer() -> None:
    """An image model's text costs $2.50 for a million tokens, and its images $30."""
    settings = Settings.model_validate(
        {
            "services": {"g": {"api": "gemini", "base_url": "https://generativelanguage.googleapis.com/v1beta"}},
            "routes": {"r": ["g/gemini-2.5-flash-image"]},
        }
    )
    price = price_of(settings, "g", "gemini-2.5-flash-image", NOON)
    assert price is not None
    assert (price.input_nanos, price.output_nanos) == (300_000_000, 30_000_000_000)


@pytest.mark.parametrize(
    ("model", "usd"),
    [
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", "3"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "3.3"),
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", "3.3"),
        ("arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-sonnet-4-5-20250929-v1:0", "3.3"),
        ("arn:aws:bedrock:us-east-1:1:inference-profile/global.anthropic.claude-sonnet-4-5-20250929-v1:0", "3"),
    ],
)
def test_a_model_of_bedrock_costs_what_its_region_costs(model: str, usd: str) -> None:
    price = price_of(SETTINGS, "bedrock", model, NOON)
    assert price is not None
    assert price.input_nanos == mtok(usd)


def test_a_profile_of_ones_own_names_no_model_and_has_no_price() -> None:
    arn = "arn:aws:bedrock:us-east-1:1:application-inference-profile/a1b2c3"
    assert price_of(SETTINGS, "bedrock", arn, NOON) is None


@pytest.mark.parametrize(
    ("service", "model", "usd"),
    [
        ("vertex", "claude-sonnet-4-5@20250929", "3"),
        ("vertex-east", "claude-sonnet-4-5@20250929", "3.3"),
        ("vertex-east", "claude-opus-5-5", "4.4"),
        ("vertex-east", "claude-opus-4-1@20250805", "15"),
        ("vertex-east", "claude-sonnet-4@20250514", "3"),
        ("vertex-eu", "gemini-2.5-flash", "0.3"),
    ],
)
def test_newer_claudes_on_vertex_cost_more_outside_global(service: str, model: str, usd: str) -> None:
    """In the bound as in the bill."""
    price = price_of(SETTINGS, service, model, NOON)
    assert price is not None
    assert price.input_nanos == mtok(usd)
    bill = ServiceAnswer(model=model, usage=WireUsage(input_tokens=10**6))
    cost = listed_cost(SETTINGS.services[service], bill, NOON)
    tiers = [tier for tier in price.tiers if tier.above_input_tokens < 10**6]
    assert cost is not None
    assert cost.nanos == (tiers[-1] if tiers else price).input_nanos


# ---------------------------------------------------------------- what was paid for what


@st.composite
def wire_usages(draw: st.DrawFn) -> WireUsage:
    """What a service can say without contradicting itself."""
    count = st.integers(0, 5 * 10**5)
    read = {sort: draw(count) for sort in ("text", "audio", "image", "video")}
    fresh = {sort: draw(count) for sort in ("text", "audio", "image", "video")}
    made = {sort: draw(count) for sort in ("text", "audio", "image", "video", "reasoning")}
    written, hour = draw(count), draw(count)
    sorts = ("audio", "image", "video")
    return WireUsage(
        input_tokens=sum(read.values()) + sum(fresh.values()) + written + hour,
        cached_input_tokens=sum(read.values()),
        cache_write_tokens=written + hour,
        cache_write_1h_tokens=hour,
        output_tokens=sum(made.values()),
        reasoning_tokens=made["reasoning"],
        web_searches=draw(st.integers(0, 20)),
        **{f"input_{sort}_tokens": read[sort] + fresh[sort] for sort in sorts},
        **{f"cached_{sort}_tokens": read[sort] for sort in sorts},
        **{f"output_{sort}_tokens": made[sort] for sort in sorts},
    )


GOOGLE = Settings.model_validate(
    {"services": {"g": {"api": "gemini", "base_url": "https://generativelanguage.googleapis.com/v1beta"}}}
).services["g"]
LISTED = [
    (service, model.id)
    for service in (*(SETTINGS.services[name] for name in ("openai", "anthropic", "deepseek", "openrouter")), GOOGLE)
    for model in get_snapshot().find_provider(None, None, service.base_url).models
]


@given(
    each=st.sampled_from(LISTED),
    usage=wire_usages(),
    factor=st.sampled_from([Fraction(1), Fraction(11, 10), Fraction(3, 7)]),
    tier=st.sampled_from([None, "priority", "flex", "batch"]),
)
def test_lines_of_any_listed_model_are_what_the_list_charges(
    each: tuple[ServiceSettings, str], usage: WireUsage, factor: Fraction, tier: str | None
) -> None:
    """Kind by kind at the rates of the list, and nothing is left to adjust."""
    service, model = each
    cost = listed_cost(service, ServiceAnswer(model=model, usage=usage, factor=factor, service_tier=tier), NOON)
    if cost is not None:
        assert sum(line.cost_nanos for line in cost.lines) == cost.nanos
        assert Kind.ADJUSTMENT not in {line.kind for line in cost.lines}
        assert sum(line.quantity for line in cost.lines if line.kind in INPUT) == usage.input_tokens
        assert sum(line.quantity for line in cost.lines if line.kind in OUTPUT) == usage.output_tokens


def test_each_kind_has_the_rate_of_its_tier_and_factor() -> None:
    """Claude's cache by its lifetime, searches at $10 for a thousand, all of it a tenth dearer in one region."""
    usage = WireUsage(
        input_tokens=1_000_000,
        cached_input_tokens=200_000,
        cache_write_tokens=300_000,
        cache_write_1h_tokens=100_000,
        output_tokens=1_000,
        reasoning_tokens=400,
        web_searches=3,
    )
    answer = ServiceAnswer(model="claude-opus-4-8", usage=usage, factor=Fraction(11, 10))
    cost = listed_cost(SETTINGS.services["anthropic"], answer, NOON)
    assert cost is not None
    assert [(line.kind, line.quantity, line.unit_price_nanos, line.cost_nanos) for line in cost.lines] == [
        ("input", 500_000, mtok("5.5"), mtok("2.75")),
        ("cached_input", 200_000, mtok("0.55"), mtok("0.11")),
        ("cache_write", 200_000, mtok("6.875"), mtok("1.375")),
        ("cache_write_1h", 100_000, mtok("11"), mtok("1.1")),
        ("output", 600, mtok("27.5"), mtok("0.0165")),
        ("reasoning", 400, mtok("27.5"), mtok("0.011")),
        ("web_search", 3, mtok("0.011"), mtok("0.033")),
    ]


def test_passes_of_several_models_have_lines_of_their_own() -> None:
    part = WireUsage(input_tokens=100, output_tokens=10)
    whole = WireUsage(input_tokens=300, output_tokens=30)
    passes = (Pass("claude-opus-4-8", part), Pass("claude-haiku-4-5", part), Pass("claude-opus-4-8", part))
    answer = ServiceAnswer(model="claude-opus-4-8", usage=whole, passes=passes)
    cost = listed_cost(SETTINGS.services["anthropic"], answer, NOON)
    assert cost is not None
    assert [(line.model, line.kind, line.quantity) for line in cost.lines] == [
        ("claude-haiku-4-5", "input", 100),
        ("claude-haiku-4-5", "output", 10),
        ("claude-opus-4-8", "input", 200),
        ("claude-opus-4-8", "output", 20),
    ]
    assert sum(line.cost_nanos for line in cost.lines) == cost.nanos


def test_the_source_of_a_price_has_the_date_of_its_list() -> None:
    """The locked version's, as PyPI says it; a list that was fetched has the time at which it was."""
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    (package,) = (each for each in locked if each["name"] == "genai-prices")
    day = package["wheels"][0]["upload-time"][:10]
    assert LIST_DATES[package["version"]] == str(day)
    price = price_of(SETTINGS, "openai", "gpt-5.6-sol", NOON)
    assert price is not None
    assert price.source == f"genai-prices {package['version']} of {day}: openai/gpt-5.6-sol"
    set_custom_snapshot(DataSnapshot(providers=get_snapshot().providers, from_auto_update=True, timestamp=NOON))
    try:
        fetched = price_of(SETTINGS, "openai", "gpt-5.6-sol", NOON)
    finally:
        set_custom_snapshot(None)
    assert fetched is not None
    assert fetched.source == f"genai-prices {package['version']} of 2026-11-22T12:00:00Z: openai/gpt-5.6-sol"


# ---------------------------------------------------------------- what a call chooses


def rates_of(service: str, model: str, *chooses: str, **asked: bool) -> tuple[int, int, int]:
    """Of input, output and cache writes."""
    price = price_of(SETTINGS, service, model, NOON, Asked(chooses, **asked))
    assert price is not None
    return price.input_nanos, price.output_nanos, price.written_nanos


@pytest.mark.parametrize(
    ("service", "model", "chooses", "usd"),
    [
        ("openai", "gpt-6-sol", (), ("2", "10", "2.5")),
        ("openai", "gpt-6-sol", ("service_tier=priority",), ("4", "20", "5")),
        ("openai", "gpt-6-sol", ("service_tier=fast",), ("4", "20", "5")),
        ("openai", "gpt-6-sol", ("service_tier=flex",), ("2", "10", "2.5")),  # it may be served at the usual one
        ("anthropic", "claude-opus-5", ("speed=fast",), ("10", "50", "12.5")),
        ("anthropic", "claude-opus-5", ("inference_geo=us",), ("5.5", "27.5", "6.875")),
        ("anthropic", "claude-opus-5", ("inference_geo=us", "speed=fast"), ("11", "55", "13.75")),
        ("anthropic", "claude-opus-5", ("cache_control.ttl=1h",), ("5", "25", "10")),
    ],
)
def test_a_choice_is_bound_at_the_dearest_price_that_may_apply(
    service: str, model: str, chooses: tuple[str, ...], usd: tuple[str, str, str]
) -> None:
    assert unpriced(SETTINGS, service, model, NOON, chooses) == []
    assert rates_of(service, model, *chooses) == tuple(map(mtok, usd))
    price = price_of(SETTINGS, service, model, NOON, Asked(chooses))
    assert price is not None
    assert all(f" at {choice}" in price.source for choice in chooses)


@pytest.mark.parametrize(
    ("service", "model", "choice"),
    [
        ("openai", "gpt-6-sol", "service_tier=ultrafast"),
        ("openai", "gpt-6-sol", "cache_control.ttl=1h"),
        ("openai", "o3-pro", "service_tier=priority"),
        ("openai", "ours", "service_tier=priority"),  # the configuration says one price
        ("anthropic", "claude-haiku-4-5", "speed=fast"),
        ("anthropic", "claude-opus-5", "inference_geo=moon"),
        ("anthropic", "claude-opus-5", "cache_control.ttl=1w"),
        ("local", "any", "service_tier=flex"),
        ("openrouter", "openai/gpt-6-sol", "service_tier=priority"),
    ],
)
def test_a_choice_that_has_no_listed_price_is_named(service: str, model: str, choice: str) -> None:
    assert unpriced(SETTINGS, service, model, NOON, (choice,)) == [choice]


@pytest.mark.parametrize(
    ("service", "model", "usd"),
    [("openai", "text-embedding-3-small", "0.02"), ("google", "gemini-embedding-001", "0.15")],
)
def test_embeddings_need_no_price_of_output(service: str, model: str, usd: str) -> None:
    assert price_of(SETTINGS, service, model, NOON) is None
    price = price_of(SETTINGS, service, model, NOON, Asked(embeds=True))
    assert price is not None
    assert (price.input_nanos, price.output_nanos) == (mtok(usd), 0)
    usage = WireUsage(input_tokens=1_000)
    cost = listed_cost(SETTINGS.services[service], ServiceAnswer(model=model, usage=usage), NOON)
    assert cost is not None
    assert cost.nanos == price.cost_nanos(usage)
    put_out = usage.model_copy(update={"output_tokens": 1})
    assert listed_cost(SETTINGS.services[service], ServiceAnswer(model=model, usage=put_out), NOON) is None


def test_images_dearer_than_texts_are_bound_at_their_rate() -> None:
    """gemini-embedding-2: $0.20 for a million tokens of text, $0.45 of images."""
    assert rates_of("google", "gemini-embedding-2", embeds=True)[0] == mtok("0.2")
    assert rates_of("google", "gemini-embedding-2", embeds=True, has_media=True)[0] == mtok("0.45")


@given(
    chosen=st.sampled_from(
        [
            ("openai", "gpt-6-sol", "service_tier=priority"),
            ("openai", "gpt-6-sol", "service_tier=flex"),
            ("anthropic", "claude-opus-5", "speed=fast"),
            ("anthropic", "claude-haiku-5-5", "cache_control.ttl=1h"),
            ("anthropic", "claude-opus-5", "inference_geo=us"),
        ]
    ),
    granted=st.booleans(),
    input_tokens=st.integers(0, 10**6),
    output_tokens=st.integers(0, 10**5),
    cached=st.integers(0, 10**5),
    written=st.integers(0, 10**5),
)
def test_no_usage_at_a_chosen_price_costs_more_than_its_bound(
    chosen: tuple[str, str, str], granted: bool, input_tokens: int, output_tokens: int, cached: int, written: int
) -> None:
    service, model, choice = chosen
    name, word = choice.split("=")
    usage = WireUsage(
        input_tokens=input_tokens + cached + written,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=written if choice.startswith("cache") else 0,
        output_tokens=output_tokens,
    )
    answer = ServiceAnswer(
        model=model,
        usage=usage,
        service_tier=word if name == "service_tier" and granted else None,
        speed=word if name == "speed" and granted else None,
        factor=Fraction(11, 10) if name == "inference_geo" and granted else Fraction(1),
    )
    cost = listed_cost(SETTINGS.services[service], answer, NOON)
    price = price_of(SETTINGS, service, model, NOON, Asked((choice,)))
    assert cost is not None
    assert price is not None
    assert cost.nanos <= price.bound_nanos(usage.input_tokens, usage.output_tokens)
