"""Files in the columns of FOCUS: the stored rows as CSV or Parquet, a few thousand of them in memory at a time."""

import asyncio
import csv
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.reports.focus import COLUMNS, FOCUS_VERSION, Cell, FocusRow, focus_rows
from paymaster.reports.usage import dimension_key, rows_in_report
from paymaster.storage.usage_rows import counted_usage
from paymaster.values.extras import names_extra
from paymaster.values.money import NANOS_PER_USD

_ROWS_AT_ONCE = 2_000


class Exported(NamedTuple):
    """What is in a file."""

    rows: int
    billed_nanos: int


class FocusFile(Protocol):
    """A file that is being written."""

    def write(self, rows: Sequence[FocusRow]) -> None: ...

    def close(self) -> None: ...


async def export_focus(
    engine: AsyncEngine,
    file: FocusFile,
    *,
    ledger: str,
    providers: Mapping[str, str],
    since: datetime | None = None,
    until: datetime | None = None,
    budget: str | None = None,
    run: str | None = None,
) -> Exported:
    """Writes the rows of a ledger, oldest first. Scope and sums are those of the usage report, to the nano-dollar.

    `providers`: who provides each service. `since`, `until`: entries granted at this time or later, and before that
    time (None: all). `budget`, `run`: entries of this one or below it.
    """
    query = (
        select(counted_usage, dimension_key(counted_usage, "budget", budget).label("reported_budget"))
        .where(*rows_in_report(counted_usage, ledger, since, until, budget, run))
        .order_by(counted_usage.c.granted_at, counted_usage.c.id)
    )
    count = billed_nanos = 0
    async with engine.connect() as connection:
        found = await connection.stream(query, execution_options={"yield_per": _ROWS_AT_ONCE})
        async for stored in found.mappings().partitions():
            rows = [row for each in stored for row in focus_rows(each, providers)]
            await asyncio.to_thread(file.write, rows)
            count += len(rows)
            billed_nanos += sum(_nanos(row["BilledCost"]) for row in rows)
    return Exported(count, billed_nanos)


def _nanos(cost: object) -> int:
    assert isinstance(cost, Decimal)  # every row has a cost
    whole, parts = cost.as_integer_ratio()  # exact however large a line is, where a Decimal would round
    return whole * NANOS_PER_USD // parts


class FocusCsv:
    """CSV by RFC 4180 in UTF-8: times in ISO 8601 with a Z, decimals without exponents, an empty cell for null."""

    def __init__(self, path: Path, clean: Callable[[str], str]) -> None:
        """`clean` makes a text one that a spreadsheet does not calculate."""
        self._clean = clean
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\r\n")
        self._writer.writerow(COLUMNS)

    def write(self, rows: Sequence[FocusRow]) -> None:
        self._writer.writerows([self._cell(row.get(name)) for name in COLUMNS] for row in rows)

    def close(self) -> None:
        self._file.close()

    def _cell(self, value: str | Decimal | datetime | None) -> str:
        if isinstance(value, datetime):
            return f"{value:%Y-%m-%dT%H:%M:%SZ}"
        if isinstance(value, Decimal):
            return f"{value:f}"
        return "" if value is None else self._clean(value)


class FocusParquet:
    """Parquet with exact decimals and times in UTC; its metadata names the version of the specification.

    Raises ExtraMissing without the extra `parquet`.
    """

    def __init__(self, path: Path) -> None:
        with names_extra("a Parquet file"):
            import pyarrow  # pyright: ignore[reportMissingTypeStubs]
            from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs]
        # A decimal that has more digits than its column is an error of pyarrow, never a rounded one.
        types: dict[Cell, Any] = {
            Cell.TEXT: pyarrow.string(),
            Cell.TIME: pyarrow.timestamp("us", tz="UTC"),
            Cell.QUANTITY: pyarrow.decimal128(38, 6),
            Cell.MONEY: pyarrow.decimal128(38, 9),
            Cell.PRODUCT: pyarrow.decimal128(38, 15),
        }
        fields: list[Any] = [pyarrow.field(name, types[cell]) for name, cell in COLUMNS.items()]
        self._schema = cast("Any", pyarrow.schema(fields, metadata={"FocusVersion": FOCUS_VERSION}))
        self._writer = parquet.ParquetWriter(path, self._schema)
        self._table: Callable[..., Any] = pyarrow.Table.from_pylist

    def write(self, rows: Sequence[FocusRow]) -> None:
        if rows:
            self._writer.write_table(self._table(rows, schema=self._schema))

    def close(self) -> None:
        self._writer.close()
