"""A provider's bill, read from the files that providers export: CSV and JSON, by their documented columns.

Amounts are read as text and stay exact: no float is ever made of them.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, NamedTuple, TextIO, cast

Cells = Mapping[str, str]
"""A row of a CSV file, by the names of its columns in lower case."""

_DAY = timedelta(days=1)
_DIGITS_MAX = 30  # before or after the point: "1e999999999" is an amount of a gigabyte
_LINE_CHARACTERS_MAX = 1_000_000
"""Of CSV. A longer line is not read to its end."""
_JSON_CHARACTERS_MAX = 64 * 1024 * 1024
_SHOWN_MAX = 60
"""Characters of a value, in the message that refuses it."""
_YEARS = range(2000, 2200)
"""What a bill can be about; days between its first and its last are listed."""


class BillUnreadable(ValueError):
    """A file that is none of the known exports. The message says what was expected."""


class Charge(NamedTuple):
    """What a bill has for an item on a day."""

    day: date
    """UTC, as all of these providers count their days."""
    item: str
    """A model, as the provider calls it, or what else is charged for; "" if the bill does not say."""
    usd: Fraction


class Bill(NamedTuple):
    """What a file says."""

    charges: tuple[Charge, ...]
    days: tuple[date, ...]
    """Every day that the file is about, also one without charges; in order."""
    partial: Mapping[date, str]
    """Days of which the file has a part, and what is missing."""
    more: bool
    """It says itself that there are more pages."""


@dataclass(frozen=True)
class BillFormat:
    """An export of a provider."""

    name: str
    """What `--format` takes."""
    provider: str
    """Its id in the public price list."""
    columns: frozenset[str]
    """By which it is recognised: those of CSV in lower case, or in JSON the members of what is in `data`."""
    read: Callable[[Any], Bill]
    """Of the rows of a CSV file, or of the parsed pages of JSON."""
    is_json: bool

    @property
    def described(self) -> str:
        kind = "JSON whose data has" if self.is_json else "CSV with the columns"
        return f"{self.name} ({kind} {', '.join(sorted(self.columns))})"


def read_bill(file: TextIO, wanted: str | None) -> tuple[BillFormat, Bill]:
    """The bill in a file, and which format it has. `wanted`: the name of the only one that is tried.

    Raises BillUnreadable, also for amounts in another currency than US dollars.
    """
    known = [each for each in FORMATS if wanted is None or each.name == wanted]
    try:
        start = file.read(4_096)
        file.seek(0)
        if start.lstrip("\ufeff \t\r\n")[:1] in ("{", "["):
            return _from_json(file, known)
        return _from_csv(file, known)
    except UnicodeDecodeError:  # its message may hold a piece of the file
        raise BillUnreadable("it is not UTF-8: save it as UTF-8") from None
    except (csv.Error, RecursionError) as error:
        raise BillUnreadable(f"it is neither CSV nor JSON: {error}") from None


def _from_csv(file: TextIO, known: list[BillFormat]) -> tuple[BillFormat, Bill]:
    rows = csv.reader(_lines(file))
    header = [name.strip().lstrip("\ufeff").lower() for name in next(rows, list[str]())]
    for each in known:
        if not each.is_json and each.columns <= set(header):
            try:
                return each, each.read(_cells(header, rows))
            except BillUnreadable as error:
                raise BillUnreadable(f"line {rows.line_num}: {error}") from None
    raise _unknown(f"the columns {', '.join(header[:40])}" if header else "no columns: it is empty", known)


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(_LINE_CHARACTERS_MAX):
        if len(line) == _LINE_CHARACTERS_MAX:
            raise BillUnreadable(f"it has a line of {_LINE_CHARACTERS_MAX:,} characters and more")
        yield line


def _cells(header: list[str], rows: Iterable[list[str]]) -> Iterator[Cells]:
    for row in rows:
        if any(row):
            if len(row) != len(header):
                raise BillUnreadable(f"it has {len(row)} cells, and there are {len(header)} columns")
            yield dict(zip(header, row, strict=True))


def _from_json(file: TextIO, known: list[BillFormat]) -> tuple[BillFormat, Bill]:
    text = file.read(_JSON_CHARACTERS_MAX + 1)
    if len(text) > _JSON_CHARACTERS_MAX:
        raise BillUnreadable(f"it has more than {_JSON_CHARACTERS_MAX:,} characters: give its pages one by one")
    try:
        document = json.loads(text.lstrip("\ufeff"), parse_float=Decimal, parse_constant=_no_number)
    except ValueError as error:
        raise BillUnreadable(f"it begins like JSON and is none: {error}") from None
    pages = cast("list[Any]", document if isinstance(document, list) else [document])
    members = _members(pages)
    for each in known:
        if each.is_json and each.columns <= members:
            return each, each.read(pages)
    raise _unknown(f"JSON with {', '.join(sorted(members)) or 'no results'}", known)


def _unknown(found: str, known: list[BillFormat]) -> BillUnreadable:
    expected = "\n".join(f"  {each.described}" for each in known)
    return BillUnreadable(f"it has {found}. Expected one of:\n{expected}")


def _members(pages: list[Any]) -> set[str]:
    """The names in the objects of the pages' data. A bill without any charge has them too."""
    return {name for item in _data(pages) for name in item}


