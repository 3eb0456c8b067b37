"""`paymaster usage --by kind`: what was paid for what."""

from typing import TYPE_CHECKING

from paymaster.cli.connection import open_database, tell_if_slow
from paymaster.cli.present import csv_text, print_csv, print_json, print_line, print_table, usd
from paymaster.cli.usage_pruned import lacks_what_is_pruned

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from pydantic import JsonValue

    from paymaster.reports.kinds import KindRow
    from paymaster.reports.usage import Scope
    from paymaster.settings import Settings


async def kinds_of(
    settings: "Settings", by: "Sequence[str]", scope: "Scope"
) -> "tuple[list[KindRow], datetime | None]":
    """The report, and before when it lacks what is pruned. `by` names its dimensions, the kind among them."""
    from paymaster.reports.kinds import KIND, kinds_report

    others = [name for name in by if name != KIND]
    async with open_database(settings) as engine, tell_if_slow("summing up what the stored attempts were paid for"):
        rows = await kinds_report(engine, ledger=settings.ledger.name, by=others, **scope)
        return rows, await lacks_what_is_pruned(engine, settings, scope)


def print_kinds(
    asked: "dict[str, JsonValue]", by: "Sequence[str]", rows: "Sequence[KindRow]", *, as_json: bool, as_csv: bool
) -> None:
    """`asked` is what was asked for, for programs."""
    if as_json:
        total: dict[str, JsonValue] = {"cost_usd": usd(sum(row.cost_nanos for row in rows))}
        print_json({**asked, "rows": [_figures(by, row) for row in rows], "total": total})
    elif as_csv:
        lines = (
            [*map(csv_text, _keys(by, row)), row.quantity, row.unit, usd(row.cost_nanos), row.cost_nanos]
            for row in rows
        )
        print_csv([*map(csv_text, by), "quantity", "unit", "cost_usd", "cost_nanos"], lines)
    elif rows:
        _print_table(by, rows)
    else:
        print_line("no usage is stored for this")


def _figures(by: "Sequence[str]", row: "KindRow") -> "dict[str, JsonValue]":
    keys: dict[str, JsonValue] = {name: row.keys.get(name, row.kind) for name in by}
    return {**keys, "quantity": row.quantity, "unit": row.unit, "cost_usd": usd(row.cost_nanos)}


def _print_table(by: "Sequence[str]", rows: "Sequence[KindRow]") -> None:
    from paymaster.values.money import format_usd

    lines = [
        [
            *_keys(by, row),
            "" if row.quantity is None else f"{row.quantity:,}",
            row.unit or "",
            format_usd(row.cost_nanos),
        ]
        for row in rows
    ]
    total = ["total", *[""] * (len(by) + 1), format_usd(sum(row.cost_nanos for row in rows))]
    print_table([*by, "quantity", "unit", "cost"], [*lines, total], right=["quantity", "cost"])


def _keys(by: "Sequence[str]", row: "KindRow") -> list[str]:
    return [row.keys.get(name, row.kind) or "" for name in by]
