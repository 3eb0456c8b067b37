"""What finance types: a provider's bill against the stored rows, and an export in FOCUS columns."""

import csv
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command_line import Run, assert_ends_with_advice
from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs]
from records import usual_entry

from paymaster.messages import UsageEntry
from paymaster.reports.bill_formats import FORMATS
from paymaster.storage.engine import create_engine
from paymaster.storage.usage_rows import insert_entries
from paymaster.values.cost_lines import CostLine, Kind, in_one

DAY_S = 1_793_577_600  # 2026-11-02
MODEL = "gpt-5.6-luna"
LINES = (
    CostLine(kind="input", quantity=1_000, unit_price_nanos=2_500_000_000, cost_nanos=2_500_000),
    CostLine(kind="web_search", quantity=1, unit_price_nanos=10_000_000, cost_nanos=10_000_000),
)
OPENAI = """
[services.openai]
api = "openai"
base_url = "https://api.openai.com/v1"
key = "local-key"
"""


def entry(number: int, **fields: object) -> UsageEntry:
    at_ms = DAY_S * 1000 + number
    usual = usual_entry(number) | {"granted_at_ms": at_ms, "started_at_ms": at_ms, "duration_ms": 1_000}
    lines = {"cost_nanos": sum(line.cost_nanos for line in LINES), "paid_for": LINES}
    return UsageEntry.model_validate(usual | lines | {"service": "openai", "model": MODEL} | fields)


async def store(database_url: str, *entries: UsageEntry) -> None:
    engine = create_engine(database_url)
    await insert_entries(engine, entries)
    await engine.dispose()


@pytest.fixture
def folder(folder: Path) -> Path:
    """With a service at OpenAI."""
    file = folder / "paymaster.toml"
    file.write_text(file.read_text() + OPENAI)
    return folder


def write_bill(folder: Path, *usd: str) -> None:
    results = [
        {"amount": {"value": amount, "currency": "usd"}, "line_item": f"{MODEL}-2026-08-06, input"} for amount in usd
    ]
    bucket = {"start_time": DAY_S, "end_time": DAY_S + 86_400, "results": results}
    (folder / "bill.json").write_text(json.dumps({"data": [bucket]}))


UNSURE = entry(3, state="unconfirmed", status="unknown", cost_nanos=900, paid_for=in_one(Kind.BOUND, 900))


async def test_a_bill_is_compared_to_the_nano_dollar(run: Run, folder: Path, database_url: str) -> None:
    """Of the provider's own services, on its own days: other rows are not on the bill."""
    elsewhere, before = entry(7, service="local"), entry(8, granted_at_ms=DAY_S * 1000 - 1)
    await store(database_url, entry(1), entry(2, model_answered=f"{MODEL}-2026-08-06"), elsewhere, before)
    reached = {"PAYMASTER__DATABASE__URL": database_url}
    write_bill(folder, "0.0125", "0.0125")
    agreed = run("bill", "check", "bill.json", "--json", **reached)
    assert (agreed.returncode, agreed.stderr) == (0, "")
    found = json.loads(agreed.stdout)
    assert (found["format"], found["services"], found["agree"]) == ("openai-json", ["openai"], True)
    assert [(line["day"], line["model"], line["posted_usd"]) for line in found["lines"]] == [
        ("2026-11-02", MODEL, "0.025000000")
    ]
    write_bill(folder, "0.0125", "0.012500001")
    differs = run("bill", "check", "bill.json", **reached)
    assert (differs.returncode, differs.stdout.splitlines()[-1]) == (1, "1 of 1 differ")
    assert "+$0.000000001" in differs.stdout
    assert f"2026-11-02 {MODEL}: +$0.000000001: billed more than posted" in differs.stderr


async def test_the_bill_resolves_an_unconfirmed_attempt(run: Run, folder: Path, database_url: str) -> None:
    await store(database_url, entry(1), UNSURE)
    write_bill(folder, "0.0125004")
    differs = run("bill", "check", "bill.json", PAYMASTER__DATABASE__URL=database_url)
    assert differs.returncode == 1
    assert f"unconfirmed resolve {UNSURE.attempt_id} --cost 0.000000400" in differs.stderr
    resolved = {"state": "final", "cost_nanos": 400, "paid_for": in_one(Kind.RESOLVED, 400)}
    await store(database_url, UNSURE.model_copy(update=resolved))
    agreed = run("bill", "check", "bill.json", PAYMASTER__DATABASE__URL=database_url)
    assert (agreed.returncode, agreed.stdout.splitlines()[-1]) == (0, "the bill and what is stored agree")


