"""Providers' exports of costs, as they are documented: what is read of each, exactly, and what is refused."""

import io
import json
from datetime import date
from fractions import Fraction
from typing import TextIO, cast

import pytest

from paymaster.reports.bill_formats import FORMATS, Bill, BillUnreadable, read_bill

SECOND, THIRD, FOURTH = date(2026, 11, 2), date(2026, 11, 3), date(2026, 11, 4)
SECOND_S = 1_793_577_600
DAY_S = 86_400


def read(text: str, form: str | None = None) -> tuple[str, Bill]:
    known, bill = read_bill(io.StringIO(text, newline=""), form)
    return known.name, bill


def charges(text: str) -> list[tuple[date, str, str]]:
    _, bill = read(text)
    return [(day, item, dollars(usd)) for day, item, usd in bill.charges]


def dollars(usd: Fraction) -> str:
    """With fifteen decimals, without a rest."""
    whole = usd * 10**15
    assert whole.denominator == 1
    return f"{whole.numerator / 10**15:.15f}" if abs(whole) < 10**15 else str(usd)


OPENAI_CSV = (
    "start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,line_item,project_id\n"
    f"{SECOND_S},{SECOND_S + DAY_S},2026-11-02T00:00:00+00:00,2026-11-03T00:00:00+00:00,"
    '0.0038359800000000,usd,"gpt-5.6-luna-2026-08-06, input",proj_a\n'
    f"{SECOND_S + DAY_S},{SECOND_S + 2 * DAY_S},2026-11-03T00:00:00+00:00,2026-11-04T00:00:00+00:00,,,,\n"
)
ANTHROPIC_CSV = (
    "\ufeffusage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,list_price_usd,cost_type\n"
    "2026-11-02,Claude Haiku 4.5,Default,key,message,≤ 200k,input_no_cache,0.05,0.05,token\n"
    "2026-11-04,,Default,key,message,,,0.01,0.01,web_search\n"
)
OPENROUTER_CSV = (
    "generation_id,created_at,cost_total,cost_web_search,tokens_prompt,model_permaslug,provider_name\n"
    "gen-1,2026-11-02 23:59:59.999,0.0123,0,100,openai/gpt-4.1-2025-04-14,OpenAI\n"
)
AZURE_EA = (
    "InvoiceSectionName,Date,MeterCategory,MeterName,ConsumedService,CostInBillingCurrency,BillingCurrencyCode\n"
    "team,11/02/2026,Azure OpenAI,gpt 4o 0806 Inp glbl Tokens,Microsoft.CognitiveServices,0.000012500000001,USD\n"
    "team,11/02/2026,Storage,Hot LRS,Microsoft.Storage,7.5,USD\n"
)
AZURE_MCA = (
    "billingProfileName,date,meterName,consumedService,costInBillingCurrency,costInUsd,billingCurrency\n"
    "profile,11/02/2026,gpt 4o 0806 Outp glbl Tokens,microsoft.cognitiveservices,0.9,1,EUR\n"
)


def openai_page(*results: dict[str, object], **page: object) -> str:
    bucket = {"object": "bucket", "start_time": SECOND_S, "end_time": SECOND_S + DAY_S, "results": list(results)}
    return json.dumps({"object": "page", "data": [bucket], "has_more": False} | page)


def openai_result(value: object, item: str | None = "gpt-5.6-luna, output", currency: str = "usd") -> dict[str, object]:
    return {"object": "organization.costs.result", "amount": {"value": value, "currency": currency}, "line_item": item}


def test_openai_says_the_model_before_the_kind_of_tokens() -> None:
    assert charges(OPENAI_CSV) == [(SECOND, "gpt-5.6-luna-2026-08-06", "0.003835980000000")]
    _, bill = read(OPENAI_CSV)
    assert bill.days == (SECOND, THIRD)  # a day without costs is on the bill
    page = openai_page(openai_result(0.25), openai_result(1, None))
    assert charges(page) == [(SECOND, "gpt-5.6-luna", "0.250000000000000"), (SECOND, "", "1")]


def test_a_number_in_json_is_never_a_float() -> None:
    """Which would make 0.1 + 0.2 of an amount like this another one."""
    page = openai_page(openai_result("VALUE")).replace('"VALUE"', "0.13080438340307526")
    [(_, _, usd)] = read(page)[1].charges
    assert usd == Fraction("0.13080438340307526")


def test_anthropic_has_cents_in_json_and_dollars_in_csv() -> None:
    assert charges(ANTHROPIC_CSV) == [
        (SECOND, "Claude Haiku 4.5", "0.050000000000000"),
        (FOURTH, "web_search", "0.010000000000000"),
    ]
    assert read(ANTHROPIC_CSV)[1].days == (SECOND, THIRD, FOURTH)
    result = {"amount": "123.45", "currency": "USD", "model": "claude-haiku-4-5", "cost_type": "tokens"}
    bucket = {"starting_at": "2026-11-02T00:00:00Z", "ending_at": "2026-11-03T00:00:00Z", "results": [result]}
    name, bill = read(json.dumps({"data": [bucket], "has_more": True, "next_page": "p"}))
    assert (name, bill.charges[0].usd, bill.more) == ("anthropic-json", Fraction("1.2345"), True)


