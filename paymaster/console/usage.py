"""What was spent: the latest calls, and charts of a span of time."""

from datetime import UTC, datetime, timedelta

from markupsafe import Markup

from paymaster.console.opened import Opened
from paymaster.console.pages import View
from paymaster.gateway.admin.problems import Problem
from paymaster.gateway.admin.site import AdminSite
from paymaster.observability.temporal_links import TemporalLinks
from paymaster.reports.calls import calls_report
from paymaster.reports.page import sections
from paymaster.reports.page_figures import page_figures
from paymaster.reports.usage import Scope
from paymaster.values.budget_path import check_budget_path

_CALLS_SHOWN = 100
_CAPS_SHOWN = 30
SPANS = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}
"""Of time that pages may show, until now."""
_SPAN_DEFAULT = "24h"


class UsagePages:
    def __init__(self, site: AdminSite, links: TemporalLinks) -> None:
        self._administrated = site
        self._links = links

    async def calls(self, opened: Opened) -> View:
        span, since = _span(opened)
        before = _time(opened.query.get("before"))
        engine, ledger = self._administrated.engine, self._administrated.ledger.name
        found = await calls_report(engine, ledger=ledger, since=since, before=before, limit=_CALLS_SHOWN + 1)
        calls = found[::-1][:_CALLS_SHOWN]
        shows = {
            "span": span,
            "spans": tuple(SPANS),
            "calls": [(each, self._links.workflow(each.workflow_id)) for each in calls],
            "before": before,
            "next": calls[-1].granted_at.isoformat() if len(found) > _CALLS_SHOWN else None,
            "is_live": before is None,
        }
        return View("calls.html", shows)

    async def usage(self, opened: Opened) -> View:
        span, since = _span(opened)
        budget = opened.query.get("budget", "").strip()
        try:
            scope = Scope(since=since, until=None, budget=check_budget_path(budget) if budget else None, run=None)
        except ValueError as error:
            raise Problem(400, "bad_request", str(error)) from None
        engine, ledger = self._administrated.engine, self._administrated.ledger.name
        figures = await page_figures(engine, ledger, scope)
        charts = sections(figures, [] if budget else await self._administrated.copy.short(0, _CAPS_SHOWN))
        shows = {"span": span, "spans": tuple(SPANS), "budget": budget, "charts": Markup(charts)}  # noqa: S704 - escaped there
        return View("usage.html", shows)


def _span(opened: Opened) -> tuple[str, datetime]:
    """Its name, and when it began."""
    asked = opened.query.get("span", "")
    span = asked if asked in SPANS else _SPAN_DEFAULT
    return span, opened.now - SPANS[span]


def _time(text: str | None) -> datetime | None:
    """None: there is none, or it is none."""
    try:
        found = None if text is None else datetime.fromisoformat(text)
        return None if found is None else found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):  # the second for what in UTC is before the year 1, or after 9999
        return None