def _data(pages: list[Any]) -> Iterator[dict[str, Any]]:
    for page in pages:
        if not isinstance(page, dict):
            raise BillUnreadable("it is JSON, but no page with `data`")
        yield from _list(page.get("data", []))


def _list(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in cast("list[Any]", value)):
        raise BillUnreadable("it is JSON, but no list of objects where one is expected")
    return cast("list[dict[str, Any]]", value)


# ---------------------------------------------------------------- values


def _usd(text: Any, where: str) -> Fraction:
    """Exact. A number in JSON is an int or, by the way that it is read, a Decimal."""
    if isinstance(text, bool) or not isinstance(text, str | int | Decimal):
        raise BillUnreadable(f"{where}: {text!r} is no amount")
    try:
        amount = Decimal(text.strip() or "0") if isinstance(text, str) else Decimal(text)
    except InvalidOperation:
        raise BillUnreadable(f"{where}: {_shown(text)} is no amount") from None
    if not amount.is_finite() or (amount and not _is_readable(amount)):
        raise BillUnreadable(f"{where}: {_shown(text)} is no amount")
    return Fraction(amount)


def _shown(value: Any) -> str:
    return repr(str(value)[:_SHOWN_MAX])


def _is_readable(amount: Decimal) -> bool:
    return abs(amount.adjusted()) <= _DIGITS_MAX and len(amount.as_tuple().digits) <= 2 * _DIGITS_MAX


def _no_number(word: str) -> Decimal:
    raise BillUnreadable(f"{word} is no amount")


def _in_dollars(currency: Any, where: str) -> None:
    if str(currency or "usd").strip().lower() != "usd":
        raise BillUnreadable(f"{where}: it is in {currency}, and Paymaster's books are in US dollars")


def _time(text: Any, where: str) -> datetime:
    """Unix seconds, or ISO 8601; without a zone it is UTC."""
    try:
        if isinstance(text, int) or str(text).strip().isdigit():
            at = datetime.fromtimestamp(int(text), UTC)
        else:
            at = datetime.fromisoformat(str(text).strip().removesuffix(" UTC"))
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise BillUnreadable(f"{where}: {_shown(text)} is no time") from None
    if at.year not in _YEARS:
        raise BillUnreadable(f"{where}: {_shown(text)} is no time of a bill")
    return at


def _bill(charges: Iterable[Charge], buckets: Iterable[tuple[datetime, datetime]] = (), *, more: bool = False) -> Bill:
    """`buckets`: the times that the file says it covers. Without any, the days from its first charge to its last."""
    sums: dict[tuple[date, str], Fraction] = {}
    for charge in charges:  # added up at once: a file may have a line for each call
        at = (charge.day, charge.item)
        sums[at] = sums.get(at, Fraction(0)) + charge.usd
    days = {day for day, _ in sums}
    partial: dict[date, str] = {}
    for start, end in buckets:
        midnight = datetime(start.year, start.month, start.day, tzinfo=UTC)
        days.add(start.date())
        if start != midnight or end < midnight + _DAY:
            partial[start.date()] = f"the bill has it from {start:%H:%M} to {min(end, midnight + _DAY):%H:%M} UTC"
    if not days:
        return Bill((), (), {}, more)
    first, last = min(days), max(days)
    every = tuple(first + number * _DAY for number in range((last - first).days + 1))
    return Bill(tuple(Charge(*at, usd) for at, usd in sums.items()), every, partial, more)


# ---------------------------------------------------------------- OpenAI


def _openai_json(pages: list[Any]) -> Bill:
    """Pages of `GET /v1/organization/costs`, best with `group_by=line_item`."""
    charges: list[Charge] = []
    buckets: list[tuple[datetime, datetime]] = []
    for bucket in _data(pages):
        start = _time(bucket.get("start_time"), "start_time")
        buckets.append((start, _time(bucket.get("end_time", int((start + _DAY).timestamp())), "end_time")))
        for result in _list(bucket.get("results", [])):
            amount = result.get("amount")
            if not isinstance(amount, dict):
                raise BillUnreadable("its results have no `amount`: it is of the usage API, and not of the costs API")
            _in_dollars(amount.get("currency"), "amount.currency")
            item = _line_item(result.get("line_item"))
            charges.append(Charge(start.date(), item, _usd(amount.get("value"), "amount.value")))
    return _bill(charges, buckets, more=_says_more(pages))


