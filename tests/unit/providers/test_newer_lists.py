"""Lists of prices from elsewhere: read as genai-prices' own, refused where they could stop a worker, and each rate that
they change is told."""

import json
import time
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from genai_prices.data_snapshot import DataSnapshot, get_snapshot
from genai_prices.types import ModelPrice
from hypothesis import given
from hypothesis import strategies as st
from price_data import Edits, price_data

from paymaster.providers import list_reading
from paymaster.providers.list_changes import ListChange, list_changes
from paymaster.providers.list_reading import UnusableList, read_list
from paymaster.settings import Settings

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
SETTINGS = Settings.model_validate(
    {
        "services": {
            "openai": {
                "api": "openai",
                "base_url": "https://api.openai.com/v1",
                "models": {"gpt-4o": {"price": {"input": "1", "output": "4"}}},
            }
        },
        "routes": {"writer": ["openai/gpt-5"]},
    }
)
PLAIN: dict[str, Any] = {"input_mtok": 1.25, "output_mtok": 10, "cache_read_mtok": 0.125}


def changes(edits: Edits, before: Edits | None = None) -> list[ListChange]:
    old, new = (DataSnapshot(read_list(price_data(each)), from_auto_update=True) for each in (before, edits))
    return list_changes(SETTINGS, old, new, NOON)


def test_the_published_form_is_read_as_the_package_reads_it() -> None:
    """All models and all prices of all providers; the patterns of all of them are quickly searched for."""
    assert read_list(price_data()) == get_snapshot().providers


def test_a_kind_of_price_that_nobody_knows_takes_the_price_away() -> None:
    """Else its part of a bill would be charged at nothing."""
    for unknown in ("input_smell_mtok", "calc_price"):
        of_a_choice = {"when": {"service_tier": "flex"}, "prices": {unknown: 1}}
        (change,) = changes({"gpt-5": {"prices": PLAIN | {unknown: 1}}})
        assert changes({"gpt-5": {"price_variants": [of_a_choice]}}) == [change]
        assert change.text == "openai/gpt-5: no price any more, so that its calls are refused"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"<html>", "not JSON"),
        (b"{}", "no list of providers"),
        (b"[]", "no list of providers"),
        (b"[" * 100_000, "nested too deeply"),
        (b'[{"id": "x"}]', "0.name"),
        (b"[NaN]", "not JSON"),
    ],
)
def test_what_is_no_list_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(UnusableList, match=problem):
        read_list(data)


@pytest.mark.parametrize(
    "rate",
    [
        -1,
        10**7,
        True,
        "1",
        [],
        {"base": -1, "tiers": []},
        {"base": 1, "tiers": 5},
        {"base": 1, "tiers": [{"start": -1}]},
    ],
)
def test_what_is_no_price_is_refused(rate: Any) -> None:
    with pytest.raises(UnusableList):
        read_list(price_data({"gpt-5": {"prices": {"input_mtok": rate}}}))


def test_a_price_too_long_to_be_one_is_refused_at_once() -> None:
    """To multiply by 1e-999999999 takes all memory."""
    data = price_data({"gpt-5": {"prices": {"input_mtok": 123456}}})
    for written in (b"1e-999999999", b"1e999999999", b"0." + b"0" * 40 + b"1"):
        with pytest.raises(UnusableList, match="no price"):
            read_list(data.replace(b"123456", written))


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "a*a*a*b", "(", "a{1,5000}", "x" * 301])
def test_a_pattern_that_may_take_long_is_refused(pattern: str) -> None:
    with pytest.raises(UnusableList, match="pattern"):
        read_list(price_data({"evil": {"match": {"regex": pattern}, "prices": PLAIN}}))


@pytest.mark.usefixtures("heap_of_a_worker")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@given(st.text(alphabet="ab.*+?()[]{}|\\^$-1,", max_size=40))
def test_a_pattern_that_is_taken_is_searched_for_quickly(pattern: str) -> None:
    model = {"id": "x", "match": {"regex": pattern}}
    document = [{"id": "p", "name": "p", "api_pattern": "https://x", "models": [model]}]
    try:
        (provider,) = read_list(json.dumps(document).encode())
    except UnusableList:
        return
    began = time.process_time()
    provider.models[0].is_match("ab" * 100)
    assert time.process_time() - began < 0.5


def test_a_list_has_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_reading, "PRICE_LIST_BYTES_MAX", 1_000)
    with pytest.raises(UnusableList, match="more than 1,000 bytes"):
        read_list(price_data())


# ---------------------------------------------------------------- what changes


BEFORE: Edits = {"gpt-5": {"prices": PLAIN, "price_variants": []}}


