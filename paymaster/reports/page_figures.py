"""What the usage page and the console's page show of the stored usage, as it is read."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.reports.trends import UsageTrends, usage_trends
from paymaster.reports.usage import Scope, UsageRow, usage_report, usage_report_with_total


class PageFigures(NamedTuple):
    total: UsageRow
    models: Sequence[UsageRow]
    """By service and model."""
    budgets: Sequence[UsageRow]
    trends: UsageTrends


async def page_figures(engine: AsyncEngine, ledger: str, scope: Scope) -> PageFigures:
    models, total = await usage_report_with_total(engine, ledger=ledger, by=["service", "model"], **scope)
    budgets = await usage_report(engine, ledger=ledger, by=["budget"], **scope)
    return PageFigures(total, models, budgets, await usage_trends(engine, ledger=ledger, **scope))
