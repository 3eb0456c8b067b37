"""What a benchmark measured, and the table of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    what: str
    value: float
    unit: str = ""
    reach: tuple[Literal["≥", "≤"], float] | None = None
    """What it should be. None: for orientation."""
    detail: str = ""
    """What the figure was made of."""

    @property
    def reached(self) -> bool | None:
        if self.reach is None:
            return None
        sign, bound = self.reach
        return self.value >= bound if sign == "≥" else self.value <= bound


def table(figures: Sequence[Figure]) -> str:
    """One line a figure: what, value, what it should be, and what it was made of."""
    rows = [(each.what, f"{_number(each.value)} {each.unit}".rstrip(), _reach(each), each.detail) for each in figures]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    return "".join(
        f"{what:<{widths[0]}}  {value:>{widths[1]}}  {reach:<{widths[2]}}  {detail}".rstrip() + "\n"
        for what, value, reach, detail in rows
    )


def as_data(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    return [asdict(each) | {"reached": each.reached} for each in figures]


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least this part of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _reach(figure: Figure) -> str:
    if figure.reach is None:
        return ""
    sign, bound = figure.reach
    return f"{'✓' if figure.reached else '✗'} {sign} {bound:,g}"
