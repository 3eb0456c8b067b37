"""The usage page: whole and harmless with nothing, with hostile names, with huge numbers and with thousands of rows."""

from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from paymaster.messages import AccountStatus, WindowStatus
from paymaster.reports.page import render
from paymaster.reports.page_figures import PageFigures
from paymaster.reports.trends import CostPoint, ErrorCount, Latency, UsageTrends
from paymaster.reports.usage import UsageRow
from paymaster.values.money import NANOS_MAX

HOSTILE = "</title><script>alert(1)</script><img src=x onerror='alert(1)'>\"'&"
START = datetime(2026, 1, 31, tzinfo=UTC)
NOTHING = UsageRow(
    calls=0,
    attempts=0,
    input_tokens=None,
    cached_input_tokens=None,
    output_tokens=None,
    cost_nanos=0,
    unconfirmed_nanos=0,
)
NO_TRENDS = UsageTrends(interval="hour", costs=(), errors=(), latencies=())


class Tags(HTMLParser):
    """The tags of a page, and whether each is closed where it was opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in ("meta", "line"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)


def page(
    total: UsageRow = NOTHING,
    rows: tuple[UsageRow, ...] = (),
    trends: UsageTrends = NO_TRENDS,
    accounts: tuple[AccountStatus, ...] | None = None,
    title: str = "Usage",
) -> str:
    html = render(
        title=title,
        covers=title,
        made_at=START,
        figures=PageFigures(total, rows, rows, trends),
        accounts=accounts,
    )
    tags = Tags(html)
    assert not tags.seen & {"script", "img", "link", "iframe"}
    assert not [name for name in tags.attributes if name.startswith("on") or name in ("src", "href")]
    lowered = html.lower()
    assert not [bad for bad in ("nan", "inf%", "infinity", "none<", "-0.00%") if bad in lowered.replace("p90", "")]
    return html


def account(name: str, cap: int | None, posted: int, pending: int = 0) -> AccountStatus:
    window = WindowStatus(window="day", cap_nanos=cap, posted_nanos=posted, pending_nanos=pending, ends_at_ms=None)
    return AccountStatus(account=name, parked=0, windows=(window,))


def test_without_any_usage_each_part_says_so() -> None:
    html = page(accounts=())
    for words in ("Nothing was spent.", "No account has a cap.", "No calls.", "No attempt failed."):
        assert words in html
    assert ">?<" not in html, "of nothing the tokens are known"
    assert "The ledger did not answer" in page(accounts=None)


def test_what_others_named_is_shown_and_does_nothing() -> None:
    row = NOTHING.model_copy(update={"service": HOSTILE, "model": HOSTILE, "budget": HOSTILE, "calls": 1})
    trends = UsageTrends(
        interval="day",
        costs=(CostPoint(start=START, service=HOSTILE, cost_nanos=1),),
        errors=(ErrorCount(service=HOSTILE, error_class=HOSTILE, attempts=1),),
        latencies=(Latency(service=HOSTILE, model=HOSTILE, attempts=1, p50_ms=1, p90_ms=1, p99_ms=1),),
    )
    html = page(row, (row,), trends, (account(HOSTILE, 1, 1),), title=HOSTILE)
    assert html.count("&lt;script&gt;") >= 8
    assert "default-src 'none'" in html


@pytest.mark.parametrize("interval", ["hour", "day", "month", "year"])
def test_intervals_without_cost_are_there_and_huge_and_zero_amounts_are_drawn(interval: str) -> None:
    costs = tuple(
        CostPoint(start=START.replace(day=1) + timedelta(days=366 * n), service=f"s{n}", cost_nanos=amount)
        for n, amount in enumerate((NANOS_MAX, 0, 1))
    )
    trends = UsageTrends.model_validate({"interval": interval, "costs": costs, "errors": (), "latencies": ()})
    total = NOTHING.model_copy(update={"cost_nanos": NANOS_MAX, "input_tokens": 10**30})
    caps = (account("a", 0, 0), account("b", 1, NANOS_MAX), account("c", NANOS_MAX, 0, 1), account("d", None, 5))
    html = page(total, (total,), trends, caps)
    assert html.count("</title></rect>") == 2
    assert "2026-01" in html or "01-01 00:00" in html or ">2026<" in html


def test_thousands_of_rows_make_a_short_page() -> None:
    rows = tuple(NOTHING.model_copy(update={"budget": f"b{n}", "cost_nanos": n}) for n in range(5_000))
    costs = tuple(CostPoint(start=START, service=f"s{n}", cost_nanos=n) for n in range(1_000))
    errors = tuple(ErrorCount(service=f"s{n}", error_class="e", attempts=1) for n in range(1_000))
    html = page(NOTHING, rows, UsageTrends(interval="hour", costs=costs, errors=errors, latencies=()))
    assert "and 4,970 more" in html
    assert html.count("</title></rect>") == 8
    assert "other" in html
    assert len(html) < 100_000