def _openai_csv(rows: Iterable[Cells]) -> Bill:
    """The export of costs on the usage dashboard. A day without costs has a row without an amount."""
    charges: list[Charge] = []
    buckets: list[tuple[datetime, datetime]] = []
    for row in rows:
        start = _time(row["start_time"], "start_time")
        buckets.append((start, _time(row.get("end_time") or int((start + _DAY).timestamp()), "end_time")))
        if row["amount_value"].strip():
            _in_dollars(row.get("amount_currency"), "amount_currency")
            charges.append(
                Charge(start.date(), _line_item(row.get("line_item")), _usd(row["amount_value"], "amount_value"))
            )
    return _bill(charges, buckets)


def _line_item(text: Any) -> str:
    """Of `gpt-4o-2024-08-06, input` the model."""
    return str(text or "").split(",")[0].strip()


def _says_more(pages: list[Any]) -> bool:
    return bool(pages) and bool(pages[-1].get("has_more"))


# ---------------------------------------------------------------- Anthropic


def _anthropic_json(pages: list[Any]) -> Bill:
    """Pages of `GET /v1/organizations/cost_report`, best with `group_by[]=description`. Amounts are in cents."""
    charges: list[Charge] = []
    buckets: list[tuple[datetime, datetime]] = []
    for bucket in _data(pages):
        start = _time(bucket.get("starting_at"), "starting_at")
        buckets.append((start, _time(bucket.get("ending_at"), "ending_at")))
        for result in _list(bucket.get("results", [])):
            _in_dollars(result.get("currency"), "currency")
            item = str(result.get("model") or result.get("cost_type") or "")
            charges.append(Charge(start.date(), item, _usd(result.get("amount"), "amount") / 100))
    return _bill(charges, buckets, more=_says_more(pages))


def _anthropic_csv(rows: Iterable[Cells]) -> Bill:
    """The export of the console's cost page."""
    return _bill(
        Charge(
            _time(row["usage_date_utc"], "usage_date_utc").date(),
            (row["model"] or row.get("cost_type") or "").strip(),
            _usd(row["cost_usd"], "cost_usd"),
        )
        for row in rows
    )


# ---------------------------------------------------------------- OpenRouter


def _openrouter_json(pages: list[Any]) -> Bill:
    """`GET /api/v1/activity`: completed days. What a key of one's own cost elsewhere is not OpenRouter's bill."""
    return _bill(
        Charge(
            _time(item.get("date"), "date").date(),
            str(item.get("model_permaslug") or item.get("model") or ""),
            _usd(item.get("usage"), "usage"),
        )
        for item in _data(pages)
    )


def _openrouter_csv(rows: Iterable[Cells]) -> Bill:
    """The export of the activity page: a row for each generation."""
    return _bill(
        Charge(
            _time(row["created_at"], "created_at").date(), row["model_permaslug"], _usd(row["cost_total"], "cost_total")
        )
        for row in rows
    )


# ---------------------------------------------------------------- Azure


_AZURE_MODELS = "microsoft.cognitiveservices"


def _azure_csv(rows: Iterable[Cells]) -> Bill:
    """An export of cost and usage details, of an Enterprise or a Customer Agreement: the lines of AI services alone."""
    charges: list[Charge] = []
    for row in rows:
        if row["consumedservice"].strip().lower() == _AZURE_MODELS:
            charges.append(Charge(_azure_day(row["date"]), row["metername"].strip(), _azure_usd(row)))
    return _bill(charges)


def _azure_usd(row: Cells) -> Fraction:
    """A Customer Agreement has the cost in US dollars beside that in the currency of the bill."""
    if row.get("costinusd", "").strip():
        return _usd(row["costinusd"], "costInUsd")
    _in_dollars(row.get("billingcurrency") or row.get("billingcurrencycode"), "billingCurrency")
    return _usd(row["costinbillingcurrency"], "costInBillingCurrency")


def _azure_day(text: str) -> date:
    """Written 11/30/2026, or as ISO 8601."""
    with suppress(ValueError):
        text = datetime.strptime(text.strip(), "%m/%d/%Y").replace(tzinfo=UTC).isoformat()
    return _time(text, "date").date()


def _csv(name: str, provider: str, read: Callable[[Any], Bill], *columns: str) -> BillFormat:
    return BillFormat(name, provider, frozenset(columns), read, is_json=False)


def _json(name: str, provider: str, read: Callable[[Any], Bill], *members: str) -> BillFormat:
    return BillFormat(name, provider, frozenset(members), read, is_json=True)


FORMATS = (
    _csv("openai-csv", "openai", _openai_csv, "start_time", "amount_value", "line_item"),
    _json("openai-json", "openai", _openai_json, "start_time", "end_time", "results"),
    _csv("anthropic-csv", "anthropic", _anthropic_csv, "usage_date_utc", "model", "cost_usd"),
    _json("anthropic-json", "anthropic", _anthropic_json, "starting_at", "ending_at", "results"),
    _csv("openrouter-csv", "openrouter", _openrouter_csv, "created_at", "model_permaslug", "cost_total"),
    _json("openrouter-json", "openrouter", _openrouter_json, "date", "model", "usage"),
    _csv("azure-csv", "azure", _azure_csv, "date", "metername", "consumedservice", "costinbillingcurrency"),
)
"""All that are known, in the order in which they are tried."""
