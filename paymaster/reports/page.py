"""The usage report as one HTML page: charts that are drawn here, and nothing that is loaded from anywhere.

Whatever others named (budgets, models, metadata, errors) is escaped where it is written, and the page's own policy
forbids scripts and requests.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from html import escape

from paymaster.bars import RED, html_bar, html_parts, used_share
from paymaster.messages import AccountStatus
from paymaster.reports.page_figures import PageFigures
from paymaster.reports.trends import CostPoint, ErrorCount, Latency, UsageTrends
from paymaster.reports.usage import UsageRow
from paymaster.values.money import format_usd

_COLOURS = ("#3b6fd4", "#e0803a", "#3aa676", "#b5539c", "#c9a227", "#5aa9c9", "#c5504b", "#8a8f98")
"""For as many services, the largest first; the last one is for all others together."""
_ROWS_MAX = 30
_POINTS_MAX = 800
_WIDTH, _HEIGHT = 920, 260
_LEFT, _BOTTOM, _TOP = 84, 26, 10
CHART_STYLE = """
.figures { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0; }
.figures div { background: var(--card); border-radius: 8px; padding: 10px 16px; min-width: 110px; }
.figures b { display: block; font-size: 20px; overflow-wrap: anywhere; }
.chart { width: 100%; height: auto; display: block; } .chart line { stroke: var(--line); }
.chart text { fill: var(--soft); font: 12px system-ui, sans-serif; }
.wide { overflow-x: auto; }
.legend span { display: inline-block; margin: 4px 14px 0 0; }
.legend svg { width: 11px; height: 11px; border-radius: 2px; margin-right: 5px; }
.bar { background: var(--line); border-radius: 4px; height: 12px; width: 100%; min-width: 80px; margin-top: 5px;
  display: block; overflow: hidden; }