@pytest.mark.parametrize(
    ("members", "told", "needs_consent"),
    [
        ({"prices": PLAIN | {"input_mtok": 1.5}}, ["input $1.25 → $1.5"], False),
        ({"prices": PLAIN | {"input_mtok": 0.625}}, ["input $1.25 → $0.625"], False),
        ({"prices": PLAIN | {"input_mtok": 0.62}}, ["input $1.25 → $0.62"], True),
        ({"prices": PLAIN | {"output_mtok": 0}}, ["output $10 → $0"], True),
        ({"prices": PLAIN | {"cache_read_mtok": 0}}, ["cache read $0.125 → $0"], True),
        ({"prices": PLAIN | {"cache_write_mtok": 0}}, ["cache write $1.25 → $0"], True),
        ({"prices": PLAIN | {"output_image_mtok": 1}}, ["output image $10 → $1"], True),
        ({"prices": PLAIN | {"requests_kcount": 5}}, ["requests per thousand $0 → $5"], False),
        (
            {"prices": PLAIN | {"output_mtok": {"base": 10, "tiers": [{"start": 1000, "price": 1}]}}},
            ["output above 1,000 tokens $10 → $1"],
            True,
        ),
        (
            {
                "prices": [
                    {"prices": PLAIN},
                    {"constraint": {"start_date": "2027-01-01"}, "prices": PLAIN | {"input_mtok": 0}},
                ]
            },
            ["input from 2027-01-01 $1.25 → $0"],
            True,
        ),
        (
            {"price_variants": [{"when": {"service_tier": "default"}, "prices": {"output_mtok": 0.1}}]},
            ["output at service_tier=default $10 → $0.1"],
            True,
        ),
        (
            {
                "prices": [
                    {"prices": PLAIN},
                    {
                        "constraint": {"start_time": "00:30:00", "end_time": "16:30:00"},
                        "prices": PLAIN | {"input_mtok": 1},
                    },
                ]
            },
            ["input 00:30 to 16:30 $1.25 → $1"],
            False,
        ),
        ({"prices": {"output_mtok": 10}}, ["no price any more, so that its calls are refused"], False),
    ],
)
def test_every_rate_that_changes_is_told(members: Edits, told: list[str], needs_consent: bool) -> None:
    """By time, choice and tier, and by what a missing rate stands for; a fall by more than half needs consent."""
    found = changes({"gpt-5": {**(BEFORE["gpt-5"] or {}), **members}}, BEFORE)
    assert [change.text.removeprefix("openai/gpt-5: ") for change in found] == told
    assert [change.needs_consent for change in found] == [needs_consent]


def test_a_fee_that_goes_away_needs_consent() -> None:
    fee = {"gpt-5": {"prices": PLAIN | {"requests_kcount": 5}, "price_variants": []}}
    (change,) = changes(BEFORE, fee)
    assert change == ListChange("openai/gpt-5", "openai/gpt-5: requests per thousand $5 → $0", needs_consent=True)


def test_a_new_model_is_told_and_a_free_one_needs_consent() -> None:
    paid, free = (changes({"gpt-9": {"prices": PLAIN | {"input_mtok": rate}}}) for rate in (1, 0))
    assert [(change.name, change.needs_consent) for change in (*paid, *free)] == [
        ("openai/gpt-9", False),
        ("openai/gpt-9", True),
    ]


def test_a_model_that_takes_the_name_of_another_is_seen() -> None:
    """The first that matches a name is its price; a cheap one in front would be found under its own name alone."""
    data = json.loads(price_data())
    (openai,) = (each for each in data if each["id"] == "openai")
    openai["models"].insert(
        0, {"id": "cheap", "match": {"starts_with": "gpt-5"}, "prices": {"input_mtok": 0.01, "output_mtok": 0.01}}
    )
    after = DataSnapshot(read_list(json.dumps(data).encode()), from_auto_update=True)
    found = list_changes(SETTINGS, get_snapshot(), after, NOON)
    assert any(change.name == "openai/gpt-5" and change.needs_consent for change in found)


def test_a_price_of_ones_own_stays_whatever_the_list_says() -> None:
    """While it is in force."""
    assert changes({"gpt-4o": {"prices": PLAIN | {"input_mtok": 0}}}) == []


def test_an_address_that_the_list_forgets_has_no_prices() -> None:
    providers = deepcopy(get_snapshot().providers)
    after = DataSnapshot([each for each in providers if each.id != "openai"], from_auto_update=True)
    found = list_changes(SETTINGS, get_snapshot(), after, NOON)
    assert "openai/gpt-5: no price any more, so that its calls are refused" in {change.text for change in found}


@given(part=st.integers(0, 100), old=st.integers(1, 10**6), new=st.integers(0, 10**6))
def test_the_part_is_the_configured_one(part: int, old: int, new: int) -> None:
    settings = SETTINGS.model_copy(update={"prices": SETTINGS.prices.model_copy(update={"ask_at_fall": part / 100})})
    model = deepcopy(next(m for p in get_snapshot().providers if p.id == "openai" for m in p.models if m.id == "gpt-5"))
    provider = next(p for p in get_snapshot().providers if p.id == "openai")
    model.price_variants = []
    snapshots: list[DataSnapshot] = []
    for rate in (old, new):
        model.prices = ModelPrice(input_mtok=Decimal(rate), output_mtok=Decimal(1))
        snapshots.append(DataSnapshot([_with_only(provider, deepcopy(model))], from_auto_update=True))
    before, after = snapshots
    found = list_changes(settings, before, after, NOON + timedelta(days=1))
    if old == new:
        assert found == []
    else:
        (change,) = {change.needs_consent for change in found}
        assert change == (new < old and (new == 0 or 100 * new < old * (100 - part)))


def _with_only(provider: Any, model: Any) -> Any:
    copied = deepcopy(provider)
    copied.models = [model]
    return copied
