"""What is stored, in the columns of FOCUS: exact in every row, complete in every file."""

import csv
import itertools
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paymaster_process import Databases
from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs]
from records import usual_entry
from searches import examples
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from stored_rows import NO_TRIGGERS

from paymaster.cli.present import csv_text
from paymaster.messages import UsageEntry
from paymaster.reports.focus import COLUMNS, Cell, FocusRow
from paymaster.reports.focus_files import Exported, FocusCsv, FocusFile, FocusParquet, export_focus
from paymaster.reports.usage import usage_report
from paymaster.storage.engine import create_engine
from paymaster.storage.usage_rows import insert_entries
from paymaster.values.cost_lines import UNITS, CostLine, Kind, adding_up_to, in_one
from paymaster.values.money import usd_to_nanos

NUMBERS = itertools.count(1)
NOON = datetime(2026, 2, 28, 12, 34, 56, tzinfo=UTC)
PROVIDERS = {"openai": "OpenAI"}
LINES = (
    CostLine(kind="input", quantity=1_234, unit_price_nanos=2_500_000_000, cost_nanos=3_085_000),
    CostLine(kind="output", quantity=3, unit_price_nanos=10_000_000_001, cost_nanos=30_001),
    CostLine(kind="web_search", quantity=2, unit_price_nanos=10_000_000, cost_nanos=20_000_000),
)


def entry(**fields: object) -> UsageEntry:
    number = next(NUMBERS)
    at_ms = round(NOON.timestamp() * 1000) + number
    usual = usual_entry(number) | {"granted_at_ms": at_ms, "started_at_ms": at_ms}
    lines = fields.get("paid_for", LINES)
    cost = {"paid_for": lines, "cost_nanos": sum(line.cost_nanos for line in lines)} if isinstance(lines, tuple) else {}
    return UsageEntry.model_validate(usual | cost | fields)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture(scope="module")
async def migrated_once(databases: Databases) -> AsyncIterator[AsyncEngine]:
    """For Hypothesis, whose examples cannot have a database each; they have ledgers of their own."""
    engine = create_engine(await databases.create())
    yield engine
    await engine.dispose()


class Kept:
    """A file that is only in memory."""

    def __init__(self) -> None:
        self.rows: list[FocusRow] = []
        self.most_at_once = 0

    def write(self, rows: Sequence[FocusRow]) -> None:
        self.rows += rows
        self.most_at_once = max(self.most_at_once, len(rows))

    def close(self) -> None:
        pass


async def exported(
    engine: AsyncEngine, file: FocusFile, ledger: str = "default", budget: str | None = None
) -> Exported:
    found = await export_focus(engine, file, ledger=ledger, providers=PROVIDERS, budget=budget)
    file.close()
    return found


async def rows_of(engine: AsyncEngine, *entries: UsageEntry, **scope: str) -> list[FocusRow]:
    await insert_entries(engine, entries)
    kept = Kept()
    await exported(engine, kept, **scope)
    return kept.rows


# ---------------------------------------------------------------- what is in a row