"""
"""For the charts, wherever they stand: --ink, --soft, --line and --card are that page's colours."""
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #667; --line: #d8dce2; --paper: #fff; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #9aa2ad; --line: #3a4048; --paper: #15181c; --card: #1e2227; }
}
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 960px; padding: 24px 20px 60px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 34px 0 8px; }
p.soft, td.soft, .soft { color: var(--soft); } p { margin: 4px 0; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; color: var(--soft); font-weight: 500; }
td, th { padding: 4px 10px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td { overflow-wrap: anywhere; } td.n, th.n { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
"""


def render(
    *,
    title: str,
    covers: str,
    made_at: datetime,
    figures: PageFigures,
    accounts: Sequence[AccountStatus] | None,
) -> str:
    """The page. `accounts` None: the ledger did not answer, so caps are not known."""
    return "".join(
        (
            "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
            "<meta name='viewport' content='width=device-width'>"
            f"<title>{escape(title)}</title><style>{_STYLE}{CHART_STYLE}</style></head><body>"
            f"<h1>{escape(title)}</h1><p class='soft'>{escape(covers)} · made {made_at:%Y-%m-%d %H:%M} UTC</p>",
            sections(figures, accounts),
            "</body></html>\n",
        )
    )


def sections(figures: PageFigures, accounts: Sequence[AccountStatus] | None) -> str:
    """The figures and charts alone, as HTML, for a page that has `CHART_STYLE`."""
    total, models, budgets, trends = figures
    return "".join(
        (
            _figures(total),
            "<h2>Cost over time, by service</h2>",
            _cost_chart(trends),
            "<h2>Budgets against their caps</h2>",
            _caps(accounts),
            "<h2>Cost by model</h2>",
            _costs(("service", "model"), [((row.service or "", row.model or ""), row) for row in models]),
            "<h2>Cost by budget</h2>",
            _costs(("budget",), [((row.budget or "",), row) for row in budgets]),
            "<h2>Failed attempts, by error class</h2>",
            _errors(trends.errors, total.attempts),
            "<h2>Latency of answered attempts</h2>",
            _latencies(trends.latencies),
        )
    )


def _figures(total: UsageRow) -> str:
    figures = {
        "cost": format_usd(total.cost_nanos),
        "of it unconfirmed": format_usd(total.unconfirmed_nanos),
        "calls": f"{total.calls:,}",
        "attempts": f"{total.attempts:,}",
        "input tokens": _count(total.input_tokens if total.attempts else 0),
        "output tokens": _count(total.output_tokens if total.attempts else 0),
    }
    return (
        f"<div class='figures'>{''.join(f'<div><b>{value}</b>{name}</div>' for name, value in figures.items())}</div>"
    )


def _cost_chart(trends: UsageTrends) -> str:
    if not trends.costs:
        return _nothing("Nothing was spent.")
    services = _largest(trends.costs)
    starts = _intervals(trends)
    stacks: dict[datetime, dict[str, int]] = {start: {} for start in starts}
    for point in trends.costs:
        name = point.service if point.service in services else "other"
        stack = stacks.setdefault(point.start, {})
        stack[name] = stack.get(name, 0) + point.cost_nanos
    highest = max(max((sum(stack.values()) for stack in stacks.values()), default=0), 1)
    width = (_WIDTH - _LEFT) / len(stacks)
    gap = min(2.0, width * 0.15)
    names = [*services, *(["other"] if any("other" in stack for stack in stacks.values()) else [])]
    colours = dict(zip(names, [*_COLOURS[: len(services)], _COLOURS[-1]], strict=False))
    parts = [_axis(highest)]
    for number, (start, stack) in enumerate(sorted(stacks.items())):
        x, y = _LEFT + number * width, float(_HEIGHT - _BOTTOM)
        for name in names:
            if nanos := stack.get(name, 0):
                height = nanos / highest * (_HEIGHT - _BOTTOM - _TOP)
                y -= height
                label = f"{_label(start, trends.interval)} · {name} · {format_usd(nanos)}"
                parts.append(
                    f"<rect x='{x + gap / 2:.2f}' y='{y:.2f}' width='{max(width - gap, 0.3):.2f}' "
                    f"height='{height:.2f}' fill='{colours[name]}'><title>{escape(label)}</title></rect>"
                )
    ordered = sorted(stacks)
    for share, anchor in ((0.0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1.0, "end")):
        start = ordered[round(share * (len(ordered) - 1))]
        x = _LEFT + share * (_WIDTH - _LEFT)
        parts.append(
            f"<text x='{x:.0f}' y='{_HEIGHT - 8}' text-anchor='{anchor}'>{_label(start, trends.interval)}</text>"
        )
        if len(ordered) == 1:
            break
    legend = "".join(f"<span>{_key(colours[name])}{escape(name)}</span>" for name in names)
    return f"{_svg(parts, highest)}<div class='legend'>{legend}</div>"


def _svg(parts: Sequence[str], highest: int) -> str:
    words = f"Cost over time, by service; at most {format_usd(highest)} in one interval"
    return f"<svg class='chart' viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='{words}'>{''.join(parts)}</svg>"


def _key(colour: str) -> str:
    return f"<svg viewBox='0 0 1 1' aria-hidden='true'><rect width='1' height='1' fill='{colour}'/></svg>"


def _largest(costs: Iterable[CostPoint]) -> list[str]:
    """The services with a colour of their own."""
    sums: dict[str, int] = {}
    for point in costs:
        sums[point.service] = sums.get(point.service, 0) + point.cost_nanos
    ordered = sorted(sums, key=lambda name: (-sums[name], name))
    return ordered if len(ordered) <= len(_COLOURS) else ordered[: len(_COLOURS) - 1]


def _intervals(trends: UsageTrends) -> list[datetime]:
    """All from the first to the last, those without any cost too, unless these are too many to be seen."""
    first, last = trends.costs[0].start, max(point.start for point in trends.costs)
    starts = [first]
    while starts[-1] < last and len(starts) < _POINTS_MAX:
        at = starts[-1]
        if trends.interval in ("hour", "day"):
            starts.append(at + (timedelta(hours=1) if trends.interval == "hour" else timedelta(days=1)))
        elif trends.interval == "month":
            starts.append(datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC))
        else:
            starts.append(datetime(at.year + 1, 1, 1, tzinfo=UTC))
    return starts


def _label(start: datetime, interval: str) -> str:
    return start.strftime({"hour": "%m-%d %H:00", "day": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}[interval])


def _axis(highest: int) -> str:
    lines: list[str] = []
    for share in (0, 0.5, 1):
        y = _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)
        lines.append(
            f"<line x1='{_LEFT}' x2='{_WIDTH}' y1='{y:.1f}' y2='{y:.1f}'/>"
            f"<text x='{_LEFT - 8}' y='{y + 4:.1f}' text-anchor='end'>{_short_usd(highest * share)}</text>"
        )
    return "".join(lines)


def _caps(accounts: Sequence[AccountStatus] | None) -> str:
    if accounts is None:
        return _nothing("The ledger did not answer, so its caps are not known.")
    capped = sorted(
        (
            (account, window, cap, used)
            for account in accounts
            for window in account.windows
            if (cap := window.cap_nanos) is not None and (used := used_share(window)) is not None
        ),
        key=lambda each: (-each[3], each[0].account, each[1].window),
    )
    if not capped:
        return _nothing("No account has a cap.")
    rows = [
        (
            escape(account.account),
            window.window,
            html_bar(window),
            f"{used:.0%}",
            format_usd(window.posted_nanos + window.pending_nanos),
            format_usd(cap),
            str(account.parked),
        )
        for account, window, cap, used in capped[:_ROWS_MAX]
    ]
    return _table(("account", "window", "used", "", "posted and held", "cap", "parked"), rows, right=3) + _more(capped)


def _costs(headers: Sequence[str], rows: Sequence[tuple[tuple[str, ...], UsageRow]]) -> str:
    if not rows:
        return _nothing("No calls.")
    ordered = sorted(rows, key=lambda each: (-each[1].cost_nanos, each[0]))
    cells = [
        (
            *(escape(name) for name in names),
            f"{row.calls:,}",
            f"{row.attempts:,}",
            _count(row.input_tokens),
            _count(row.output_tokens),
            format_usd(row.cost_nanos),
        )
        for names, row in ordered[:_ROWS_MAX]
    ]
    return _table((*headers, "calls", "attempts", "input", "output", "cost"), cells, right=len(headers)) + _more(
        ordered
    )


def _errors(errors: Sequence[ErrorCount], attempts: int) -> str:
    if not errors:
        return _nothing("No attempt failed.")
    most = max(error.attempts for error in errors)
    cells = [
        (
            escape(error.service),
            escape(error.error_class),
            html_parts([(error.attempts / most, RED)]),
            f"{error.attempts:,}",
            f"{error.attempts / attempts:.1%}" if attempts else "",
        )
        for error in errors[:_ROWS_MAX]
    ]
    return _table(("service", "error class", "", "attempts", "of all"), cells, right=3) + _more(errors)


def _latencies(latencies: Sequence[Latency]) -> str:
    if not latencies:
        return _nothing("No attempt was answered.")
    ordered = sorted(latencies, key=lambda each: (-each.attempts, each.service, each.model))
    longest = max(max(each.p99_ms for each in ordered[:_ROWS_MAX]), 1.0)
    cells = [
        (
            escape(f"{each.service}/{each.model}"),
            html_parts(
                [
                    (each.p50_ms / longest, "#3b6fd4"),
                    ((each.p90_ms - each.p50_ms) / longest, "#5aa9c9"),
                    ((each.p99_ms - each.p90_ms) / longest, "#c9a227"),
                ]
            ),
            *(f"{value / 1000:,.2f} s" for value in (each.p50_ms, each.p90_ms, each.p99_ms)),
            f"{each.attempts:,}",
        )
        for each in ordered[:_ROWS_MAX]
    ]
    headers = ("service/model", "p50 · p90 · p99", "p50", "p90", "p99", "attempts")
    return _table(headers, cells, right=2) + _more(ordered)


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: int) -> str:
    """`rows` is HTML already. The columns from number `right` on are numbers."""

    def line(tag: str, cells: Sequence[str]) -> str:
        tags = (tag if cell else "td" for cell in cells)  # an empty heading is none
        return "".join(
            f"<{each} class='n'>{cell}</{each}>" if number >= right else f"<{each}>{cell}</{each}>"
            for number, (each, cell) in enumerate(zip(tags, cells, strict=True))
        )

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    # In a frame that scrolls, also by keyboard, where the page is narrower than the table.
    what = ", ".join(header for header in headers if header)
    table = f"<table><thead><tr>{line('th', headers)}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class='wide' tabindex='0' role='group' aria-label='{what}'>{table}</div>"


def _more(rows: Sequence[object]) -> str:
    return f"<p class='soft'>… and {len(rows) - _ROWS_MAX:,} more</p>" if len(rows) > _ROWS_MAX else ""


def _nothing(text: str) -> str:
    return f"<p class='soft'>{text}</p>"


def _count(tokens: int | None) -> str:
    return "?" if tokens is None else f"{tokens:,}"


def _short_usd(nanos: float) -> str:
    usd = nanos / 1e9
    units: Mapping[float, str] = {1e9: "B", 1e6: "M", 1e4: "k"}
    for unit, name in units.items():
        if usd >= unit:
            size = 1e3 if name == "k" else unit
            return f"${usd / size:,.4g}{name}"
    return f"${usd:,.4g}" if usd >= 0.001 or usd == 0 else f"${usd:.1e}"