def test_openrouter_has_generations_in_csv_and_days_in_json() -> None:
    assert charges(OPENROUTER_CSV) == [(SECOND, "openai/gpt-4.1-2025-04-14", "0.012300000000000")]
    item = {"date": "2026-11-02", "model": "openai/gpt-4.1", "usage": 0.5, "byok_usage_inference": 0.25}
    assert charges(json.dumps({"data": [item]})) == [(SECOND, "openai/gpt-4.1", "0.500000000000000")]


def test_azure_has_ai_services_alone_in_dollars_too() -> None:
    assert charges(AZURE_EA) == [(SECOND, "gpt 4o 0806 Inp glbl Tokens", "0.000012500000001")]
    assert charges(AZURE_MCA) == [(SECOND, "gpt 4o 0806 Outp glbl Tokens", "1")]
    with pytest.raises(BillUnreadable, match="line 2: billingCurrency: it is in EUR"):
        read(AZURE_EA.replace("USD", "EUR"))


def test_a_part_of_a_day_is_told() -> None:
    noon = json.loads(openai_page(openai_result(1)))
    noon["data"][0]["start_time"] += DAY_S // 2
    _, bill = read(json.dumps(noon))
    assert bill.partial == {SECOND: "the bill has it from 12:00 to 00:00 UTC"}
    noon["data"][0] |= {"start_time": SECOND_S, "end_time": SECOND_S + DAY_S // 4}
    assert read(json.dumps(noon))[1].partial == {SECOND: "the bill has it from 00:00 to 06:00 UTC"}
    assert read(openai_page())[1].partial == {}


def test_pages_may_be_in_one_array() -> None:
    pages = [json.loads(openai_page(openai_result(1), has_more=True)), json.loads(openai_page(openai_result(2)))]
    _, bill = read(json.dumps(pages))
    assert ([usd for _, _, usd in bill.charges], bill.more) == ([3], False)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_an_unknown_file_is_told_what_was_expected(form: object) -> None:
    with pytest.raises(BillUnreadable, match=r"it has the columns a, b. Expected one of:\n") as told:
        read("a,b\n1,2\n")
    assert str(form.name) in str(told.value)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


@pytest.mark.parametrize(
    ("text", "form", "words"),
    [
        ("", None, "no columns: it is empty"),
        ("{]", None, "it begins like JSON and is none"),
        ("[1]", None, "no page with `data`"),
        ('{"data": 1}', None, "no list of objects"),
        (OPENAI_CSV, "azure-csv", r"Expected one of:\n  azure-csv \(CSV with the columns consumedservice"),
        (OPENAI_CSV.replace("0.0038359800000000", "1e5000"), None, "line 2: amount_value: '1e5000' is no amount"),
        (OPENAI_CSV.replace("0.0038359800000000", "NaN"), None, "line 2: amount_value: 'NaN' is no amount"),
        (
            OPENAI_CSV.replace("0.0038359800000000", f"1.{'3' * 100}"),
            None,
            "line 2: amount_value: '1.3+' is no amount",
        ),
        (
            OPENAI_CSV.replace(f"\n{SECOND_S},", "\n253402214400,"),
            None,
            "start_time: '253402214400' is no time of a bill",
        ),
        (OPENAI_CSV.replace(f"\n{SECOND_S},", "\n0001-01-01T00:00+23:59,"), None, "start_time: '0001-.*' is no time"),
        (AZURE_EA.replace("11/02/2026", "12/31/9999"), None, "date: '9999-12-31.*' is no time of a bill"),
        (OPENAI_CSV.replace(",usd,", ",eur,"), None, "line 2: amount_currency: it is in eur"),
        (OPENAI_CSV.replace(f"\n{SECOND_S},", "\nsoon,"), None, "line 2: start_time: 'soon' is no time"),
        (OPENAI_CSV.replace(",proj_a", ""), None, "line 2: it has 7 cells, and there are 8 columns"),
        (openai_page({"num_model_requests": 5}), None, "it is of the usage API, and not of the costs API"),
        (openai_page(openai_result("V")).replace('"V"', "NaN"), None, "NaN is no amount"),
        (openai_page(openai_result(True)), None, "amount.value: True is no amount"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(text: str, form: str | None, words: str) -> None:
    with pytest.raises(BillUnreadable, match=words):
        read(text, form)


class Endless(io.TextIOBase):
    """A file that begins like this, and has no second line and no end."""

    def __init__(self, start: str) -> None:
        self._start = start

    def seek(self, offset: int, whence: int = 0) -> int:
        return 0

    def read(self, size: int | None = -1) -> str:
        assert size is not None
        assert size > 0, "all of it is asked for at once"
        return (self._start + " " * size)[:size]

    def readline(self, size: int = -1) -> str:  # type: ignore[override]
        return self.read(size)


@pytest.mark.parametrize(
    ("start", "words"), [("start_time,", "a line of 1,000,000 characters"), ("{", "more than 67,")]
)
def test_a_file_without_an_end_is_not_read_to_it(start: str, words: str) -> None:
    with pytest.raises(BillUnreadable, match=words):
        read_bill(cast("TextIO", Endless(start)), None)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_than_utf_8_is_said(encoding: str) -> None:
    """Also where it shows in the first bytes only."""
    file = io.TextIOWrapper(io.BytesIO(f"{OPENAI_CSV}é".encode(encoding)), encoding="utf-8", newline="")
    with pytest.raises(BillUnreadable, match="it is not UTF-8"):
        read_bill(file, None)