async def test_each_kind_of_token_is_a_row_with_its_price(engine: AsyncEngine) -> None:
    tokens, finer, searches = await rows_of(engine, entry(metadata={"team": "blue"}, run="root/first"))
    assert {name: str(value) for name, value in tokens.items() if name.startswith(("Consumed", "Pricing", "Sku"))} == {
        "ConsumedQuantity": "1234",
        "ConsumedUnit": "Tokens",
        "PricingCategory": "Standard",
        "PricingQuantity": "0.001234",
        "PricingUnit": "1000000 Tokens",
        "SkuId": "openai/gpt-5.6-luna/input",
        "SkuMeter": "Input tokens",
        "SkuPriceDetails": '{"x_Kind": "input", "x_Model": "gpt-5.6-luna"}',
        "SkuPriceId": "openai/gpt-5.6-luna/input/2.500000000",
    }
    assert (tokens["ListUnitPrice"], tokens["BilledCost"]) == (Decimal("2.5"), Decimal("0.003085"))
    assert (tokens["ServiceProviderName"], tokens["SubAccountId"], tokens["Tags"], tokens["x_Run"]) == (
        "OpenAI",
        "acme/content",
        '{"team": "blue"}',
        "root/first",
    )
    assert tokens["ChargePeriodStart"] == datetime(2026, 2, 28, 12, tzinfo=UTC)
    assert tokens["ChargePeriodEnd"] == datetime(2026, 2, 28, 13, tzinfo=UTC)
    assert tokens["BillingPeriodStart"] == datetime(2026, 2, 1, tzinfo=UTC)
    assert tokens["BillingPeriodEnd"] == datetime(2026, 3, 1, tzinfo=UTC)
    # Rounding is in the product alone: what was charged is what the ledger posted.
    assert (finer["ListCost"], finer["BilledCost"]) == (Decimal("0.000030000000003"), Decimal("0.000030001"))
    assert (searches["ConsumedUnit"], searches["PricingUnit"], searches["PricingQuantity"]) == (
        "Searches",
        "Searches",
        Decimal(2),
    )


async def test_what_is_no_quantity_at_a_price_is_an_adjustment(engine: AsyncEngine) -> None:
    """A correction by an admin, and the difference between a charge and its other lines, have no SKU."""
    corrected = entry(status="corrected", usage=None, paid_for=in_one(Kind.RESOLVED, -5))
    adjusted = entry(paid_for=adding_up_to(LINES[:1], LINES[0].cost_nanos + 7))
    taken_back, _tokens, rest = await rows_of(engine, corrected, adjusted)
    for row, cost in ((taken_back, "-5E-9"), (rest, "7E-9")):
        assert (row["ChargeCategory"], row["BilledCost"], row["ListCost"]) == (
            "Adjustment",
            Decimal(cost),
            Decimal(cost),
        )
        assert not {"SkuPriceId", "ConsumedQuantity", "PricingQuantity", "ListUnitPrice"} & set(row)


async def test_tokens_that_another_line_pays_for_cost_nothing(engine: AsyncEngine) -> None:
    tokens, own = await rows_of(engine, entry(service="elsewhere", paid_for=in_one(Kind.OWN_FIGURE, 99, LINES[:1])))
    assert (tokens["ConsumedQuantity"], tokens["ListUnitPrice"], tokens["BilledCost"]) == (1_234, 0, 0)
    assert (own["ConsumedUnit"], own["ListUnitPrice"], own["BilledCost"]) == (
        "Attempts",
        Decimal("99E-9"),
        Decimal("99E-9"),
    )
    assert own["ServiceProviderName"] == "elsewhere"


async def test_what_was_stored_without_lines_is_one_row(engine: AsyncEngine) -> None:
    [old] = await rows_of(engine, entry(paid_for=None, cost_nanos=7), entry(paid_for=None, cost_nanos=0))
    assert (old["SkuMeter"], old["BilledCost"], old["ListCost"]) == ("Not recorded", Decimal("7E-9"), Decimal("7E-9"))


async def test_of_several_budgets_the_one_asked_for_is_named(engine: AsyncEngine) -> None:
    several = entry(further_budgets=("shared/search",), paid_for=LINES[:1])
    assert [row["SubAccountId"] for row in await rows_of(engine, several)] == ["acme/content"]
    [row] = await rows_of(engine, budget="shared")
    assert (row["SubAccountId"], json.loads(str(row["x_Budgets"]))) == (
        "shared/search",
        ["acme/content", "shared/search"],
    )
    assert await rows_of(engine, budget="acme/other") == []


# ---------------------------------------------------------------- sums


