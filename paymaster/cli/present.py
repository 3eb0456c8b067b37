"""What commands print, each kind in one way: data on stdout, everything else on stderr.

Other packages are imported inside the functions: `paymaster --help` needs none of them.
"""

import csv
import json
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.redaction import redact

if TYPE_CHECKING:
    from pydantic import JsonValue
    from rich.console import RenderableType
    from rich.table import Table

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout and nothing else.")]

Styled = str | tuple[str, str]
"""A text, or one with a style, which a terminal shows that has colours."""

_TABLE_WIDTH_MAX = 240
_STARTS_A_FORMULA = re.compile(r"[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")  # the last four are wide forms of the first
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What a terminal would obey, and marks that turn the order of what is beside them around."""


def print_json(document: "JsonValue") -> None:
    """The only thing that a command with `--json` writes to stdout. ASCII only: no terminal or pipe can spoil it."""
    sys.stdout.write(redact(json.dumps(document, indent=2)) + "\n")


def print_text(text: str) -> None:
    """Text as it is, to stdout; without control characters if it goes to a terminal, which would obey them."""
    sys.stdout.write((printable(text) if sys.stdout.isatty() else redact(text)) + "\n")


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = ()) -> None:
    """A table on stdout. `right` names the columns that are aligned to the right: numbers, which are never wrapped.

    Names are, on a terminal that is narrower than the table; a file or pipe gets each row on one line.
    """
    print_renderable(table_of(headers, rows, right=right))


def table_of(headers: Sequence[str], rows: "Sequence[Sequence[Styled]]", *, right: Collection[str] = ()) -> "Table":
    """The table that `print_table` prints."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for header in headers:
        is_number = header in right
        table.add_column(header, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for row in rows:
        # Text and not str: names come from others, and rich would read "[…]" in them as markup.
        cells = ((cell, "") if isinstance(cell, str) else cell for cell in row)
        table.add_row(*(Text(printable(text), style) for text, style in cells))
    return table


def print_renderable(what: "RenderableType") -> None:
    """What rich draws, on stdout."""
    from rich.console import Console

    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = _TABLE_WIDTH_MAX
    with console.capture() as captured:  # rich would end the process itself where nobody reads
        console.print(what)
    sys.stdout.write(captured.get())


def print_csv(headers: Sequence[str], rows: Iterable[Sequence[str | int | None]]) -> None:
    """CSV by RFC 4180 on stdout; None is an empty cell. What others named goes through `csv_text` before."""
    writer = csv.writer(sys.stdout, lineterminator="\r\n")
    writer.writerow(headers)
    writer.writerows(rows)


def csv_text(text: str) -> str:
    """The text as a spreadsheet shows it: one that it would calculate begins with an apostrophe instead."""
    text = text.replace("\x00", "\ufffd")
    return f"'{text}" if _STARTS_A_FORMULA.match(text.lstrip(" \u00a0\ufeff\n")) else text


def print_checks(checks: Iterable[tuple[str, bool, str]]) -> None:
    """A line on stdout for each thing that was looked at: its name, whether it is in order, and what was found."""
    for name, ok, detail in checks:
        print_line(f"{'ok' if ok else 'PROBLEM':8} {name}: {detail}")


def print_styled(*parts: Styled) -> None:
    """A line on stdout. A part with a style has it on a terminal that shows colours, unless NO_COLOR is set."""
    from rich.console import Console
    from rich.text import Text

    line = Text()
    for part in parts:
        text, style = (part, "") if isinstance(part, str) else part
        line.append(printable(text), style)
    console = Console(file=sys.stdout)
    with console.capture() as captured:
        console.print(line, soft_wrap=True)
    sys.stdout.write(captured.get())


def print_note(message: str) -> None:
    """For the person at the terminal: on stderr."""
    sys.stderr.write(printable(message) + "\n")


def print_line(message: str) -> None:
    """A line of an answer for people, on stdout."""
    sys.stdout.write(printable(message) + "\n")
    sys.stdout.flush()  # in a pipe, too, lines come when they are true, and in order with those on stderr


def print_new_key(text: str) -> None:
    """An answer on stdout that has a key which was just made: the only one from which keys are not taken out."""
    sys.stdout.write(text + "\n")


def printable(text: str) -> str:
    """The text without known keys and without the control characters that a terminal would obey."""
    return _CONTROL.sub("\ufffd", redact(text))


def usd(nanos: int) -> str:
    """Money in JSON: US dollars as exact text with nine decimals, "0.000123000"."""
    from paymaster.values.money import nanos_to_usd

    return f"{nanos_to_usd(nanos):.9f}"


def iso(at: datetime | None) -> str | None:
    """A time in JSON, in ISO 8601. None stays None."""
    return None if at is None else at.isoformat(timespec="seconds")


def utc(at_ms: int | None) -> str | None:
    """A time in JSON, of milliseconds since 1970. None stays None."""
    return None if at_ms is None else iso(datetime.fromtimestamp(at_ms / 1000, UTC))