async def test_searches_and_midnight_are_read_from_the_rows(run: Run, folder: Path, database_url: str) -> None:
    late = entry(2, granted_at_ms=(DAY_S + 86_400) * 1000 - 500, started_at_ms=(DAY_S + 86_400) * 1000 - 400)
    await store(database_url, entry(1), late, entry(4, granted_at_ms=(DAY_S + 90_000) * 1000))
    day, next_day = "2026-11-02", "2026-11-03"
    rows = [
        f"{day},{MODEL},0.0025",
        f"{next_day},{MODEL},0.005",
        f"{day},web_search,0.02",
        f"{next_day},web_search,0.01",
    ]
    (folder / "bill.csv").write_text("\n".join(["usage_date_utc,model,cost_usd", *rows]))
    ended = run("bill", "check", "bill.csv", "--service", "openai", "--json", PAYMASTER__DATABASE__URL=database_url)
    found = {(line["day"], line["model"]): line["why"] for line in json.loads(ended.stdout)["lines"]}
    assert found == {
        (day, MODEL): "midnight",
        (next_day, MODEL): "midnight",
        (day, "web searches"): None,
        (next_day, "web searches"): None,
    }
    assert ended.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["nothing.csv"], "nothing.csv cannot be read: No such file"),
        (["other.csv"], "it has the columns a, b. Expected one of:\n  openai-csv (CSV with the columns amount_value"),
        (["bill.csv", "--format", "pdf"], "--format pdf: write one of openai-csv, openai-json"),
        (["bill.csv", "--model", "gpt"], '--model gpt: write it as "NAME ON THE BILL=OUR MODEL"'),
        (
            ["bill.csv"],
            "no service of the configuration is at anthropic: say which are on the bill by --service; there",
        ),
    ],
)
def test_a_bill_that_cannot_be_checked_says_why(run: Run, folder: Path, arguments: list[str], advice: str) -> None:
    (folder / "other.csv").write_text("a,b\n1,2\n")
    (folder / "bill.csv").write_text("usage_date_utc,model,cost_usd\n2026-11-02,Claude Haiku 4.5,1\n")
    assert_ends_with_advice(run("bill", "check", *arguments), 2, advice)


def test_a_service_that_nobody_knows_is_refused(run: Run, folder: Path, database_url: str) -> None:
    write_bill(folder, "0.0125")
    ended = run("bill", "check", "bill.json", "--service", "opneai", PAYMASTER__DATABASE__URL=database_url)
    assert_ends_with_advice(ended, 2, "--service opneai: it is not in the configuration, and nothing of it is stored")


def test_of_a_day_that_is_not_over_nothing_is_said(run: Run, folder: Path, database_url: str) -> None:
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    (folder / "bill.csv").write_text(f"usage_date_utc,model,cost_usd\n{today},{MODEL},1\n")
    ended = run("bill", "check", "bill.csv", "--service", "openai", PAYMASTER__DATABASE__URL=database_url)
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (
        0,
        "no day of the bill is whole, so nothing can be said of it yet",
    )


def test_the_help_names_every_format(run: Run) -> None:
    said = " ".join(run("bill", "check", "--help", COLUMNS="400").stdout.split())
    assert ", ".join(form.name for form in FORMATS) in said


async def test_focus_is_written_when_it_is_complete(run: Run, folder: Path, database_url: str) -> None:
    await store(database_url, entry(1), UNSURE)
    reached = {"PAYMASTER__DATABASE__URL": database_url}
    for name in ("focus.csv", "focus.parquet"):
        written = run("usage", "--focus", name, "--budget", "acme", **reached)
        assert (written.returncode, written.stdout) == (0, f"wrote {name}: 3 rows, $0.0125009\n"), written.stderr
    with (folder / "focus.csv").open(newline="") as file:
        assert [row["ServiceProviderName"] for row in csv.DictReader(file)] == ["OpenAI"] * 3
    assert parquet.read_table(folder / "focus.parquet").num_rows == 3
    before = (folder / "focus.csv").read_bytes()
    assert run("usage", "--focus", "focus.csv", PAYMASTER__DATABASE__URL="postgresql://127.0.0.1:1/no").returncode == 2
    assert (folder / "focus.csv").read_bytes() == before
    assert not list(folder.glob("*.part"))