NANOS = st.integers(min_value=0, max_value=10**12)
PRICED = st.builds(
    CostLine,
    kind=st.sampled_from([*Kind, "of_a_later_version"]),
    quantity=st.integers(min_value=0, max_value=10**9),
    unit_price_nanos=st.none() | NANOS,
    cost_nanos=NANOS | NANOS.map(lambda nanos: -nanos),
)
DRAWN = st.lists(
    st.tuples(
        st.none() | st.lists(PRICED, max_size=4).map(tuple),
        st.sampled_from(["acme", "acme/a", "acme/b", "other"]),
        st.sampled_from(["openai", "local"]),
        NANOS,
    ),
    max_size=8,
)


@settings(max_examples=examples(25), deadline=None)
@given(drawn=DRAWN)
async def test_the_sums_are_those_of_the_rows(migrated_once: AsyncEngine, drawn: list[Any]) -> None:
    """In each service and budget, to the nano-dollar, whatever the prices are rounded to."""
    ledger = f"drawn-{next(NUMBERS)}"
    entries = [
        entry(ledger=ledger, budget=budget, service=service, paid_for=lines)
        if lines is not None
        else entry(ledger=ledger, budget=budget, service=service, paid_for=None, cost_nanos=cost)
        for lines, budget, service, cost in drawn
    ]
    rows = await rows_of(migrated_once, *entries, ledger=ledger)
    billed: Counter[tuple[object, object]] = Counter()
    for row in rows:
        billed[row["ServiceName"], row["SubAccountId"]] += nanos(row["BilledCost"])
        if "SkuPriceId" in row:
            assert row["ListUnitPrice"] * row["PricingQuantity"] == row["ListCost"]  # pyright: ignore[reportOptionalOperand, reportOperatorIssue]
    report = await usage_report(migrated_once, ledger=ledger, by=["service", "budget"])
    assert +billed == +Counter({(row.service, row.budget): row.cost_nanos for row in report})
    used: Counter[str] = Counter()
    for line in (line for each in entries for line in each.paid_for or ()):
        if UNITS.get(line.kind) == "tokens" and line.cost_nanos >= 0:
            used[line.kind] += line.quantity
    told: Counter[str] = Counter()
    for row in rows:
        if row.get("ConsumedUnit") == "Tokens":
            told[json.loads(str(row["SkuPriceDetails"]))["x_Kind"]] += int(row["ConsumedQuantity"])  # pyright: ignore[reportArgumentType]
    assert +told == +used


def nanos(cost: object) -> int:
    assert isinstance(cost, Decimal)
    return usd_to_nanos(cost)


async def test_a_million_rows_are_a_few_thousand_at_a_time(engine: AsyncEngine) -> None:
    """Shown with ten thousand: however many there are, no more of them are in memory."""
    await insert_entries(engine, [entry(attempt_id="first")])
    names = (
        "state, hold_id, call_id, workflow_id, run_id, ledger, epoch, budget, service, model, granted_at, status,"
        " cost_usd, price_source, metadata, paid_for"
    )
    copies = text(
        f"INSERT INTO usage_entries (attempt_id, {names})"
        f" SELECT 'copy-' || number, {names} FROM usage_entries, generate_series(1, 9999) AS number"
    )
    async with engine.begin() as connection:
        await connection.execute(NO_TRIGGERS)
        await connection.execute(copies)
    kept = Kept()
    found = await exported(engine, kept)
    assert found == Exported(30_000, 10_000 * sum(line.cost_nanos for line in LINES))
    assert kept.most_at_once <= 6_000


# ---------------------------------------------------------------- files


ODD = {"model": "=1+1", "metadata": {"team": 'a "b", c\r\nd'}, "provider_request_id": "\u202ereq"}


async def test_csv_and_parquet_have_the_same_cells(engine: AsyncEngine, tmp_path: Path) -> None:
    """A spreadsheet calculates none of them; a decimal keeps its digits, and a time is in UTC."""
    unsure = entry(state="unconfirmed", status="unknown", usage=None, paid_for=in_one(Kind.BOUND, 10**20 - 1))
    await insert_entries(engine, [entry(**ODD), unsure])
    as_csv, as_parquet = tmp_path / "focus.csv", tmp_path / "focus.parquet"
    assert await exported(engine, FocusCsv(as_csv, csv_text)) == await exported(engine, FocusParquet(as_parquet))
    with as_csv.open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    table = parquet.read_table(as_parquet)
    assert table.schema.metadata[b"FocusVersion"] == b"1.4"
    assert list(cells[0]) == table.column_names == list(COLUMNS)
    for told, typed in zip(cells, table.to_pylist(), strict=True):
        for name, cell in COLUMNS.items():
            assert (in_type(cell, told[name]) if told[name] else None) == plain(cell, typed[name]), name
    assert cells[0]["BilledCost"] == "99999999999.999999999"
    assert {row["x_Model"] for row in cells} == {"'=1+1", "gpt-5.6-luna"}
    assert cells[0]["ChargePeriodStart"] == "2026-02-28T12:00:00Z"


def in_type(cell: Cell, told: str) -> object:
    match cell:
        case Cell.TIME:
            return datetime.fromisoformat(told)
        case Cell.TEXT:
            return told
        case _:
            assert "E" not in told
            return Decimal(told)


def plain(cell: Cell, value: Any) -> object:
    """What CSV has of it: a name that is no formula, a time in whole seconds."""
    if value is None:
        return None
    match cell:
        case Cell.TIME:
            return value.replace(microsecond=0)
        case Cell.TEXT:
            return csv_text(value)
        case _:
            return value


FOUNDATIONS_VALIDATOR = os.environ.get("FOCUS_VALIDATOR") or shutil.which("focus-validator")


@pytest.mark.full
@pytest.mark.skipif(
    FOUNDATIONS_VALIDATOR is None,
    reason="needs the FinOps Foundation's validator: `pip install focus-validator` (Python 3.12 or newer, in an"
    " environment of its own), and its path in FOCUS_VALIDATOR",
)
async def test_the_foundations_own_validator_finds_nothing(engine: AsyncEngine, tmp_path: Path) -> None:
    """The newest rules that come with it are those of 1.2, which still has two columns by their older names."""
    corrected = entry(status="corrected", usage=None, paid_for=in_one(Kind.RESOLVED, -5))
    bought = entry(service="search tool", model="purchase", paid_for=in_one(Kind.PURCHASE, 5))
    await insert_entries(engine, [entry(), corrected, bought, entry(paid_for=None, cost_nanos=7)])
    path = tmp_path / "focus.csv"
    await exported(engine, FocusCsv(path, csv_text))
    head, _, rows = path.read_bytes().decode().partition("\r\n")
    older = head.replace("ServiceProviderName", "ProviderName").replace("HostProviderName", "PublisherName")
    path.write_text(f"{older}\r\n{rows}", encoding="utf-8", newline="")
    assert FOUNDATIONS_VALIDATOR is not None
    # It reads files of its own by paths from where it is installed.
    [installed] = Path(FOUNDATIONS_VALIDATOR).absolute().parents[1].glob("lib/python*/site-packages")
    judged = subprocess.run(
        [FOUNDATIONS_VALIDATOR, "--data-file", path, "--validate-version", "1.2", "--block-download"],
        cwd=installed,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Validation Results" in judged.stdout, judged.stdout + judged.stderr
    failed = {line.split()[1].rstrip(":") for line in judged.stdout.splitlines() if ": FAIL" in line}
    assert {rule for rule in failed if not rule.startswith("InvoiceId-") and rule != NO_INVOICES} == set()


NO_INVOICES = "CostAndUsage-D-033-O"
"""Version 1.2 recommends the column InvoiceId; 1.4 has it where there are payable invoices, which Paymaster has not."""
